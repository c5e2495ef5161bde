"""Each obstacle to a verdict is told apart, and of two the first alone is worded."""

from dataclasses import replace

import pytest

from neural_cleanse.detection.obstacles import obstacles
from neural_cleanse.detection.reasons import FOR_LONGER_SEARCH, Obstacle, Screened, Sizes, reason_of
from neural_cleanse.detection.statistics.outlier import outlier_test
from neural_cleanse.results.records import LabelPair, Outcome, Recovered

RAW = [100.0, 110.0, 90.0, 120.0, 95.0, 105.0, 115.0, 98.0]


def sizes_of(raw: list[float], outcome: Outcome = Outcome.CONVERGED) -> Sizes:
    """The facts of labels with these sizes, on 28x28 images."""
    test = outlier_test(raw, 0.01)
    return Sizes(
        found=[
            Recovered(LabelPair(label), None, size, None, 0, 0, outcome, 1, 1, fall=0.1)
            for label, size in enumerate(raw)
        ],
        area=784,
        test=test,
        small=[(label, raw[label]) for label in test.flagged],
        among=raw,
        reference=None,
        over_baseline=False,
        missing=0,
        unmatched=(),
        limit=test.detection_limit,
        usual_limit=test.detection_limit,
        screened=None if outcome is Outcome.CONVERGED else Screened(5e-5, 0.2),
    )


CLEAN, SCREENED = sizes_of(RAW), sizes_of(RAW, Outcome.SCREENED)
FLAGGED, SCREENED_FLAGGED = sizes_of([*RAW[:7], 9.0]), sizes_of([*RAW[:7], 9.0], Outcome.SCREENED)


def changed(sizes: Sizes, row: int = 0, **new: object) -> Sizes:
    """The same with one record changed."""
    found = list(sizes.found)
    found[row] = replace(found[row], **new)  # type: ignore[arg-type]
    return replace(sizes, found=found)


UNREACHED = {"outcome": Outcome.ASR_NOT_REACHED, "size": None}
CASES = {
    Obstacle.HEAVY_TAIL: replace(FLAGGED, test=replace(FLAGGED.test, tail_holds=False, tail_p_value=0.3)),
    Obstacle.UNCLEAR_AFTER_SCREENING: replace(SCREENED_FLAGGED, screened=Screened(1e-12, 0.2)),
    Obstacle.NOT_IN_BASELINE: replace(CLEAN, unmatched=(3,)),
    Obstacle.NOT_SEARCHED: replace(CLEAN, missing=1),
    Obstacle.SMALL_MEDIAN: replace(CLEAN, among=[5.0] * 8),
    Obstacle.TOO_FEW_LABELS: replace(CLEAN, among=RAW[:5], usual_limit=None),
    Obstacle.SIZES_DIFFER: replace(CLEAN, usual_limit=5.0),
    Obstacle.UNREACHED: changed(CLEAN, **UNREACHED),
    Obstacle.NOT_ENOUGH_IMAGES: changed(CLEAN, outcome=Outcome.NOT_ENOUGH_IMAGES, size=None),
    Obstacle.STILL_SHRINKING: replace(sizes_of(RAW, Outcome.STEP_LIMIT), screened=None),
    Obstacle.NO_TRIGGER_YET: changed(SCREENED_FLAGGED, **UNREACHED),
    Obstacle.HARDLY_BEGUN: changed(SCREENED, size=400.0),
    Obstacle.JUST_HALVED: changed(SCREENED, fall=0.8),
    Obstacle.NOT_CLEARLY_CLEAN: replace(SCREENED, test=replace(SCREENED.test, p_value=0.1)),
    Obstacle.SMALL_MEDIAN_AFTER_SCREENING: replace(SCREENED, among=[30.0] * 8),
}


@pytest.mark.parametrize("sizes", [CLEAN, SCREENED, FLAGGED, SCREENED_FLAGGED])
def test_a_verdict_has_no_obstacle(sizes: Sizes) -> None:
    assert obstacles(sizes) == ()


@pytest.mark.parametrize("obstacle", Obstacle)
def test_each_obstacle_is_found_and_has_a_sentence_of_its_own(obstacle: Obstacle) -> None:
    assert obstacles(CASES[obstacle])[0] is obstacle
    reason = reason_of(obstacle, CASES[obstacle])
    assert sum(reason == reason_of(other, sizes) for other, sizes in CASES.items()) == 1
    assert ("a longer search decides" in reason) == (obstacle in FOR_LONGER_SEARCH - {Obstacle.STILL_SHRINKING})


def test_obstacles_come_in_the_order_of_telling() -> None:
    both = replace(CASES[Obstacle.UNREACHED], missing=2, usual_limit=1.0)
    assert obstacles(both) == (Obstacle.NOT_SEARCHED, Obstacle.SIZES_DIFFER, Obstacle.UNREACHED)
    assert "2 of the model's labels were not searched" in reason_of(obstacles(both)[0], both)
