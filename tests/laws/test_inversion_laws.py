"""Laws of the search: rows never mix, restarts of a run agree, and a planted trigger is found where it was planted."""

import dataclasses

import pytest
import torch

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.batching import BatchScheduler
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.losses import cross_entropy, swapped_cross_entropy
from neural_cleanse.inversion.memory import BatchLimit
from neural_cleanse.inversion.presets import preset
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.inversion.state import InversionState
from neural_cleanse.results.records import LabelPair, Outcome

SHORT = Inversion(steps=25, restarts=2)


@pytest.mark.parametrize("count", [2, 5, 10])
def test_a_batch_of_rows_is_bit_equal_to_single_rows(infected: Classifier, digits: ImageSet, count: int) -> None:
    data = ScanImages.of(infected, digits, seed=3)
    pairs = [LabelPair(target) for target in range(count)]
    together = SHORT.advance(infected, data, SHORT.start(infected, pairs, 3), SHORT.steps)
    for index, row in enumerate(together.rows):
        alone = dataclasses.replace(SHORT, restarts=row.restart + 1)
        state = alone.start(infected, [row.pair], 3).take([row.restart])
        state = alone.advance(infected, data, state, alone.steps)
        for ours, single in zip(together.free, state.free, strict=True):
            assert torch.equal(ours[index], single[0])
        assert torch.equal(together.candidate_sizes[index], state.candidate_sizes[0])


def test_advancing_in_pieces_is_advancing_at_once(infected: Classifier, digits: ImageSet) -> None:
    data = ScanImages.of(infected, digits, seed=0)
    start = SHORT.start(infected, [LabelPair(1), LabelPair(3)], 0)
    once = SHORT.advance(infected, data, start, 12)
    assert start.candidate_sizes.isinf().all(), "a state that was handed in stays as it was"
    pieces = SHORT.advance(infected, data, SHORT.advance(infected, data, start, 5), 7)
    assert all(torch.equal(a, b) for a, b in zip(once.free, pieces.free, strict=True))
    assert torch.equal(once.cost.cost, pieces.cost.cost)


def test_a_row_that_leaves_the_batch_changes_no_other(infected: Classifier, digits: ImageSet) -> None:
    data = ScanImages.of(infected, digits, seed=0)
    state = SHORT.advance(infected, data, SHORT.start(infected, [LabelPair(t) for t in range(3)], 0), 5)
    whole = SHORT.advance(infected, data, state, 5)
    part = SHORT.advance(infected, data, state.take([1, 4]), 5)
    assert torch.equal(whole.free[0][[1, 4]], part.free[0])


@pytest.mark.parametrize("setting", [SHORT, preset("reference", restarts=2)])
def test_rows_that_join_a_batch_go_on_as_if_alone(setting: Inversion, infected: Classifier, digits: ImageSet) -> None:
    """Rows of different ages, in an order of their own: what refilling a batch needs."""
    setting = dataclasses.replace(setting, batch_size=4, batches_per_step=2)
    data = ScanImages.of(infected, digits, seed=0)
    old = setting.advance(infected, data, setting.start(infected, [LabelPair(1), LabelPair(4)], 0), 4)
    fresh = setting.start(infected, [LabelPair(7)], 0)
    both = InversionState.join([old.take([3, 0]), fresh])
    assert both.rows == (old.rows[3], old.rows[0], *fresh.rows)
    both = setting.advance(infected, data, both, 4)
    alone = [setting.advance(infected, data, state, 4) for state in (old.take([3, 0]), fresh)]
    _assert_equal(both.take([0, 1]), alone[0])
    _assert_equal(both.take([2, 3]), alone[1])


def _assert_equal(ours: InversionState, theirs: InversionState) -> None:
    assert ours.rows == theirs.rows
    for field in dataclasses.fields(InversionState):
        for one, other in zip(_tensors(getattr(ours, field.name)), _tensors(getattr(theirs, field.name)), strict=True):
            assert torch.equal(one, other), field.name


def _tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value if isinstance(value, tuple) else vars(value).values()
    return [part for part in parts if isinstance(part, torch.Tensor)]


def test_the_seed_decides(infected: Classifier, digits: ImageSet) -> None:
    def masks(seed: int) -> torch.Tensor:
        data = ScanImages.of(infected, digits, seed)
        return SHORT.advance(infected, data, SHORT.start(infected, [LabelPair(0)], seed), 4).free[0]

    assert torch.equal(masks(1), masks(1))
    assert not torch.equal(masks(1), masks(2))


def test_a_planted_trigger_is_found_in_its_place(planted: Classifier, grey_images: ImageSet) -> None:
    """A white 3x3 square at rows and columns 9-11 of a 16x16 image, target 6."""
    data = ScanImages.of(planted, grey_images, seed=0)
    (found,) = BatchScheduler(planted, data, BatchLimit(128))(preset("default"), [LabelPair(6)])
    assert found.outcome.has_size and found.trigger is not None and found.size is not None
    assert found.asr is not None and found.asr >= 0.9
    assert found.size < 9
    mask = found.trigger.tensors()["mask"][0, 0]
    assert mask[9:12, 9:12].sum() > 0.5 * mask.sum()


def test_the_reference_schedule_finds_a_real_trigger(infected: Classifier, digits: ImageSet) -> None:
    """BadNets 4x4 white square at rows and columns 23-26 of a digit, target 3; a sixth of the batches suffice here."""
    data = ScanImages.of(infected, digits, seed=0)
    shorter = dataclasses.replace(preset("reference"), batches_per_step=5)
    (found,) = BatchScheduler(infected, data, BatchLimit(128))(shorter, [LabelPair(3)])
    assert found.outcome is Outcome.CONVERGED and found.trigger is not None and found.size is not None
    assert found.size < 25
    mask = found.trigger.tensors()["mask"][0, 0]
    assert mask[22:28, 22:28].sum() > 0.5 * mask.sum()
    assert found.image_passes % (5 * 32) == 0 and found.image_passes < shorter.passes, "it stopped early"


def test_labels_without_images_are_not_searched(planted: Classifier, grey_images: ImageSet) -> None:
    labels = torch.full((len(grey_images),), 6)
    labels[:20] = 1
    data = ScanImages.of(planted, dataclasses.replace(grey_images, labels=labels), seed=0)
    (found,) = BatchScheduler(planted, data, BatchLimit(128))(Inversion(), [LabelPair(6)])
    assert found.outcome is Outcome.NOT_ENOUGH_IMAGES and found.size is None


def test_the_default_keeps_its_promise_on_cost(infected: Classifier, digits: ImageSet) -> None:
    """At most 3,000 image passes a label, all restarts together, whatever the number of restarts."""
    for restarts in (None, 1, 2, 5, 6):
        assert preset("default", restarts=restarts).passes <= 3000
    with pytest.raises(SettingsError, match="at most 6"):
        preset("default", restarts=10)
    data = ScanImages.of(infected, digits, 0)
    (found,) = BatchScheduler(infected, data, BatchLimit(128))(preset("default"), [LabelPair(0)])
    assert found.image_passes == preset("default").passes


def test_only_the_smallest_restarts_go_on_and_the_others_are_counted(infected: Classifier, digits: ImageSet) -> None:
    data = ScanImages.of(infected, digits, 0)
    racing = Inversion(steps=60, restarts=4, race=((30, 2), (45, 1)))
    alone = dataclasses.replace(racing, race=())
    started = racing.start(infected, [LabelPair(3), LabelPair(5)], 0)
    ended = racing.advance(infected, data, started, 60)
    assert [row.pair for row in ended.rows] == [LabelPair(3), LabelPair(5)]
    assert ended.batches_taken == 2 * (4 * 30 + 2 * 15 + 15) and ended.batches_taken * 4 == 2 * racing.passes
    whole = alone.advance(infected, data, started, 60)
    winners = [whole.rows.index(row) for row in ended.rows]
    assert torch.equal(ended.free[0], whole.free[0][winners]), "the winner is as if it had been searched alone"
    at_30 = alone.advance(infected, data, started, 30)
    for row, index in zip(ended.rows, winners, strict=True):
        rivals = [at_30.best_size[i] for i, other in enumerate(at_30.rows) if other.pair == row.pair]
        assert sorted(rivals).index(at_30.best_size[index]) < 2


def test_a_race_that_pauses_ends_as_one_that_does_not(infected: Classifier, digits: ImageSet) -> None:
    data, whole = ScanImages.of(infected, digits, 0), Inversion(steps=60, race=((30, 2), (45, 1)))
    scheduler = BatchScheduler(infected, data, BatchLimit(128))
    pairs = [LabelPair(3), LabelPair(5)]
    list(scheduler(dataclasses.replace(whole, steps=30), pairs, resume=True))
    paused = {one.pair: one for one in scheduler(whole, pairs, resume=True)}
    straight = {one.pair: one for one in BatchScheduler(infected, data, BatchLimit(128))(whole, pairs)}
    for pair in pairs:
        assert (paused[pair].size, paused[pair].image_passes) == (straight[pair].size, straight[pair].image_passes)


def test_reference_is_the_authors_setting() -> None:
    """Method sheet, table 2.1."""
    reference = preset("reference")
    assert (reference.learning_rate, reference.betas, reference.epsilon) == (0.1, (0.5, 0.9), 1e-7)
    assert (reference.batch_size, reference.batches_per_step, reference.steps) == (32, 31, 1000)
    assert reference.all_images and reference.keep_after_step and reference.choose_asr is None
    assert reference.average == 0 and reference.kept == 1 and reference.spread == 0
    assert (
        reference.shrink_to_keep == 1 and reference.relax == 1 and reference.race == () and reference.extra_steps == 0
    )


def test_swapped_loss_is_linear_in_the_target_probability() -> None:
    """As released the loss is 16.118 * (1 - p_target) (method sheet, section 0)."""
    logits = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1] * 7, [4] * 6 + [0]])
    chance = logits.softmax(-1).gather(2, targets.unsqueeze(2)).squeeze(2)
    assert torch.allclose(swapped_cross_entropy(logits, targets), 16.118 * (1 - chance).mean(1), rtol=1e-4)
    assert torch.allclose(cross_entropy(logits, targets), -chance.log().mean(1), rtol=1e-5)
