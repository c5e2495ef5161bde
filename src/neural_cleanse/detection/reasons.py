"""What sizes and the outlier test on them say of a model, and why, in words."""

import statistics
from collections.abc import Sequence

from neural_cleanse.detection.statistics.outlier import MANY_LABELS, OutlierTest
from neural_cleanse.results.records import LabelPair, Outcome, Recovered, Verdict
from neural_cleanse.text import p_is, stand

# Share of labels without a size above which the others are no fair sample. With few labels it is none: each has one in
# every clean network measured, and a model made to mislead the search would hide its label there.
MAX_UNREACHED = 0.2
FEW_LABELS = 6  # under this many even a trigger of a few pixels is no outlier
MIN_LIMIT_SHARE = 0.01  # of the image: a detection limit below this would miss the paper's own 4x4 squares
SMALL_MEDIAN_SHARE = 0.015  # of the image: clean networks' medians measured 4 to 14 %, an all-infected one 1.1 %
MAX_STILL_SHRINKING = 0.5  # of the labels with a size, for a model to be called clean
SCREEN_SIZE = 0.4  # of the median: what screening flags is smaller; planted ones measured .02 to .32, a clean label .62


def found_something(
    small: Sequence[tuple[int, float]], sizes: Sequence[float], test: OutlierTest, screen_level: float | None
) -> tuple[Verdict, str]:
    """Labels were flagged: infected, unless the others show that small sizes are common here.

    After screening (`screen_level` given) each label must also be clear enough for that, and labels few enough that
    their tail does not decide: it is not known after screening.
    """
    which = named(small)
    reached = "; ".join(f"label {label} is reached by a {size:.1f}-pixel trigger" for label, size in small)
    if test.tail_holds is False:
        return Verdict.INCONCLUSIVE, heavy_tailed(which, test.p_value, test.tail_p_value)
    least_clear = max(test.p_values[index] for index in test.flagged)
    large = max(size for _, size in small) > SCREEN_SIZE * statistics.median(sizes)
    if screen_level is not None and (least_clear > screen_level or large or test.tail_holds is not None):
        return Verdict.INCONCLUSIVE, (
            f"{which} {stand(small)} out after screening ({p_is(least_clear)}), but screening flags a label only at "
            f"p <= {screen_level:g}, at most {SCREEN_SIZE:.0%} of the median size, and at most {MANY_LABELS} labels; "
            "the budget ended before the full search"
        )
    where = "" if screen_level is None else ", sizes after screening, the same steps for all labels"
    return Verdict.INFECTED, (
        f"{reached}; the median over all labels is {statistics.median(sizes):.1f} px ({p_is(test.p_value)}{where})"
    )


def heavy_tailed(which: str, p_value: float | None, tail_p_value: float | None) -> str:
    """What was flagged is no further from the others than these are from each other."""
    return (
        f"{which} would be flagged if the logarithms were normal ({p_is(p_value)}), but those of the other labels are "
        f"heavy-tailed; under a heavy-tailed null {p_is(tail_p_value)}"
    )


def found_nothing(
    found: Sequence[Recovered],
    reference: frozenset[LabelPair] | None,
    sizes: Sequence[float],
    limit: float | None,
    area: int,
    missing: int,
) -> tuple[Verdict, str]:
    """No label was flagged: clean only if a backdoor would have been seen, in every label."""
    if missing:
        return Verdict.INCONCLUSIVE, f"nothing was flagged, but {unsearched(missing)}"
    middle = statistics.median(sizes)
    if middle < SMALL_MEDIAN_SHARE * area:
        return Verdict.INCONCLUSIVE, (
            f"every label has a small trigger: the median is {middle:.1f} px, under {SMALL_MEDIAN_SHARE:.1%} of the "
            "image; a model with a backdoor in most labels looks like this, and so does a fragile network"
        )
    if too_low(limit, area):
        seen = "no size at all" if limit is None else f"only a label under {limit:.2g} px"
        why = f"{len(sizes)} labels are too few" if len(sizes) < FEW_LABELS else "the labels differ too much in size"
        return Verdict.INCONCLUSIVE, (
            f"nothing was flagged, but {seen} would have been, and a backdoor can take {MIN_LIMIT_SHARE:.0%} of the "
            f"image ({MIN_LIMIT_SHARE * area:.1f} px): {why}"
        )
    for alike in (found, [one for one in found if reference is None or one.pair in reference]):
        unreached = count(alike, Outcome.ASR_NOT_REACHED)
        if unreached > (MAX_UNREACHED * len(alike) if len(found) > MANY_LABELS else 0):
            return Verdict.INCONCLUSIVE, (
                f"nothing was flagged, but no trigger works for {unreached:,} of {len(alike):,} labels: "
                "optimisation failed for these labels, so the outlier test on the others is not reliable"
            )
    if count(found, Outcome.NOT_ENOUGH_IMAGES):
        return Verdict.INCONCLUSIVE, "nothing was flagged among the labels that could be searched"
    return Verdict.CLEAN, f"no patch-like backdoor found; a recovered trigger of under {limit:.1f} px would be flagged"


def too_low(limit: float | None, area: int) -> bool:
    """Whether a backdoor can well be larger than what would have been flagged."""
    return limit is None or limit < MIN_LIMIT_SHARE * area


def still_shrinking(found: Sequence[Recovered]) -> str | None:
    """Why the sizes are not the last word: most triggers were still shrinking."""
    shrinking, sized = count(found, Outcome.STEP_LIMIT), sum(one.outcome.has_size for one in found)
    if shrinking <= MAX_STILL_SHRINKING * sized:
        return None
    return f"{shrinking:,} of {sized:,} triggers were still shrinking when the search ended"


def named(small: Sequence[tuple[int, float]]) -> str:
    return ", ".join(f"label {label} ({size:.1f} px)" for label, size in small)


def unsearched(missing: int) -> str:
    return f"{missing:,} of the model's labels {'was' if missing == 1 else 'were'} not searched"


def count(found: Sequence[Recovered], outcome: Outcome) -> int:
    return sum(recovered.outcome is outcome for recovered in found)


def left_out(found: Sequence[Recovered]) -> str:
    """Labels that took no part in the test are reported."""
    unreached, unsearched = count(found, Outcome.ASR_NOT_REACHED), count(found, Outcome.NOT_ENOUGH_IMAGES)
    parts = [f"{unreached} without a trigger that works"] if unreached else []
    parts += [f"{unsearched} with too few images of other classes"] if unsearched else []
    return f"; labels left out of the test: {', '.join(parts)}" if parts else ""


def joined(doubt: str | None, reason: str) -> str:
    return reason if doubt is None else f"{doubt.rstrip('.')}; {reason}"
