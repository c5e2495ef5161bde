"""What stands between sizes and a verdict, and the sentences of a verdict; which of them applies: obstacles.py."""

import enum
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from neural_cleanse.detection.statistics.outlier import MANY_LABELS, OutlierTest
from neural_cleanse.results.records import LabelPair, Outcome, Recovered
from neural_cleanse.text import p_is, stand

# Share of labels without a size above which the others are no fair sample. With few labels it is none: each has one in
# every clean network measured, and a model made to mislead the search would hide its label there.
MAX_UNREACHED = 0.2
MIN_LIMIT_SHARE = 0.01  # of the image: a detection limit below this would miss the paper's own 4x4 squares
SMALL_MEDIAN_SHARE = 0.015  # of the image: clean networks' medians measured 4 to 14 %, an all-infected one 1.1 %
MAX_STILL_SHRINKING = 0.5  # of the labels with a size, for a model to be called clean
SCREEN_SIZE = 0.4  # of the median: what screening flags is smaller; planted ones measured .02 to .32, a clean label .62
SCREEN_LEAST_MEDIAN = 0.05  # of the image: with a trigger in every label 1.6 to 2 %, in clean models 9 % and more
# Share of the image above which a trigger has hardly begun to shrink (masks start at half of it), and share of labels
# that may be there for screening to decide.
NOT_BEGUN, MAX_NOT_BEGUN = 0.3, 0.05
# Fall of a log size lately (restarts.py) from which a label is on its way down, and nobody knows how far: .51 to .66 at
# most in clean networks that end near the sizes of screening, 1.5 in an infected one that ends at a tenth of it.
HALVING = 0.69


class Obstacle(enum.Enum):
    """What forbids a verdict."""

    HEAVY_TAIL = enum.auto()
    UNCLEAR_AFTER_SCREENING = enum.auto()
    NOT_IN_BASELINE = enum.auto()
    NOT_SEARCHED = enum.auto()
    SMALL_MEDIAN = enum.auto()
    TOO_FEW_LABELS = enum.auto()
    SIZES_DIFFER = enum.auto()
    UNREACHED = enum.auto()
    NOT_ENOUGH_IMAGES = enum.auto()
    STILL_SHRINKING = enum.auto()
    NO_TRIGGER_YET = enum.auto()
    HARDLY_BEGUN = enum.auto()
    JUST_HALVED = enum.auto()
    NOT_CLEARLY_CLEAN = enum.auto()
    SMALL_MEDIAN_AFTER_SCREENING = enum.auto()


FOR_LONGER_SEARCH = frozenset(
    {
        Obstacle.STILL_SHRINKING,
        Obstacle.NO_TRIGGER_YET,
        Obstacle.HARDLY_BEGUN,
        Obstacle.JUST_HALVED,
        Obstacle.NOT_CLEARLY_CLEAN,
        Obstacle.SMALL_MEDIAN_AFTER_SCREENING,
    }
)
"""Obstacles that more steps may remove."""


@dataclass(frozen=True)
class Screened:
    """What screening decides by: it flags up to one p-value and clears from the other on."""

    flag_p: float
    clear_p: float


@dataclass(frozen=True)
class Sizes:
    """The facts that a verdict rests on.

    `found` has a record for every label, `area` is the image's in pixels. `small` are the flagged labels with their
    sizes, `among` the sizes that make the reference, those of `reference` alone if given. `missing` labels of the model
    were not searched; for `unmatched` ones the baseline has no size. `limit` is the size in px under which one more
    label would have been treated as suspicious, `usual_limit` that of a label of median size in the baseline.
    `screened` is None where the sizes are those of all steps.
    """

    found: Sequence[Recovered]
    area: int
    test: OutlierTest
    small: Sequence[tuple[int, float]]
    among: Sequence[float]
    reference: frozenset[LabelPair] | None
    over_baseline: bool
    missing: int
    unmatched: Sequence[int]
    limit: float | None
    usual_limit: float | None
    screened: Screened | None

    @property
    def median(self) -> float:
        """The usual size, in px."""
        return statistics.median(self.among)

    @property
    def least_clear(self) -> float:
        """The largest p-value of a flagged label."""
        return max(self.test.p_values[index] for index in self.test.flagged)

    @property
    def unreached(self) -> tuple[int, int] | None:
        """How many labels of how many have no trigger that works, where the others are no fair sample for it."""
        of_reference = [one for one in self.found if self.reference is None or one.pair in self.reference]
        for alike in (self.found, of_reference):
            unreached = self.count(Outcome.ASR_NOT_REACHED, alike)
            if unreached > (MAX_UNREACHED * len(alike) if len(self.found) > MANY_LABELS else 0):
                return unreached, len(alike)
        return None

    @property
    def hardly_begun(self) -> int:
        """Triggers that have hardly begun to shrink."""
        return sum(one.size is not None and one.size > NOT_BEGUN * self.area for one in self.found)

    @property
    def falling(self) -> int:
        """Triggers that just halved in size."""
        return sum(one.fall > HALVING for one in self.found)

    @property
    def sized(self) -> int:
        """Labels whose size may enter the test."""
        return sum(one.outcome.has_size for one in self.found)

    def count(self, outcome: Outcome, among: Sequence[Recovered] | None = None) -> int:
        """Labels whose search ended so."""
        return sum(one.outcome is outcome for one in (self.found if among is None else among))


def reason_of(obstacle: Obstacle | None, sizes: Sizes) -> str:
    """Why the verdict is what it is: for the obstacle to one, or for what was found where there is none."""
    if sizes.small:
        reason = _infected(sizes) if obstacle is None else _not_infected(obstacle, sizes)
        reason += f"; {_unsearched(sizes.missing)}" if sizes.missing else ""
    else:
        reason = _clean(sizes) if obstacle is None else _not_clean(obstacle, sizes)
    return reason + _left_out(sizes)


def _infected(sizes: Sizes) -> str:
    reached = "; ".join(f"label {label} is reached by a {size:.1f}-pixel trigger" for label, size in sizes.small)
    where = "" if sizes.screened is None else ", sizes after screening, the same steps for all labels"
    return f"{reached}; the median over all labels is {sizes.median:.1f} px ({p_is(sizes.test.p_value)}{where})"


def _not_infected(obstacle: Obstacle, sizes: Sizes) -> str:
    """Labels stand out, but they are not flagged."""
    which, out = _named(sizes.small), f"{stand(sizes.small)} out after screening"
    if obstacle is Obstacle.HEAVY_TAIL:
        return heavy_tailed(which, sizes.test.p_value, sizes.test.tail_p_value)
    if obstacle is Obstacle.UNCLEAR_AFTER_SCREENING and sizes.screened is not None:
        return (
            f"{which} {out} ({p_is(sizes.least_clear)}), but screening flags a label only at "
            f"p <= {sizes.screened.flag_p:g}, at most {SCREEN_SIZE:.0%} of the median size, and at most {MANY_LABELS} "
            "labels; the budget ended before the full search"
        )
    return f"{which} {out}, but {_longer_search(obstacle, sizes)}"


def heavy_tailed(which: str, p_value: float | None, tail_p_value: float | None) -> str:
    """What was flagged is no further from the others than these are from each other."""
    return (
        f"{which} would be flagged if the logarithms were normal ({p_is(p_value)}), but those of the other labels are "
        f"heavy-tailed; under a heavy-tailed null {p_is(tail_p_value)}"
    )


def _clean(sizes: Sizes) -> str:
    if sizes.screened is None:
        return f"no patch-like backdoor found; a recovered trigger of under {sizes.usual_limit:.1f} px would be flagged"
    return (
        "no patch-like backdoor found in screening; a label with a trigger under "
        f"{sizes.limit or 0.0:.1f} px after these steps would have been searched further"
    )


def _not_clean(obstacle: Obstacle, sizes: Sizes) -> str:
    """No label stands out, but one might all the same have a backdoor."""
    match obstacle:
        case Obstacle.NOT_IN_BASELINE:
            which = ", ".join(map(str, sizes.unmatched))
            return f"nothing was flagged, but the baseline has no size for label {which}"
        case Obstacle.NOT_SEARCHED:
            return f"nothing was flagged, but {_unsearched(sizes.missing)}"
        case Obstacle.SMALL_MEDIAN:
            return (
                f"every label has a small trigger: the median is {sizes.median:.1f} px, under "
                f"{SMALL_MEDIAN_SHARE:.1%} of the image; a model with a backdoor in most labels looks like this, and "
                "so does a fragile network"
            )
        case Obstacle.TOO_FEW_LABELS:
            return _low_limit(sizes, f"{len(sizes.among)} labels are too few")
        case Obstacle.SIZES_DIFFER:
            return _low_limit(sizes, "the labels differ too much in size")
        case Obstacle.UNREACHED if sizes.unreached is not None:
            unreached, of = sizes.unreached
            return (
                f"nothing was flagged, but no trigger works for {unreached:,} of {of:,} labels: optimisation failed "
                "for these labels, so the outlier test on the others is not reliable"
            )
        case Obstacle.NOT_ENOUGH_IMAGES:
            return "nothing was flagged among the labels that could be searched"
        case Obstacle.STILL_SHRINKING:
            return (
                f"nothing was flagged, but {sizes.count(Outcome.STEP_LIMIT):,} of {sizes.sized:,} triggers were still "
                "shrinking when the search ended"
            )
    return f"nothing was flagged after screening, but not clearly: {_longer_search(obstacle, sizes)}"


def _low_limit(sizes: Sizes, why: str) -> str:
    """A backdoor can well be larger than what would have been flagged."""
    seen = "no size at all" if sizes.usual_limit is None else f"only a label under {sizes.usual_limit:.2g} px"
    return (
        f"nothing was flagged, but {seen} would have been, and a backdoor can take {MIN_LIMIT_SHARE:.0%} of the image "
        f"({MIN_LIMIT_SHARE * sizes.area:.1f} px): {why}"
    )


def _longer_search(obstacle: Obstacle, sizes: Sizes) -> str:
    """Why screening does not decide."""
    match obstacle:
        case Obstacle.NO_TRIGGER_YET:
            without = sizes.count(Outcome.ASR_NOT_REACHED)
            why = f"{without} {'label has' if without == 1 else 'labels have'} no trigger that works yet, and"
        case Obstacle.HARDLY_BEGUN:
            still = "trigger still covers" if sizes.hardly_begun == 1 else "triggers still cover"
            why = f"{sizes.hardly_begun} {still} over {NOT_BEGUN:.0%} of the image, and"
        case Obstacle.JUST_HALVED:
            have = "trigger has" if sizes.falling == 1 else "triggers have"
            why = f"{sizes.falling} {have} just halved in size, and"
        case Obstacle.NOT_CLEARLY_CLEAN if sizes.screened is not None:
            why = f"{p_is(sizes.test.p_value)}, and under {sizes.screened.clear_p:g}"
        case Obstacle.SMALL_MEDIAN_AFTER_SCREENING:
            why = f"the median of {sizes.median:.1f} px is under {SCREEN_LEAST_MEDIAN:.0%} of the image, and"
        case _:
            raise ValueError(f"{obstacle} is no obstacle to screening")
    return f"{why} a longer search decides"


def _named(small: Sequence[tuple[int, float]]) -> str:
    return ", ".join(f"label {label} ({size:.1f} px)" for label, size in small)


def _unsearched(missing: int) -> str:
    return f"{missing:,} of the model's labels {'was' if missing == 1 else 'were'} not searched"


def _left_out(sizes: Sizes) -> str:
    """Labels that took no part in the test are reported."""
    unreached, unsearched = sizes.count(Outcome.ASR_NOT_REACHED), sizes.count(Outcome.NOT_ENOUGH_IMAGES)
    parts = [f"{unreached} without a trigger that works"] if unreached else []
    parts += [f"{unsearched} with too few images of other classes"] if unsearched else []
    return f"; labels left out of the test: {', '.join(parts)}" if parts else ""
