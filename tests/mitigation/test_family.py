"""The family of a trigger: what is searched for beside a repair, up to which size, and in which network."""

from dataclasses import replace

import pytest
import torch
from planted_networks import TARGET, ShiftBackdoor
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import eligible_rows
from neural_cleanse.mitigation import family
from neural_cleanse.mitigation.base import Backdoor, RepairLimits, known_backdoors, measure
from neural_cleanse.mitigation.evaluation import split
from neural_cleanse.mitigation.family import PatchSearch, Renewal, fresh_triggers, natural_sizes
from neural_cleanse.mitigation.shifts import backdoors_of, flagged_shifts, search_shifts
from neural_cleanse.mitigation.unlearning import Unlearning
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import KindRow, KindTest, LabelPair, ScanResult, Verdict

SHIFT_PAIR = LabelPair(TARGET)


@pytest.fixture(scope="module")
def shifted(clean: Classifier) -> Classifier:
    """The demo's clean classifier with a backdoor in its activations."""
    assert isinstance(clean.module, nn.Sequential)
    return Classifier(ShiftBackdoor(clean.module).eval(), (1, 28, 28), 10)


@pytest.fixture(scope="module")
def shift(shifted: Classifier, digits: ImageSet) -> Backdoor:
    (found,) = search_shifts(shifted, {SHIFT_PAIR: 50.0}, digits, 0)
    return found


def flagged_for_shift(found: ScanResult) -> ScanResult:
    """The scan as if it had flagged one label for a shift, with others of sizes 40 and 60."""
    rows = tuple(KindRow(target, None, size, None) for target, size in ((TARGET, 2.0), (5, 40.0), (6, 60.0)))
    test = KindTest(Kind.FEATURE, 0.1, Verdict.INFECTED, "a shift", 0.001, (SHIFT_PAIR,), rows=rows)
    patches = KindTest(Kind.PATCH, 0.5, Verdict.CLEAN, "none", 0.5)
    return replace(found, flagged=(TARGET,), evidence=(), tests=(patches, test))


def test_the_natural_size_is_that_of_labels_that_were_not_flagged(found: ScanResult) -> None:
    (backdoor,) = known_backdoors(found, found.flagged)
    others = sorted(row.size for row in found.label_rows if row.size is not None and row.target != 3)
    assert backdoor.natural is not None and others[0] < backdoor.natural < others[-1]
    assert natural_sizes([backdoor], shifts=False) == {LabelPair(3): backdoor.natural}
    assert natural_sizes([backdoor, replace(backdoor, natural=None)], shifts=True) == {}


def test_a_search_gives_what_is_no_larger_than_natural(infected: Classifier, digits: ImageSet) -> None:
    pair = LabelPair(3)
    (search,) = PatchSearch.several(infected, {pair: 1e9}, digits, 0, 3, 8)
    search.advance(infected, 40)
    sizes = sorted(backdoor.trigger.size().item() for backdoor in search.found())
    assert len(sizes) == 3 and len(set(sizes)) == 3, "three starts, three triggers"
    search.most = {pair: sizes[1]}
    assert sorted(backdoor.trigger.size().item() for backdoor in search.found()) == sizes[:2]
    assert all(backdoor.natural == sizes[1] for backdoor in search.found())


def test_many_pairs_are_searched_a_few_at_a_time_and_one_without_images_never(
    infected: Classifier, digits: ImageSet
) -> None:
    assert digits.labels is not None
    few = digits.take((digits.labels < 8).nonzero().squeeze(1))
    most = {LabelPair(target): 50.0 for target in range(6)} | {LabelPair(1, 9): 50.0}
    searches = PatchSearch.several(infected, most, few, 0, 2, 8)
    assert [len(search.state.rows) for search in searches] == [8, 4]
    assert {row.pair for search in searches for row in search.state.rows} == {LabelPair(target) for target in range(6)}


def test_backdoors_without_a_natural_size_have_no_renewal(
    infected: Classifier, digits: ImageSet, original: Backdoor
) -> None:
    renewal = Renewal(infected, [original], digits, 10, 0)
    assert renewal.after(0, infected) == () and renewal.searches == []
    assert fresh_triggers(infected, [original], digits, 0) == ()


def test_fresh_triggers_work_on_the_model_as_it_came_and_each_seed_has_others(
    infected: Classifier, found: ScanResult, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "TAKEN_AT", (80, 120))
    monkeypatch.setattr(family, "FRESH_RESTARTS", 3)
    known = known_backdoors(found, found.flagged)
    first, second = (fresh_triggers(infected, known, digits, seed) for seed in (1, 2))
    assert 3 <= len(first) <= 6
    measured = measure(infected, first, digits)
    assert min(hits / trials for hits, trials in zip(measured.hits, measured.trials, strict=True)) > 0.8
    masks = [next(iter(one[0].trigger.tensors().values())) for one in (first, second)]
    assert not torch.equal(*masks)


# --- shifts of activations ---


def test_the_shifts_of_a_scan_are_those_flagged_and_no_patch_with_the_usual_size_of_the_rest(
    found: ScanResult,
) -> None:
    with_shift = flagged_for_shift(found)
    assert flagged_shifts(with_shift) == {SHIFT_PAIR: 50.0}
    patches, shifts = with_shift.tests
    assert flagged_shifts(replace(with_shift, tests=(replace(patches, flagged=(SHIFT_PAIR,)), shifts))) == {}


def test_a_shift_that_was_flagged_stands_for_the_labels_patch(
    shifted: Classifier, found: ScanResult, digits: ImageSet
) -> None:
    images = split(digits, 0)
    (alone,) = backdoors_of(shifted, flagged_for_shift(found), (TARGET,), images=images, seed=0)
    assert alone.place is not None and alone.pair == SHIFT_PAIR
    assert [one.place for one in backdoors_of(shifted, found, (3,), images=images, seed=0)] == [None]


def test_a_shift_sends_images_to_its_target_and_none_of_size_zero_does(
    shifted: Classifier, digits: ImageSet, shift: Backdoor
) -> None:
    assert digits.labels is not None
    images = digits.images[eligible_rows(digits.labels, SHIFT_PAIR)]
    assert shift.hits(shifted, images) > 0.9 * len(images)
    nothing = replace(shift, trigger=type(shift.trigger)(0 * next(iter(shift.trigger.tensors().values()))))
    assert nothing.hits(shifted, images) < 0.05 * len(images)
    assert shift.hits(shifted, images[:0]) == 0


def test_no_shift_larger_than_natural_is_taken(shifted: Classifier, digits: ImageSet, shift: Backdoor) -> None:
    size = shift.trigger.size().item()
    assert search_shifts(shifted, {SHIFT_PAIR: 0.9 * size}, digits, 0) == ()
    flat = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), (1, 28, 28), 10)
    assert search_shifts(flat, {SHIFT_PAIR: 1e9}, digits, 0) == (), "a network without a cut has none"


def test_a_shift_is_unlearned(shifted: Classifier, digits: ImageSet, shift: Backdoor) -> None:
    images = split(digits, 0)
    limits = RepairLimits(images.learn, images.decide, 0.8, 0.1)
    done = Unlearning(epochs=3, least_batches=1, learning_rates=(2e-3,), strong_rate=None)(
        shifted, [shift], limits, torch.Generator().manual_seed(0)
    )
    assert done.classifier is not None
    before, after = (measure(one, [shift], images.report) for one in (shifted, done.classifier))
    assert before.worst_asr > 0.9 and after.worst_asr < 0.3
