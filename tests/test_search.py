"""Plans over label pairs: who is searched how long, and that the yardstick is drawn before anything is known."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from neural_cleanse.errors import SettingsError
from neural_cleanse.inversion import Inversion
from neural_cleanse.presets import preset
from neural_cleanse.records import LabelPair, Outcome, Recovered
from neural_cleanse.search import Adaptive, FullSweep, LowCost, Search, plan

PAIRS = [LabelPair(target) for target in range(300)]


class Shrinking:
    """Stands for the search: label sizes shrink with the steps, those of `small` labels faster."""

    def __init__(self, small: Sequence[int] = (), seed: int = 0, most: float = math.inf) -> None:
        self.end = np.exp(np.random.default_rng(seed).normal(5.5, 0.2, len(PAIRS)))
        self.end[list(small)] /= 10
        self.steps: dict[LabelPair, list[int]] = {}
        self.passes, self.most = 0, most

    def __call__(self, inversion: Inversion, pairs: Sequence[LabelPair], go_on: bool = False) -> Iterator[Recovered]:
        for pair in pairs:
            before = self.steps.get(pair, [0])[-1] if go_on else 0
            self.passes += inversion.passes * (inversion.steps - before) // inversion.steps
            if self.passes > self.most:
                return
            self.steps.setdefault(pair, []).append(inversion.steps)
            size = float(self.end[pair.target] * (1 + 3 * math.exp(-inversion.steps / 40)))
            passes = inversion.passes // inversion.batches_per_step
            yield Recovered(pair, None, size, None, 95, 100, Outcome.CONVERGED, passes, 10)


def run(search: Search, invert: Shrinking, inversion: Inversion | None = None) -> dict[LabelPair, Recovered]:
    found = list(search.run(inversion or Inversion(restarts=1), PAIRS, invert, 0))
    assert len({one.pair for one in found}) == len(found)
    return {one.pair: one for one in found}


def test_a_full_sweep_gives_every_label_all_steps() -> None:
    invert = Shrinking()
    found = run(FullSweep(), invert)
    assert all(steps == [250] for steps in invert.steps.values()) and len(found) == len(PAIRS)
    assert FullSweep().yardstick(PAIRS, 0) is None
    assert invert.passes == FullSweep().passes(Inversion(restarts=1), len(PAIRS))


@pytest.mark.parametrize("small", [[0], [17, 203]])
def test_an_adaptive_search_finishes_the_smallest_and_the_yardstick(small: list[int]) -> None:
    search, invert = Adaptive(), Shrinking(small)
    found = run(search, invert)
    finished = {pair for pair, one in found.items() if one.outcome.has_size}
    yardstick = search.yardstick(PAIRS, 0)
    assert yardstick is not None and len(yardstick) == 128 and yardstick <= finished
    assert {LabelPair(target) for target in small} <= finished
    assert all(invert.steps[pair][-1] == 110 for pair in finished)
    assert len(found) == len(PAIRS) and len(finished) <= 192
    assert {one.outcome for pair, one in found.items() if pair not in finished} == {Outcome.FIRST_PASS}
    # Whatever a label took in all rungs is its own cost.
    assert (
        sum(one.image_passes for one in found.values())
        == invert.passes
        <= search.passes(Inversion(restarts=1), len(PAIRS))
    )


def test_the_yardstick_knows_nothing_of_the_sizes() -> None:
    assert Adaptive().yardstick(PAIRS, 0) == Adaptive().yardstick(list(PAIRS), 0)
    assert Adaptive().yardstick(PAIRS, 0) != Adaptive().yardstick(PAIRS, 1)


def test_few_labels_are_swept() -> None:
    for search in (Adaptive(), LowCost()):
        invert = Shrinking()
        found = list(search.run(Inversion(restarts=1), PAIRS[:150], invert, 0))
        assert all(steps == [250] for steps in invert.steps.values()) and len(found) == 150
        assert search.yardstick(PAIRS[:150], 0) is None


def test_the_papers_plan_stops_when_the_smallest_stay_the_same() -> None:
    """Wang et al. 2019, section V-D: top 100, an overlap above 50, ten rounds; then 100 and 100 random ones finish."""
    assert (LowCost().top, LowCost().overlap, LowCost().rounds) == (100, 50, 10)
    invert = Shrinking([5])
    search = LowCost()
    inversion = preset("reference", len(PAIRS))
    found = run(search, invert, inversion)
    finished = {pair for pair, one in found.items() if one.outcome.has_size}
    yardstick = search.yardstick(PAIRS, 0)
    assert yardstick is not None and len(yardstick) == 100 and yardstick | {LabelPair(5)} <= finished
    assert 100 <= len(finished) <= 200
    # The order of these sizes never changes: step 1 has nothing to be compared with, steps 2 to 11 are calm.
    given_up = next(pair for pair in PAIRS if pair not in finished)
    assert invert.steps[given_up] == list(range(1, 12))
    assert all(invert.steps[pair] == [*range(1, 12), inversion.steps] for pair in finished)


def test_labels_without_a_size_are_no_candidates() -> None:
    class Silent(Shrinking):
        def __call__(
            self, inversion: Inversion, pairs: Sequence[LabelPair], go_on: bool = False
        ) -> Iterator[Recovered]:
            for one in super().__call__(inversion, pairs, go_on):
                late = inversion.steps < 30
                yield replace(one, size=None, outcome=Outcome.ASR_NOT_REACHED) if late else one

    invert = Silent([5])
    found = run(LowCost(), invert, replace(preset("reference", len(PAIRS)), steps=60))
    assert found[LabelPair(5)].outcome.has_size
    assert max(len(steps) for steps in invert.steps.values()) >= 40  # not calm while nothing works


def test_pairs_with_too_few_images_are_not_tried_again() -> None:
    class Poor(Shrinking):
        def __call__(
            self, inversion: Inversion, pairs: Sequence[LabelPair], go_on: bool = False
        ) -> Iterator[Recovered]:
            for one in super().__call__(inversion, pairs, go_on):
                poor = one.pair.target == 9
                yield replace(one, size=None, outcome=Outcome.NOT_ENOUGH_IMAGES) if poor else one

    invert = Poor()
    found = run(Adaptive(), invert)
    assert found[LabelPair(9)].outcome is Outcome.NOT_ENOUGH_IMAGES and invert.steps[LabelPair(9)] == [60]


def test_a_spent_budget_leaves_what_was_reached() -> None:
    invert = Shrinking([0], most=100_000)
    found = run(plan("auto", len(PAIRS), "default", budget=True), invert)
    assert len(found) == len(PAIRS) and found[LabelPair(0)].outcome.has_size
    few = run(plan("auto", len(PAIRS), "default", budget=True), Shrinking(most=10_000))
    assert 0 < len(few) < 60 and all(one.outcome is Outcome.FIRST_PASS for one in few.values())


def test_plans_by_name() -> None:
    assert isinstance(plan("auto", 199, "default", budget=False), FullSweep)
    assert isinstance(plan("auto", 200, "default", budget=False), Adaptive)
    assert isinstance(plan("auto", 200, "reference", budget=False), FullSweep)
    assert isinstance(plan("full", 2000, "default", budget=True), FullSweep)
    assert isinstance(plan("low-cost", 10, "reference", budget=False), LowCost)
    anytime = plan("auto", 43, "default", budget=True)
    assert isinstance(anytime, Adaptive) and anytime.yardstick(PAIRS[:43], 0) == frozenset(PAIRS[:43])
    with pytest.raises(SettingsError, match="no search"):
        plan("quick", 10, "default", budget=False)


def test_a_plan_without_a_yardstick_is_refused() -> None:
    with pytest.raises(SettingsError, match="reference labels"):
        Adaptive(reference=1)
