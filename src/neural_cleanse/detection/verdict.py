"""From trigger sizes to a verdict in words: found, not found, or could not tell."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from neural_cleanse.detection.obstacles import obstacles
from neural_cleanse.detection.reasons import FOR_LONGER_SEARCH, Obstacle, Screened, Sizes, reason_of
from neural_cleanse.detection.shares import over_share
from neural_cleanse.detection.statistics.finalists import reference_test
from neural_cleanse.detection.statistics.outlier import (
    INDEX_THRESHOLD,
    MANY_LABELS,
    OVER_BASELINE,
    SCREEN_CLEAR_P,
    SCREEN_SHARE,
    OutlierTest,
    Prior,
    anomaly_index,
    detection_limit,
    outlier_test,
)
from neural_cleanse.results.records import (
    SCREENED_OUTCOMES,
    BelowLimit,
    LabelPair,
    Outcome,
    PaperRule,
    Recovered,
    Verdict,
)

MIN_LABELS, MIN_LABELS_OVER_BASELINE = 3, 2  # sizes under which there is no reference at all


@dataclass(frozen=True)
class Decision:
    """The verdict and what it rests on; numbers by label pair for those that have a size.

    `level` is the p-value at which a label was flagged; None where no p-value would have done. `but_for_limit`: nothing
    but a low detection limit forbids to call the model clean, whatever a longer search would change. `below_limit` is
    what one more label under the detection limit would have been.
    """

    verdict: Verdict
    reason: str
    flagged_pairs: tuple[LabelPair, ...]
    p_value: float | None
    detection_limit: float | None
    anomaly_index: Mapping[LabelPair, float]
    p_values: Mapping[LabelPair, float]
    paper_rule: PaperRule
    level: float | None
    but_for_limit: bool = False
    below_limit: BelowLimit = BelowLimit.FLAGGED

    @property
    def flagged(self) -> tuple[int, ...]:
        """The targets of the flagged pairs."""
        return tuple(sorted({pair.target for pair in self.flagged_pairs}))

    def in_doubt(self, doubt: str) -> "Decision":
        """The same where a doubt about the input forbids any verdict."""
        reason = f"{doubt.rstrip('.')}; {self.reason}"
        return replace(self, verdict=Verdict.INCONCLUSIVE, reason=reason, flagged_pairs=())


@dataclass(frozen=True)
class Baseline:
    """What sizes are compared with: those of a clean model, or the mean of several, and how far clean ones differ."""

    sizes: Mapping[LabelPair, float]
    prior: Prior = OVER_BASELINE


def decide(
    found: Sequence[Recovered],
    alpha: float,
    area: int,
    *,
    num_classes: int | None = None,
    baseline: Baseline | None = None,
    reference: frozenset[LabelPair] | None = None,
    share: float = 1.0,
) -> Decision:
    """The verdict on recovered triggers, for images of `area` pixels.

    `num_classes` is the number of the model's labels: one that was not searched is never called clean. Sizes are tested
    relative to those of `baseline`, if given. `reference` are labels drawn at random to compare the others with, where
    not all labels got the same steps. `share` is this test's of alpha: p-values are divided by it.
    """
    known = [(one.pair, one.size) for one in found if one.size is not None and one.outcome.has_size]
    sized = [(pair, size) for pair, size in known if baseline is None or pair in baseline.sizes]
    among = [size for pair, size in sized if reference is None or pair in reference]
    if len(among) < (MIN_LABELS if baseline is None else MIN_LABELS_OVER_BASELINE):
        return _too_few(len(among), num_classes or len(found))
    test = _of_share(share, _tested(sized, reference, baseline, len(found), alpha * share))
    screened = None
    if any(one.outcome in SCREENED_OUTCOMES for one in found):
        screened = Screened(alpha * SCREEN_SHARE, over_share(SCREEN_CLEAR_P, share))
    pairs, raw = [pair for pair, _ in sized], [size for _, size in sized]
    sizes = Sizes(
        found=found,
        area=area,
        test=test,
        small=[(pairs[index].target, raw[index]) for index in test.flagged],
        among=among,
        reference=reference,
        over_baseline=baseline is not None,
        missing=(num_classes or len(found)) - sum(one.outcome is not Outcome.NOT_SEARCHED for one in found),
        unmatched=[pair.target for pair, _ in known if pair not in pairs],
        limit=_screening_limit(test, raw, alpha * share) if screened and baseline is None else test.detection_limit,
        usual_limit=_usual_limit(test.detection_limit, sized, baseline),
        screened=screened,
    )
    # The paper's index is of raw sizes, also where ratios to a baseline's are tested.
    index = dict(zip(pairs, test.anomaly_index if baseline is None else anomaly_index(raw).tolist(), strict=True))
    return _decision(sizes, pairs, index, alpha)


def _decision(sizes: Sizes, pairs: Sequence[LabelPair], index: Mapping[LabelPair, float], alpha: float) -> Decision:
    """The verdict on sizes, those tested being of `pairs`."""
    test, in_the_way = sizes.test, obstacles(sizes)
    obstacle = next(iter(in_the_way), None)
    verdict = Verdict.INFECTED if sizes.small else Verdict.CLEAN
    if obstacle is not None:
        verdict = Verdict.INCONCLUSIVE
    for_screening = sizes.screened is not None and not sizes.over_baseline
    level: float | None = alpha
    if sizes.screened is not None:
        level = sizes.screened.flag_p if len(pairs) <= MANY_LABELS else None
    return Decision(
        verdict=verdict,
        reason=reason_of(obstacle, sizes),
        flagged_pairs=tuple(sorted(pairs[row] for row in test.flagged)) if verdict is Verdict.INFECTED else (),
        p_value=test.p_value,
        detection_limit=sizes.limit,
        anomaly_index=index,
        p_values=dict(zip(pairs, test.p_values, strict=True)),
        paper_rule=_paper_rule(index),
        level=level,
        below_limit=BelowLimit.SEARCHED_ON if for_screening and not sizes.small else BelowLimit.FLAGGED,
        but_for_limit={Obstacle.SIZES_DIFFER} == set(in_the_way) - FOR_LONGER_SEARCH,
    )


def _screening_limit(test: OutlierTest, sizes: Sequence[float], level: float) -> float | None:
    """The detection limit after screening, whose thresholds are others."""
    return detection_limit(sizes, test.flagged, level * SCREEN_SHARE if test.flagged else SCREEN_CLEAR_P)


def _usual_limit(
    limit: float | None, sized: Sequence[tuple[LabelPair, float]], baseline: Baseline | None
) -> float | None:
    """The detection limit of a label of median size in the baseline; that of the smallest is in the result."""
    if limit is None or baseline is None:
        return limit
    theirs = [baseline.sizes[pair] for pair, _ in sized]
    return limit * statistics.median(theirs) / min(theirs)


def _too_few(enough: int, num_labels: int) -> Decision:
    """The decision where sizes are too few for an outlier test."""
    few = f"only {enough} of {num_labels} labels have" if enough else f"none of {num_labels} labels has"
    reason = f"{few} a trigger size: too few to tell an outlier"
    nothing = PaperRule(INDEX_THRESHOLD, None, ())
    return Decision(
        verdict=Verdict.INCONCLUSIVE,
        reason=reason,
        flagged_pairs=(),
        p_value=None,
        detection_limit=None,
        anomaly_index={},
        p_values={},
        paper_rule=nothing,
        level=None,
    )


def _tested(
    sized: Sequence[tuple[LabelPair, float]],
    reference: frozenset[LabelPair] | None,
    baseline: Baseline | None,
    num_labels: int,
    level: float,
) -> OutlierTest:
    """The outlier test that fits what there is to compare with."""
    sizes = [size for _, size in sized]
    if reference is not None:
        return reference_test(sizes, [pair in reference for pair, _ in sized], num_labels, level)
    return outlier_test(sizes, level) if baseline is None else _against(baseline, sized, level)


def _paper_rule(index: Mapping[LabelPair, float]) -> PaperRule:
    """The rule of Wang et al. 2019 on the anomaly indices."""
    flagged = tuple(pair.target for pair, value in index.items() if value > INDEX_THRESHOLD)
    return PaperRule(INDEX_THRESHOLD, max(index.values()), flagged)


def _of_share(share: float, test: OutlierTest) -> OutlierTest:
    """The test with p-values that pay for there being others."""
    p_values = tuple(over_share(p, share) for p in test.p_values)
    return replace(test, p_value=over_share(test.p_value, share), p_values=p_values)


def _against(baseline: Baseline, sized: Sequence[tuple[LabelPair, float]], alpha: float) -> OutlierTest:
    """The test of sizes relative to the baseline's; its limit in px is for the label that is smallest there."""
    theirs = [baseline.sizes[pair] for pair, _ in sized]
    ratios = [size / other for (_, size), other in zip(sized, theirs, strict=True)]
    test = outlier_test(ratios, alpha, baseline.prior)
    limit = None if test.detection_limit is None else test.detection_limit * min(theirs)
    return replace(test, detection_limit=limit)
