"""From trigger sizes to a verdict in words: found, not found, or could not tell.

"Clean" is never said of a label that was not searched, of a backdoor that would not have been seen, or of a model
in which every label looks alike and small.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from neural_cleanse.detection.reasons import (
    FEW_LABELS,
    count,
    found_nothing,
    found_something,
    joined,
    left_out,
    named,
    still_shrinking,
    too_low,
    unsearched,
)
from neural_cleanse.detection.screening import nothing_in_screening, screening_undecided
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
from neural_cleanse.results.records import SCREENED_OUTCOMES, LabelPair, Outcome, PaperRule, Recovered, Verdict
from neural_cleanse.text import stand

MIN_LABELS, MIN_LABELS_OVER_BASELINE = 3, 2  # sizes under which there is no reference at all


@dataclass(frozen=True)
class Decision:
    """The verdict and what it rests on; numbers by label pair for those that have a size.

    `level` is the p-value at which a label was flagged; None where no p-value would have done. `but_for_limit`: nothing
    but a low detection limit forbids to call the model clean.
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

    @property
    def flagged(self) -> tuple[int, ...]:
        """The targets of the flagged pairs."""
        return tuple(sorted({pair.target for pair in self.flagged_pairs}))


@dataclass(frozen=True)
class Baseline:
    """What sizes are compared with: those of a clean model, or the mean of several, and how far clean ones differ."""

    sizes: Mapping[LabelPair, float]
    prior: Prior = OVER_BASELINE


def decide(
    found: Sequence[Recovered],
    alpha: float,
    area: int,
    doubt: str | None,
    num_classes: int | None = None,
    baseline: Baseline | None = None,
    reference: frozenset[LabelPair] | None = None,
    share: float = 1.0,
) -> Decision:
    """The verdict on recovered triggers, for images of `area` pixels; `doubt` about the input forbids a verdict.

    `num_classes` is the number of the model's labels: one that was not searched is never called clean. Sizes are tested
    relative to those of `baseline`, if given. `reference` are labels drawn at random to compare the others with, where
    not all labels got the same steps. `share` is this test's of alpha: p-values are divided by it.
    """
    missing = (num_classes or len(found)) - len(found) + count(found, Outcome.NOT_SEARCHED)
    known = [(one.pair, one.size) for one in found if one.size is not None and one.outcome.has_size]
    sized = [(pair, size) for pair, size in known if baseline is None or pair in baseline.sizes]
    enough = len(sized) if reference is None else sum(pair in reference for pair, _ in sized)
    if enough < (MIN_LABELS if baseline is None else MIN_LABELS_OVER_BASELINE):
        return _too_few(enough, num_classes or len(found), doubt)
    pairs, sizes = [pair for pair, _ in sized], [size for _, size in sized]
    among = [size for pair, size in sized if reference is None or pair in reference]
    test = _of_share(share, _tested(sized, reference, baseline, len(found), alpha * share))
    screened, limit = any(one.outcome in SCREENED_OUTCOMES for one in found), test.detection_limit
    if screened and baseline is None:  # its thresholds are others
        threshold = alpha * share * SCREEN_SHARE if test.flagged else SCREEN_CLEAR_P
        limit = detection_limit(sizes, test.flagged, threshold)
    usual, without = _usual_limit(test.detection_limit, sized, baseline), [one for one in known if one not in sized]
    small = [(pairs[index].target, sizes[index]) for index in test.flagged]
    if small:
        open_still = screening_undecided(found, area) if screened and baseline is None else None
        verdict, reason = _flagged(small, among, test, alpha * SCREEN_SHARE if screened else None, open_still)
        reason += f"; {unsearched(missing)}" if missing else ""
    else:
        verdict, reason = found_nothing(found, reference, among, usual, area, missing)
        if verdict is Verdict.CLEAN:
            compared = baseline is not None or reference is not None
            clear_p = over_share(SCREEN_CLEAR_P, share) if screened else None
            verdict, reason = _clear(found, among, test, area, limit, clear_p, compared, reason)
        if without:
            verdict = Verdict.INCONCLUSIVE
            reason = _not_in_the_baseline([pair for pair, _ in without])
    if doubt is not None:
        verdict = Verdict.INCONCLUSIVE
    # The paper's index is of raw sizes, also where ratios to a baseline's are tested.
    index = dict(zip(pairs, test.anomaly_index if baseline is None else anomaly_index(sizes).tolist(), strict=True))
    return Decision(
        verdict=verdict,
        reason=joined(doubt, reason) + left_out(found),
        flagged_pairs=tuple(sorted(pairs[index] for index in test.flagged)) if verdict is Verdict.INFECTED else (),
        p_value=test.p_value,
        detection_limit=limit,
        anomaly_index=index,
        p_values=dict(zip(pairs, test.p_values, strict=True)),
        paper_rule=_paper_rule(index),
        level=alpha if not screened else alpha * SCREEN_SHARE if len(sized) <= MANY_LABELS else None,
        but_for_limit=not small and not without and _but_for_limit(found, reference, among, usual, area, missing),
    )


def _not_in_the_baseline(pairs: Sequence[LabelPair]) -> str:
    which = ", ".join(str(pair.target) for pair in pairs)
    return f"nothing was flagged, but the baseline has no size for label {which}"


def _but_for_limit(
    found: Sequence[Recovered],
    reference: frozenset[LabelPair] | None,
    among: Sequence[float],
    usual: float | None,
    area: int,
    missing: int,
) -> bool:
    """Whether labels are many enough, and all would be well with a higher limit."""
    if not too_low(usual, area) or len(among) < FEW_LABELS:
        return False
    return found_nothing(found, reference, among, float(area), area, missing)[0] is Verdict.CLEAN


def _usual_limit(
    limit: float | None, sized: Sequence[tuple[LabelPair, float]], baseline: Baseline | None
) -> float | None:
    """The detection limit of a label of median size in the baseline; that of the smallest is in the result."""
    if limit is None or baseline is None:
        return limit
    theirs = [baseline.sizes[pair] for pair, _ in sized]
    return limit * statistics.median(theirs) / min(theirs)


def _too_few(enough: int, num_labels: int, doubt: str | None) -> Decision:
    """The decision where sizes are too few for an outlier test."""
    few = f"only {enough} of {num_labels} labels have" if enough else f"none of {num_labels} labels has"
    reason = f"{few} a trigger size: too few to tell an outlier"
    nothing = PaperRule(INDEX_THRESHOLD, None, ())
    return Decision(Verdict.INCONCLUSIVE, joined(doubt, reason), (), None, None, {}, {}, nothing, None)


def _flagged(
    small: Sequence[tuple[int, float]],
    among: Sequence[float],
    test: OutlierTest,
    screen_level: float | None,
    open_still: str | None,
) -> tuple[Verdict, str]:
    """Labels were flagged; `open_still` is why screening decides nothing."""
    if open_still is not None:
        return Verdict.INCONCLUSIVE, f"{named(small)} {stand(small)} out after screening, but {open_still}"
    return found_something(small, among, test, screen_level)


def _clear(
    found: Sequence[Recovered],
    among: Sequence[float],
    test: OutlierTest,
    area: int,
    limit: float | None,
    clear_p: float | None,
    compared: bool,
    reason: str,
) -> tuple[Verdict, str]:
    """Nothing was flagged: clean by `reason`, unless screening or unsettled triggers forbid it.

    `clear_p` is the p-value from which screening clears, None where there was none.
    """
    if clear_p is not None:
        open_still = None if compared else screening_undecided(found, area)
        return nothing_in_screening(found, among, test, area, limit, open_still, clear_p)
    shrinking = None if compared else still_shrinking(found)
    if shrinking is None:
        return Verdict.CLEAN, reason
    return Verdict.INCONCLUSIVE, f"nothing was flagged, but {shrinking}"


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
