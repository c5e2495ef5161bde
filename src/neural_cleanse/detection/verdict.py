"""From trigger sizes to a verdict in words: found, not found, or could not tell.

"Clean" is never said of a label that was not searched, of a backdoor that would not have been seen, or of a model
in which every label looks alike and small.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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

MIN_LABELS, MIN_LABELS_OVER_BASELINE = 3, 2  # sizes under which there is no reference at all
# Share of labels without a size above which the others are no fair sample. With few labels it is none: each has one in
# every clean network measured, and a model made to mislead the search would hide its label there.
MAX_UNREACHED = 0.2
FEW_LABELS = 6  # under this many even a trigger of a few pixels is no outlier
MIN_LIMIT_SHARE = 0.01  # of the image: a detection limit below this would miss the paper's own 4x4 squares
SMALL_MEDIAN_SHARE = 0.015  # of the image: clean networks' medians measured 4 to 14 %, an all-infected one 1.1 %
SCREEN_LEAST_MEDIAN = 0.05  # of the image: with a trigger in every label 1.6 to 2 %, in clean models 9 % and more
# Share of the image above which a trigger has hardly begun to shrink (masks start at half of it), and share of labels
# that may be there for screening to decide.
NOT_BEGUN, MAX_NOT_BEGUN = 0.3, 0.05
MAX_STILL_SHRINKING = 0.5  # of the labels with a size, for a model to be called clean
SCREEN_SIZE = 0.4  # of the median: what screening flags is smaller; planted ones measured .02 to .32, a clean label .62


@dataclass(frozen=True)
class Decision:
    """The verdict and what it rests on; numbers by label pair for those that have a size.

    `level` is the p-value at which a label was flagged; None where no p-value would have done.
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

    @property
    def flagged(self) -> tuple[int, ...]:
        """The targets of the flagged pairs."""
        return tuple(sorted({pair.target for pair in self.flagged_pairs}))


def decide(
    found: Sequence[Recovered],
    alpha: float,
    area: int,
    doubt: str | None,
    num_classes: int | None = None,
    baseline: Mapping[LabelPair, float] | None = None,
    reference: frozenset[LabelPair] | None = None,
    num_tests: int = 1,
    prior: Prior = OVER_BASELINE,
) -> Decision:
    """The verdict on recovered triggers, for images of `area` pixels; `doubt` about the input forbids a verdict.

    `num_classes` is the number of the model's labels: one that was not searched is never called clean. Sizes are tested
    relative to those in `baseline`, if given, with `prior` on the spread of the ratios. `reference` are labels drawn at
    random to compare the others with, where not all labels got the same steps. `num_tests` tests share alpha: p-values
    are multiplied by it.
    """
    missing = (num_classes or len(found)) - len(found) + _count(found, Outcome.NOT_SEARCHED)
    known = [(one.pair, one.size) for one in found if one.size is not None and one.outcome.has_size]
    sized = [(pair, size) for pair, size in known if baseline is None or pair in baseline]
    enough = len(sized) if reference is None else sum(pair in reference for pair, _ in sized)
    if enough < (MIN_LABELS if baseline is None else MIN_LABELS_OVER_BASELINE):
        return _too_few(enough, num_classes or len(found), doubt)
    pairs, sizes = [pair for pair, _ in sized], [size for _, size in sized]
    held = None if reference is None else [pair in reference for pair in pairs]
    among = [size for pair, size in sized if reference is None or pair in reference]
    test = _one_of(num_tests, _tested(sized, held, baseline, len(found), alpha / num_tests, prior))
    screened, limit = any(one.outcome in SCREENED_OUTCOMES for one in found), test.detection_limit
    if screened and baseline is None:  # its thresholds are others
        threshold = alpha * SCREEN_SHARE if test.flagged else SCREEN_CLEAR_P
        limit = detection_limit(sizes, test.flagged, threshold / num_tests)
    small = [(pairs[index].target, sizes[index]) for index in test.flagged]
    open_still = _screening_undecided(found, area) if screened and baseline is None else None
    if small and open_still:
        verdict, reason = Verdict.INCONCLUSIVE, f"{_named(small)} stands out after screening, but {open_still}"
    elif small:
        verdict, reason = _found_something(small, among, test, alpha * SCREEN_SHARE if screened else None)
        reason += f"; {_unsearched(missing)}" if missing else ""
    else:
        verdict, reason = _found_nothing(found, reference, among, test.detection_limit, area, missing)
        if screened and verdict is Verdict.CLEAN:
            verdict, reason = _nothing_in_screening(among, test, area, limit, open_still)
        elif verdict is Verdict.CLEAN and baseline is None and reference is None and _still_shrinking(found):
            verdict, reason = Verdict.INCONCLUSIVE, f"nothing was flagged, but {_still_shrinking(found)}"
        if len(sized) < len(known):
            without = ", ".join(str(pair.target) for pair, size in known if (pair, size) not in sized)
            verdict, reason = (
                Verdict.INCONCLUSIVE,
                f"nothing was flagged, but the baseline has no size for label {without}",
            )
    if doubt is not None:
        verdict = Verdict.INCONCLUSIVE
    # The paper's index is of raw sizes, also where ratios to a baseline's are tested.
    indices = test.anomaly_index if baseline is None else anomaly_index(sizes).tolist()
    index = dict(zip(pairs, indices, strict=True))
    return Decision(
        verdict=verdict,
        reason=_joined(doubt, reason) + _left_out(found),
        flagged_pairs=tuple(sorted(pairs[index] for index in test.flagged)) if verdict is Verdict.INFECTED else (),
        p_value=test.p_value,
        detection_limit=limit,
        anomaly_index=index,
        p_values=dict(zip(pairs, test.p_values, strict=True)),
        paper_rule=_paper_rule(index),
        level=alpha if not screened else alpha * SCREEN_SHARE if len(sized) <= MANY_LABELS else None,
    )


def _tested(
    sized: Sequence[tuple[LabelPair, float]],
    held: Sequence[bool] | None,
    baseline: Mapping[LabelPair, float] | None,
    num_labels: int,
    level: float,
    prior: Prior,
) -> OutlierTest:
    """The outlier test that fits what there is to compare with; `held` says which labels are reference labels."""
    sizes = [size for _, size in sized]
    if held is not None:
        return reference_test(sizes, held, num_labels, level)
    return outlier_test(sizes, level) if baseline is None else _against(baseline, sized, level, prior)


def _paper_rule(index: Mapping[LabelPair, float]) -> PaperRule:
    """The rule of Wang et al. 2019 on the anomaly indices."""
    flagged = tuple(pair.target for pair, value in index.items() if value > INDEX_THRESHOLD)
    return PaperRule(INDEX_THRESHOLD, max(index.values()), flagged)


def _too_few(enough: int, num_labels: int, doubt: str | None) -> Decision:
    """The decision where sizes are too few for an outlier test."""
    few = f"only {enough}" if enough else "none"
    reason = f"{few} of {num_labels} labels have a trigger size: too few to tell an outlier"
    nothing = PaperRule(INDEX_THRESHOLD, None, ())
    return Decision(Verdict.INCONCLUSIVE, _joined(doubt, reason), (), None, None, {}, {}, nothing, None)


def _one_of(num_tests: int, test: OutlierTest) -> OutlierTest:
    """The test with p-values that pay for there being others."""
    p_values = tuple(min(1.0, num_tests * p) for p in test.p_values)
    return replace(test, p_value=min(1.0, num_tests * test.p_value), p_values=p_values)


def _against(
    baseline: Mapping[LabelPair, float], sized: Sequence[tuple[LabelPair, float]], alpha: float, prior: Prior
) -> OutlierTest:
    """The test of sizes relative to the baseline's; its limit in px is for the label that is smallest there."""
    test = outlier_test([size / baseline[pair] for pair, size in sized], alpha, prior)
    limit = None if test.detection_limit is None else test.detection_limit * min(baseline[pair] for pair, _ in sized)
    return replace(test, detection_limit=limit)


def _found_something(
    small: Sequence[tuple[int, float]], sizes: Sequence[float], test: OutlierTest, screen_level: float | None
) -> tuple[Verdict, str]:
    """Labels were flagged: infected, unless the others show that small sizes are common here.

    After screening (`screen_level` given) each label must also be clear enough for that, and labels few enough that
    their tail does not decide: it is not known after screening.
    """
    which = _named(small)
    reached = "; ".join(f"label {label} is reached by a {size:.1f}-pixel trigger" for label, size in small)
    if test.tail_holds is False:
        return Verdict.INCONCLUSIVE, (
            f"{which} would be flagged if log sizes were normal (p = {p_text(test.p_value)}), but the sizes of the "
            "other labels are heavy-tailed; under a heavy-tailed null "
            f"p = {p_text(test.tail_p_value or 1.0)}"
        )
    least_clear = max(test.p_values[index] for index in test.flagged)
    large = max(size for _, size in small) > SCREEN_SIZE * statistics.median(sizes)
    if screen_level is not None and (least_clear > screen_level or large or test.tail_holds is not None):
        return Verdict.INCONCLUSIVE, (
            f"{which} stands out after screening (p = {p_text(least_clear)}), but screening flags a label only at "
            f"p <= {screen_level:g}, at most {SCREEN_SIZE:.0%} of the median size, and at most {MANY_LABELS} labels; "
            "the budget ended before the full search"
        )
    where = "" if screen_level is None else ", sizes after screening, the same steps for all labels"
    return Verdict.INFECTED, (
        f"{reached}; the median over all labels is {statistics.median(sizes):.1f} px "
        f"(p = {p_text(test.p_value)}{where})"
    )


def _found_nothing(
    found: Sequence[Recovered],
    reference: frozenset[LabelPair] | None,
    sizes: Sequence[float],
    limit: float | None,
    area: int,
    missing: int,
) -> tuple[Verdict, str]:
    """No label was flagged: clean only if a backdoor would have been seen, in every label."""
    if missing:
        return Verdict.INCONCLUSIVE, f"nothing was flagged, but {_unsearched(missing)}"
    middle = statistics.median(sizes)
    if middle < SMALL_MEDIAN_SHARE * area:
        return Verdict.INCONCLUSIVE, (
            f"every label has a small trigger: the median is {middle:.1f} px, under {SMALL_MEDIAN_SHARE:.1%} of the "
            "image; a model with a backdoor in most labels looks like this, and so does a fragile network"
        )
    if limit is None or limit < MIN_LIMIT_SHARE * area:
        seen = "no size at all" if limit is None else f"only a label under {limit:.2g} px"
        why = f"{len(sizes)} labels are too few" if len(sizes) < FEW_LABELS else "the labels differ too much in size"
        return Verdict.INCONCLUSIVE, (
            f"nothing was flagged, but {seen} would have been, and a backdoor can take {MIN_LIMIT_SHARE:.0%} of the "
            f"image ({MIN_LIMIT_SHARE * area:.1f} px): {why}"
        )
    for alike in (found, [one for one in found if reference is None or one.pair in reference]):
        unreached = _count(alike, Outcome.ASR_NOT_REACHED)
        if unreached > (MAX_UNREACHED * len(alike) if len(found) > MANY_LABELS else 0):
            return Verdict.INCONCLUSIVE, (
                f"nothing was flagged, but no trigger works for {unreached:,} of {len(alike):,} labels: "
                "optimisation failed for these labels, so the outlier test on the others is not reliable"
            )
    if _count(found, Outcome.NOT_ENOUGH_IMAGES):
        return Verdict.INCONCLUSIVE, "nothing was flagged among the labels that could be searched"
    return Verdict.CLEAN, f"no patch-like backdoor found; a label under {limit:.1f} px would have been flagged"


def _nothing_in_screening(
    sizes: Sequence[float], test: OutlierTest, area: int, limit: float | None, undecided: str | None
) -> tuple[Verdict, str]:
    """Clean only if all triggers have begun to shrink and none is even near; in between a longer search decides."""
    middle = statistics.median(sizes)
    if undecided:
        why = undecided
    elif test.p_value < SCREEN_CLEAR_P:
        why = f"p = {p_text(test.p_value)}, and under {SCREEN_CLEAR_P:g} a longer search decides"
    elif middle < SCREEN_LEAST_MEDIAN * area:
        why = (
            f"the median of {middle:.1f} px is under {SCREEN_LEAST_MEDIAN:.0%} of the image, and a longer search "
            "decides"
        )
    else:
        return Verdict.CLEAN, (
            "no patch-like backdoor found in screening; a label with a trigger under "
            f"{limit or 0.0:.1f} px after these steps would have been searched further"
        )
    return Verdict.INCONCLUSIVE, f"nothing was flagged after screening, but not clearly: {why}"


def _screening_undecided(found: Sequence[Recovered], area: int) -> str | None:
    """Why screening decides nothing: triggers that do not work yet, or have not begun to shrink."""
    without = _count(found, Outcome.ASR_NOT_REACHED)
    if without:
        have = "label has" if without == 1 else "labels have"
        return f"{without} {have} no trigger that works yet, and a longer search decides"
    sizes = [one.size for one in found if one.size is not None]
    early = sum(size > NOT_BEGUN * area for size in sizes)
    if early > MAX_NOT_BEGUN * len(sizes):
        which = "trigger still covers" if early == 1 else "triggers still cover"
        return f"{early} {which} over {NOT_BEGUN:.0%} of the image, and a longer search decides"
    return None


def _still_shrinking(found: Sequence[Recovered]) -> str | None:
    """Why the sizes are not the last word: most triggers were still shrinking."""
    shrinking, sized = _count(found, Outcome.STEP_LIMIT), sum(one.outcome.has_size for one in found)
    if shrinking <= MAX_STILL_SHRINKING * sized:
        return None
    return f"{shrinking:,} of {sized:,} triggers were still shrinking when the search ended"


def _named(small: Sequence[tuple[int, float]]) -> str:
    return ", ".join(f"label {label} ({size:.1f} px)" for label, size in small)


def _unsearched(missing: int) -> str:
    return f"{missing:,} of the model's labels {'was' if missing == 1 else 'were'} not searched"


def _count(found: Sequence[Recovered], outcome: Outcome) -> int:
    return sum(recovered.outcome is outcome for recovered in found)


def _left_out(found: Sequence[Recovered]) -> str:
    """Labels that took no part in the test are reported."""
    unreached, unsearched = _count(found, Outcome.ASR_NOT_REACHED), _count(found, Outcome.NOT_ENOUGH_IMAGES)
    parts = [f"{unreached} without a trigger that works"] if unreached else []
    parts += [f"{unsearched} with too few images of other classes"] if unsearched else []
    return f"; labels left out of the test: {', '.join(parts)}" if parts else ""


def _joined(doubt: str | None, reason: str) -> str:
    return reason if doubt is None else f"{doubt.rstrip('.')}; {reason}"


def p_text(value: float) -> str:
    """A p-value in words; very small ones are bounded, not spelled out."""
    return f"{value:.2g}" if value >= 1e-12 else "under 1e-12"
