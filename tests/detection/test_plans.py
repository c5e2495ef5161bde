"""Plans over label pairs: who is searched how long, and that the reference is drawn before anything is known."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from neural_cleanse.detection.plans import (
    Adaptive,
    EarlyDecision,
    FullSweep,
    InRounds,
    LowCost,
    Search,
    Sequential,
    plan,
)
from neural_cleanse.errors import SettingsError
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.presets import preset
from neural_cleanse.results.records import LabelPair, Outcome, Recovered

PAIRS = [LabelPair(target) for target in range(300)]


class Shrinking:
    """Stands for the search: label sizes shrink with the steps, those of `small` labels faster."""

    def __init__(self, small: Sequence[int] = (), seed: int = 0, most: float = math.inf) -> None:
        self.end = np.exp(np.random.default_rng(seed).normal(5.5, 0.2, len(PAIRS)))
        self.end[list(small)] /= 10
        self.steps: dict[LabelPair, list[int]] = {}
        self.passes, self.most = 0, most

    def __call__(
        self, inversion: Inversion, pairs: Sequence[LabelPair], resume: bool = False, record: bool = True
    ) -> Iterator[Recovered]:
        for pair in pairs:
            before = self.steps.get(pair, [0])[-1] if resume else 0
            taken = replace(inversion, steps=before).passes if before else 0
            self.passes += inversion.passes - taken
            if self.passes > self.most:
                taken //= inversion.batches_per_step
                yield replace(Recovered.skipped(pair, Outcome.NOT_SEARCHED), image_passes=taken + 7)
                return
            self.steps.setdefault(pair, []).append(inversion.steps)
            size = float(self.end[pair.target] * (1 + 3 * math.exp(-inversion.steps / 40)))
            passes = inversion.passes // inversion.batches_per_step
            yield Recovered(pair, None, size, None, 95, 100, Outcome.CONVERGED, passes, 10)


class Late(Shrinking):
    """Some labels have no working trigger before so many steps."""

    def __init__(self, late: Sequence[int], until: int, small: Sequence[int] = (), most: float = math.inf) -> None:
        super().__init__(small, most=most)
        self.late, self.until = late, until

    def __call__(
        self, inversion: Inversion, pairs: Sequence[LabelPair], resume: bool = False, record: bool = True
    ) -> Iterator[Recovered]:
        for one in super().__call__(inversion, pairs, resume):
            works = one.pair.target not in self.late or inversion.steps * inversion.batch_size >= self.until
            yield one if works else replace(one, size=None, outcome=Outcome.ASR_NOT_REACHED)


def run(search: Search, invert: Shrinking, inversion: Inversion | None = None) -> dict[LabelPair, Recovered]:
    return {one.pair: one for one in search.run(inversion or Inversion(restarts=1), PAIRS, invert, 0)}


def test_a_full_sweep_gives_every_label_all_steps() -> None:
    invert = Shrinking()
    found = run(FullSweep(), invert)
    assert all(steps == [250] for steps in invert.steps.values()) and len(found) == len(PAIRS)
    assert FullSweep().reference_pairs(PAIRS, 0) is None
    assert invert.passes == FullSweep().passes(Inversion(restarts=1), len(PAIRS))


@pytest.mark.parametrize("small", [[0], [17, 203]])
def test_an_adaptive_search_finishes_the_smallest_and_the_reference(small: list[int]) -> None:
    search, invert = Adaptive(), Shrinking(small)
    found = run(search, invert)
    finished = {pair for pair, one in found.items() if one.outcome.has_size}
    reference = search.reference_pairs(PAIRS, 0)
    assert reference is not None and len(reference) == 64 and reference <= finished
    assert {LabelPair(target) for target in small} <= finished
    assert all(invert.steps[pair][-1] == 90 for pair in finished)
    assert len(found) == len(PAIRS) and len(finished) <= 80
    assert {one.outcome for pair, one in found.items() if pair not in finished} == {Outcome.FIRST_PASS}
    # Whatever a label took in screening and after it is its own cost.
    assert (
        sum(one.image_passes for one in found.values())
        == invert.passes
        <= search.passes(Inversion(restarts=1), len(PAIRS))
    )


def test_more_labels_have_a_larger_reference_up_to_a_bound() -> None:
    sizes = {200: 64, 1283: 128, 2622: 128}
    for num_labels, size in sizes.items():
        assert len(Adaptive().reference_pairs([LabelPair(target) for target in range(num_labels)], 0)) == size
    a_label = [Adaptive().passes(Inversion(restarts=1), num) / num for num in (200, 423, 901, 1283, 2622)]
    assert a_label == sorted(a_label, reverse=True)
    assert a_label[3] <= 1_000


def test_screening_of_an_adaptive_search_can_clear() -> None:
    invert = Shrinking([0])
    inversion = Inversion(restarts=1)
    found = list(Adaptive().run(inversion, PAIRS, invert, 0, lambda look: EarlyDecision(len(look) == len(PAIRS))))
    assert len(found) == len(PAIRS) and all(steps == [80] for steps in invert.steps.values())
    assert "so no label is flagged for a patch" in Adaptive().notes(found, cut_off=False)[0]
    spent = list(Adaptive().run(Inversion(restarts=1), PAIRS, Shrinking(most=5_000), 0, lambda _: EarlyDecision(True)))
    assert "the budget ended" in Adaptive().notes(spent, cut_off=True)[0]


def test_the_reference_knows_nothing_of_the_sizes() -> None:
    assert Adaptive().reference_pairs(PAIRS, 0) == Adaptive().reference_pairs(list(PAIRS), 0)
    assert Adaptive().reference_pairs(PAIRS, 0) != Adaptive().reference_pairs(PAIRS, 1)


@pytest.mark.parametrize(("clear", "steps"), [(False, [84, 250]), (True, [84])])
def test_screening_can_clear(clear: bool, steps: list[int]) -> None:
    invert, seen, inversion = Shrinking(), list[int](), Inversion()

    def look(found: Sequence[Recovered]) -> EarlyDecision:
        seen.append(len(found))
        assert all(one.outcome is Outcome.SCREENED for one in found)  # so that it is judged as screening
        return EarlyDecision(clear)

    found = list(Sequential().run(inversion, PAIRS[:43], invert, 0, look))
    assert seen == [43] and all(invert.steps[pair] == steps for pair in PAIRS[:43])
    assert sorted(one.pair for one in found) == PAIRS[:43]
    assert all(one.outcome.has_size for one in found)
    assert all(one.image_passes == replace(inversion, steps=steps[-1]).passes for one in found)
    assert all((one.outcome is Outcome.SCREENED) is (steps == [84]) for one in found)
    assert len(Sequential().notes(found, cut_off=False)) == (steps == [84])
    assert sum(one.image_passes for one in found) <= Sequential().passes(inversion, 43)


def flagging(found: Sequence[Recovered]) -> EarlyDecision:
    """Of labels 3 and 7."""
    del found
    return EarlyDecision(flagged_pairs=(PAIRS[3], PAIRS[7]))


def test_screening_can_flag_and_flagged_labels_get_a_tighter_trigger() -> None:
    invert, inversion = Shrinking([3, 7]), Inversion()
    found = {one.pair: one for one in Sequential().run(inversion, PAIRS[:10], invert, 0, flagging)}
    assert len(found) == 10
    refined = {pair for pair, one in found.items() if one.outcome is Outcome.REFINED}
    assert refined == {PAIRS[3], PAIRS[7]}
    for pair, one in found.items():
        assert invert.steps[pair] == ([84, 250] if pair in refined else [84])
        assert one.size == invert.end[pair.target] * (
            1 + 3 * math.exp(-84 / 40)
        )  # what is compared took the same effort
        tight = float(invert.end[pair.target] * (1 + 3 * math.exp(-250 / 40)))
        assert (one.refined.size if one.refined else None) == (tight if pair in refined else None)
    assert sum(one.image_passes for one in found.values()) == 10 * 1344 + 2 * (2172 - 1344) == invert.passes
    (note,) = Sequential().notes(list(found.values()), cut_off=False)
    assert "stands out clearly" in note


def test_a_budget_that_ends_before_a_tighter_trigger_leaves_the_label_flagged() -> None:
    invert = Shrinking([3, 7], most=10 * 336 + 500)
    found = {one.pair: one for one in Sequential().run(Inversion(restarts=1), PAIRS[:10], invert, 0, flagging)}
    assert all(one.outcome is Outcome.SCREENED for one in found.values()) and len(found) == 10
    assert sum(one.image_passes for one in found.values()) == 10 * 336 + 7
    (note,) = Sequential().notes(list(found.values()), cut_off=True)
    assert "the budget ended" in note


def test_screening_as_long_as_the_search_is_the_search() -> None:
    invert = Shrinking()
    found = list(Sequential().run(Inversion(steps=80), PAIRS[:10], invert, 0, lambda _: EarlyDecision(True)))
    assert len(found) == 10 and all(steps == [80] for steps in invert.steps.values())
    assert Sequential().notes(found, cut_off=False) == ()


@pytest.mark.parametrize("most", [500, 3_000, 20_000])
def test_a_budget_that_ends_within_screening_or_a_search_leaves_sizes_of_one_effort(most: int) -> None:
    """10 labels: screening takes 3,360 passes, the whole search 10,000."""
    invert = Shrinking(most=most)
    found = {one.pair: one for one in Sequential().run(Inversion(restarts=1), PAIRS[:10], invert, 0)}
    sized = [one for one in found.values() if one.outcome.has_size]
    whole = most == 20_000
    steps = 250 if whole else 84
    end = {pair: float(invert.end[pair.target] * (1 + 3 * math.exp(-steps / 40))) for pair in found}
    assert all(one.size == end[one.pair] for one in sized)
    assert len(sized) == (1 if most == 500 else 8 if most == 3_000 else 10)
    assert sum(one.image_passes for one in found.values()) == (10_000 if whole else 336 * len(sized) + 7)
    cut_off = Shrinking(most=9_000)
    spent = {one.pair: one for one in Sequential().run(Inversion(restarts=1), PAIRS[:10], cut_off, 0)}
    assert [one.size for one in spent.values()] == [
        cut_off.end[pair.target] * (1 + 3 * math.exp(-84 / 40)) for pair in PAIRS[:10]
    ]
    assert sum(one.image_passes for one in spent.values()) == 3_360 + 8 * 664 + 7


@pytest.mark.parametrize(("most", "steps"), [(500_000, 15), (2_000_000, 62), (5_000_000, 250), (20_000_000, 1000)])
def test_a_full_sweep_in_rounds_leaves_sizes_of_one_effort_wherever_a_budget_ends_it(most: int, steps: int) -> None:
    """Ten labels of the reference preset: 992 image passes a step and label."""
    invert, inversion = Shrinking(most=most), preset("reference")
    found = {one.pair: one for one in InRounds().run(inversion, PAIRS[:10], invert, 0)}
    assert [found[pair].size for pair in PAIRS[:10]] == [
        float(invert.end[pair.target] * (1 + 3 * math.exp(-steps / 40))) for pair in PAIRS[:10]
    ]
    assert all((one.outcome is Outcome.SCREENED) is (steps < 1000) for one in found.values())
    assert InRounds().describe() == FullSweep().describe()
    assert InRounds().passes(inversion, 10) == FullSweep().passes(inversion, 10)


def test_a_budget_that_ends_in_the_first_round_leaves_what_it_reached() -> None:
    found = {one.pair: one for one in InRounds().run(preset("reference"), PAIRS[:10], Shrinking(most=80_000), 0)}
    assert [one.outcome for one in found.values()] == [Outcome.SCREENED] * 5 + [Outcome.NOT_SEARCHED]


class Unsettled(Shrinking):
    """Some labels are still shrinking until so many steps."""

    def __init__(self, shrinking: int, until: int = 400) -> None:
        super().__init__()
        self.shrinking, self.until = shrinking, until

    def __call__(
        self, inversion: Inversion, pairs: Sequence[LabelPair], resume: bool = False, record: bool = True
    ) -> Iterator[Recovered]:
        for one in super().__call__(inversion, pairs, resume):
            open_still = one.pair.target < self.shrinking and inversion.steps < self.until
            yield replace(one, outcome=Outcome.STEP_LIMIT) if open_still else one


@pytest.mark.parametrize("shrinking", [0, 2, 10])
@pytest.mark.parametrize("search", [FullSweep(), Sequential()])
def test_labels_that_still_shrink_take_twice_the_steps(search: Search, shrinking: int) -> None:
    invert = Unsettled(shrinking)
    found = {one.pair: one for one in search.run(Inversion(), PAIRS[:10], invert, 0)}
    assert all(one.outcome is Outcome.CONVERGED for one in found.values())
    assert all(invert.steps[pair][-1] == 500 for pair in PAIRS[:shrinking])
    assert all(invert.steps[pair][-1] == 250 for pair in PAIRS[shrinking:10])
    assert sum(one.image_passes for one in found.values()) == invert.passes


def test_the_reference_schedule_takes_no_extra_steps() -> None:
    invert = Unsettled(10, until=2_000)
    found = list(FullSweep().run(replace(preset("reference"), steps=40), PAIRS[:10], invert, 0))
    assert len(found) == 10 and all(steps == [40] for steps in invert.steps.values())


def test_the_papers_plan_stops_when_the_smallest_stay_the_same() -> None:
    """Wang et al. 2019, section V-D: top 100, an overlap above 50, ten rounds; then 100 and 100 random ones finish."""
    assert (LowCost().top, LowCost().overlap, LowCost().rounds) == (100, 50, 10)
    invert = Shrinking([5])
    search = LowCost()
    inversion = preset("reference")
    found = run(search, invert, inversion)
    finished = {pair for pair, one in found.items() if one.outcome.has_size}
    reference = search.reference_pairs(PAIRS, 0)
    assert reference is not None and len(reference) == 100 and reference | {LabelPair(5)} <= finished
    assert 100 <= len(finished) <= 200
    # The order of these sizes never changes: step 1 has nothing to be compared with, steps 2 to 11 are calm.
    given_up = next(pair for pair in PAIRS if pair not in finished)
    assert invert.steps[given_up] == list(range(1, 12))
    assert all(invert.steps[pair] == [*range(1, 12), inversion.steps] for pair in finished)


def test_the_papers_first_phase_is_not_calm_while_nothing_works() -> None:
    invert = Late(range(len(PAIRS)), until=30 * preset("reference").batch_size, small=[5])
    found = run(LowCost(), invert, replace(preset("reference"), steps=60))
    assert found[LabelPair(5)].outcome.has_size
    assert max(len(steps) for steps in invert.steps.values()) >= 40


def test_a_label_without_a_trigger_after_screening_is_searched_further() -> None:
    reference = Adaptive().reference_pairs(PAIRS, 0)
    others = [pair.target for pair in PAIRS if pair not in reference]
    small, late = others[0], others[1:40]
    invert = Late([small, *late], until=160 * 4, small=[small])
    found = run(Adaptive(), invert)
    assert invert.steps[LabelPair(small)] == [80, 160, 90]
    assert found[LabelPair(small)].outcome.has_size
    assert found[LabelPair(small)].image_passes == (80 + 160) * 4 + 90 * 16 * 3
    assert all(invert.steps[LabelPair(target)][:2] == [80, 160] for target in late)
    assert sum(one.image_passes for one in found.values()) == invert.passes


def test_labels_whose_trigger_never_works_are_the_last_in_order_and_said_not_to_work() -> None:
    never = range(10, len(PAIRS))
    invert = Late(never, until=1_000_000)
    found = run(Adaptive(), invert)
    assert {pair.target for pair, one in found.items() if one.outcome is Outcome.ASR_NOT_REACHED} == set(never)
    reference = Adaptive().reference_pairs(PAIRS, 0)
    went_on = {pair for pair, steps in invert.steps.items() if steps[-1] == 90}
    assert {LabelPair(target) for target in range(10)} <= went_on
    assert len(went_on - reference) > 0 and len(found) == len(PAIRS)


def test_a_budget_that_ends_the_longer_look_leaves_what_all_had_alike() -> None:
    invert = Late(range(40), until=160 * 4, most=len(PAIRS) * 320 + 5_000)
    found = run(Adaptive(), invert)
    assert all(
        one.outcome is (Outcome.ASR_NOT_REACHED if pair.target < 40 else Outcome.SCREENED)
        for pair, one in found.items()
    )
    assert sum(one.image_passes for one in found.values()) == len(PAIRS) * 320 + 7 * 640 + 7


def test_pairs_with_too_few_images_are_not_tried_again() -> None:
    class Poor(Shrinking):
        def __call__(
            self, inversion: Inversion, pairs: Sequence[LabelPair], resume: bool = False, record: bool = True
        ) -> Iterator[Recovered]:
            for one in super().__call__(inversion, pairs, resume):
                poor = one.pair.target == 9
                yield replace(one, size=None, outcome=Outcome.NOT_ENOUGH_IMAGES) if poor else one

    invert = Poor()
    found = run(Adaptive(), invert)
    assert found[LabelPair(9)].outcome is Outcome.NOT_ENOUGH_IMAGES and invert.steps[LabelPair(9)] == [80]


def test_a_spent_budget_leaves_what_was_reached() -> None:
    """Where the reference is not whole, all labels have the size of screening."""
    found = run(Adaptive(), Shrinking([0], most=420_000))
    assert len(found) == len(PAIRS) and found[LabelPair(0)].outcome.has_size
    assert {one.outcome for one in found.values()} >= {Outcome.FIRST_PASS, Outcome.CONVERGED}
    early = Shrinking([0], most=100_000)  # within the reference
    alike = run(Adaptive(), early)
    assert all(one.outcome is Outcome.SCREENED for one in alike.values())
    assert all(one.size == early.end[pair.target] * (1 + 3 * math.exp(-2)) for pair, one in alike.items())
    assert sum(one.image_passes for one in alike.values()) == pytest.approx(
        early.passes, abs=Adaptive()._whole(Inversion()).passes
    )
    few = run(Adaptive(), Shrinking(most=10_000))
    assert 0 < sum(one.outcome.has_size for one in few.values()) < 60


def test_a_budget_that_ends_before_the_last_finalists_calls_them_not_searched() -> None:
    """One of them might have stood out: the reference alone makes nothing clean."""
    search, whole = Adaptive(), Shrinking()
    wanted = {pair for pair, one in run(search, whole).items() if one.outcome.has_size}
    reference = search.reference_pairs(PAIRS, 0)
    a_search = search._whole(Inversion(restarts=1)).passes
    reached = 3 + len(reference)  # the smallest three come first, some of the reference may be among them
    cut_off = Shrinking(most=len(PAIRS) * 320 + reached * a_search)
    found = run(search, cut_off)
    assert reference <= {pair for pair, one in found.items() if one.outcome.has_size}
    late = {pair for pair, one in found.items() if one.outcome is Outcome.NOT_SEARCHED}
    assert late and late == wanted - {pair for pair, one in found.items() if one.outcome.has_size}
    assert all(found[pair].size is None and found[pair].image_passes >= 320 for pair in late)
    (note,) = search.notes(list(found.values()), cut_off=True)
    assert f"{len(wanted) - len(late)} have a size" in note


def test_a_budget_that_ends_within_screening_says_so() -> None:
    few = run(Sequential(), Shrinking(most=10_000))
    (note,) = Sequential().notes([*few.values(), Recovered.skipped(PAIRS[-1], Outcome.NOT_SEARCHED)], cut_off=True)
    assert "which the budget ended before" in note and "all labels had alike" not in note


def test_a_budget_ends_the_papers_first_phase() -> None:
    spent = run(LowCost(), Shrinking(most=3_000), preset("reference"))
    assert all(one.outcome in (Outcome.SCREENED, Outcome.NOT_SEARCHED) for one in spent.values())


def test_plans_by_name() -> None:
    assert isinstance(plan("auto", 499, "default"), Sequential)
    assert isinstance(plan("auto", 500, "default"), Adaptive)
    assert isinstance(plan("adaptive", 199, "default"), Sequential)
    assert isinstance(plan("adaptive", 200, "default"), Adaptive)
    assert isinstance(plan("sequential", 2000, "default"), Sequential)
    assert isinstance(plan("auto", 500, "reference"), FullSweep)
    assert isinstance(plan("full", 2000, "default"), FullSweep)
    assert isinstance(plan("low-cost", 199, "reference"), FullSweep)
    assert isinstance(plan("low-cost", 200, "reference"), LowCost)
    with pytest.raises(SettingsError, match="no search"):
        plan("quick", 10, "default")


def test_a_plan_without_a_reference_is_refused() -> None:
    with pytest.raises(SettingsError, match="reference labels"):
        Adaptive(reference=1)
