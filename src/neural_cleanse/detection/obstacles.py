"""The rules for a verdict: what forbids to call a model infected or clean, by the sizes of its triggers.

"Clean" is never said of a label that was not searched, of a backdoor that would not have been seen, or of a model
in which every label looks alike and small. Screening, the first steps that all labels have alike, decides by itself
only what is clear.
"""

from collections.abc import Iterator

from neural_cleanse.detection.reasons import (
    MAX_NOT_BEGUN,
    MAX_STILL_SHRINKING,
    MIN_LIMIT_SHARE,
    SCREEN_LEAST_MEDIAN,
    SCREEN_SIZE,
    SMALL_MEDIAN_SHARE,
    Obstacle,
    Sizes,
)
from neural_cleanse.results.records import Outcome
from neural_cleanse.results.thresholds import FEW_LABELS


def obstacles(sizes: Sizes) -> tuple[Obstacle, ...]:
    """All that forbids a verdict, what the report names first; with none the model is infected or clean."""
    return tuple(_to_infected(sizes) if sizes.small else _to_clean(sizes))


def _to_infected(sizes: Sizes) -> Iterator[Obstacle]:
    """Labels stand out: the others may show that small sizes are common here.

    After screening each label must be clear enough for that, and labels few enough that their tail does not decide: it
    is not known after screening.
    """
    screened, tail_holds = sizes.screened, sizes.test.tail_holds
    if screened is not None and not sizes.over_baseline:
        yield from _too_early(sizes)
    if tail_holds is False:
        yield Obstacle.HEAVY_TAIL
    if screened is not None:
        large = max(size for _, size in sizes.small) > SCREEN_SIZE * sizes.median
        if sizes.least_clear > screened.flag_p or large or tail_holds is not None:
            yield Obstacle.UNCLEAR_AFTER_SCREENING


def _to_clean(sizes: Sizes) -> Iterator[Obstacle]:
    """No label stands out: a backdoor would have to be seen, in every label."""
    if sizes.unmatched:
        yield Obstacle.NOT_IN_BASELINE
    if sizes.missing:
        yield Obstacle.NOT_SEARCHED
    if sizes.median < SMALL_MEDIAN_SHARE * sizes.area:
        yield Obstacle.SMALL_MEDIAN
    if sizes.usual_limit is None or sizes.usual_limit < MIN_LIMIT_SHARE * sizes.area:
        yield Obstacle.TOO_FEW_LABELS if len(sizes.among) < FEW_LABELS else Obstacle.SIZES_DIFFER
    if sizes.unreached is not None:
        yield Obstacle.UNREACHED
    if sizes.count(Outcome.NOT_ENOUGH_IMAGES):
        yield Obstacle.NOT_ENOUGH_IMAGES
    compared = sizes.over_baseline or sizes.reference is not None
    if sizes.screened is not None:
        yield from () if compared else _too_early(sizes)
        yield from _to_clean_after_screening(sizes, sizes.screened.clear_p)
    elif not compared and sizes.count(Outcome.STEP_LIMIT) > MAX_STILL_SHRINKING * sizes.sized:
        yield Obstacle.STILL_SHRINKING


def _too_early(sizes: Sizes) -> Iterator[Obstacle]:
    """Screening decides nothing where triggers do not work yet, or have not begun to shrink."""
    if sizes.count(Outcome.ASR_NOT_REACHED):
        yield Obstacle.NO_TRIGGER_YET
    if sizes.hardly_begun > MAX_NOT_BEGUN * sum(one.size is not None for one in sizes.found):
        yield Obstacle.HARDLY_BEGUN


def _to_clean_after_screening(sizes: Sizes, clear_p: float) -> Iterator[Obstacle]:
    """All triggers must have begun to shrink, and none be even near; in between a longer search decides."""
    if sizes.falling:
        yield Obstacle.JUST_HALVED
    if sizes.test.p_value < clear_p:
        yield Obstacle.NOT_CLEARLY_CLEAN
    if sizes.median < SCREEN_LEAST_MEDIAN * sizes.area:
        yield Obstacle.SMALL_MEDIAN_AFTER_SCREENING
