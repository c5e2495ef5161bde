"""The batch that pairs enter and leave: what is found never depends on who else is in it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.engines import InProcess, Processes
from neural_cleanse.errors import SettingsError, UnusableOutputs
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.batching import BATCHES_BETWEEN_CHECKS, BatchScheduler, inverter
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.memory import BatchLimit, bytes_per_image, fit_to_memory
from neural_cleanse.inversion.presets import preset
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.memory_errors import out_of_memory
from neural_cleanse.results.records import LabelPair, Outcome, Recovered

SHORT = Inversion(steps=12, restarts=2)
PAIRS = [LabelPair(target) for target in (3, 0, 7, 5)]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def images(infected: Classifier, digits: ImageSet) -> ScanImages:
    return ScanImages.of(infected, digits, seed=0)


def values(found: Sequence[Recovered]) -> list[tuple[object, ...]]:
    """All that can be compared, by pair."""
    rows = []
    for one in sorted(found, key=lambda one: one.pair):
        trigger = None if one.trigger is None else one.trigger.tensors()["mask"].flatten().tolist()
        rows.append((one.pair, one.size, one.hits, one.outcome, one.image_passes, trigger))
    return rows


def test_a_small_batch_finds_what_a_large_one_finds(infected: Classifier, images: ScanImages) -> None:
    large = list(BatchScheduler(infected, images, BatchLimit(128))(SHORT, PAIRS))
    small = list(BatchScheduler(infected, images, BatchLimit(8))(SHORT, PAIRS))
    assert values(large) == values(small)
    assert [one.pair for one in small] == PAIRS  # one by one, in the order given


def test_pairs_that_stop_early_make_room(infected: Classifier, images: ScanImages) -> None:
    """The authors' schedule stops labels at different steps: the batch is refilled, each pair as if alone."""
    setting = replace(preset("reference"), batch_size=4, batches_per_step=2, steps=60)
    cost = replace(setting.cost, patience=1, stop_patience=3)
    setting = replace(setting, cost=cost)
    together = list(BatchScheduler(infected, images, BatchLimit(8))(setting, PAIRS))
    alone = [one for pair in PAIRS for one in BatchScheduler(infected, images, BatchLimit(4))(setting, [pair])]
    assert values(together) == values(alone)
    assert len({one.image_passes for one in together}) > 1


def test_more_steps_go_on_where_fewer_ended(infected: Classifier, images: ScanImages) -> None:
    slots = BatchScheduler(infected, images, BatchLimit(64), meter := Counted())
    list(slots(replace(SHORT, steps=5), PAIRS, resume=True))
    went_on = list(slots(SHORT, PAIRS))
    assert meter.passes == SHORT.passes * len(PAIRS)
    assert values(went_on) == values(list(BatchScheduler(infected, images, BatchLimit(64))(SHORT, PAIRS)))
    assert not slots.suspended


class Counted:
    """Counts image passes, and is exhausted after `most`."""

    def __init__(self, most: int | None = None) -> None:
        self.passes, self.most, self.truncated = 0, most, False

    def advance(self, image_passes: int) -> bool:
        self.passes += image_passes
        return not self.exhausted

    @property
    def exhausted(self) -> bool:
        return self.most is not None and self.passes >= self.most

    def mark_truncated(self) -> None:
        self.truncated = True


def test_a_spent_budget_ends_it(infected: Classifier, images: ScanImages) -> None:
    meter = Counted(most=2 * SHORT.passes - 1)
    found = list(BatchScheduler(infected, images, BatchLimit(8), meter)(SHORT, PAIRS))
    assert [one.pair for one in found if one.outcome is not Outcome.NOT_SEARCHED] == PAIRS[
        :2
    ]  # what is at its end is finished
    assert sum(one.image_passes for one in found) == meter.passes
    assert meter.truncated, "work was left"
    none_left = Counted(most=0)
    assert not list(BatchScheduler(infected, images, BatchLimit(8), none_left)(SHORT, PAIRS))
    assert none_left.truncated


def test_a_budget_that_ends_with_the_work_truncates_nothing(infected: Classifier, images: ScanImages) -> None:
    meter = Counted(most=2 * SHORT.passes)
    assert len(list(BatchScheduler(infected, images, BatchLimit(8), meter)(SHORT, PAIRS[:2]))) == 2
    assert meter.exhausted and not meter.truncated


def test_what_a_spent_budget_cuts_off_says_what_it_took(infected: Classifier, images: ScanImages) -> None:
    meter, longer = Counted(most=1), replace(SHORT, steps=BATCHES_BETWEEN_CHECKS + 9)
    found = list(BatchScheduler(infected, images, BatchLimit(24), meter)(longer, PAIRS))
    assert [one.pair for one in found] == PAIRS[:3]
    assert {one.outcome for one in found} == {Outcome.NOT_SEARCHED}
    assert sum(one.image_passes for one in found) == meter.passes


class Narrow(nn.Module):
    """Fails on more than `most` images at a time, as a full GPU does."""

    def __init__(self, module: nn.Module, most: int) -> None:
        super().__init__()
        self.module, self.most = module, most

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        if len(images) > self.most and images.requires_grad:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        found: Tensor = self.module(images)
        return found


def test_memory_that_runs_out_halves_the_batch_and_loses_nothing(infected: Classifier, images: ScanImages) -> None:
    narrow = replace(infected, module=Narrow(infected.module, 9))
    room = BatchLimit(32)
    found = list(BatchScheduler(narrow, images, room)(SHORT, PAIRS))
    assert values(found) == values(list(BatchScheduler(infected, images, BatchLimit(32))(SHORT, PAIRS)))
    assert room.images == 8 and len(room.notes) == 2 and "32 images at once" in room.notes[0]


def test_an_error_of_another_kind_is_not_memory(infected: Classifier, images: ScanImages) -> None:
    class Broken(nn.Module):
        def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(UnusableOutputs, match="shapes cannot"):
        list(BatchScheduler(replace(infected, module=Broken()), images, BatchLimit(32))(SHORT, PAIRS))


def test_one_image_too_many_is_said() -> None:
    room = BatchLimit(1)
    with pytest.raises(SettingsError, match="one image"):
        room.reduce(1)


def test_too_few_images_are_said(infected: Classifier, digits: ImageSet) -> None:
    few = ScanImages.of(infected, digits.take(torch.arange(20)), seed=0)
    (found,) = BatchScheduler(infected, few, BatchLimit(8))(SHORT, [LabelPair(1)])
    assert found.outcome is Outcome.NOT_ENOUGH_IMAGES


def test_processes_find_what_one_finds(infected: Classifier, images: ScanImages) -> None:
    here = list(inverter(InProcess(), infected, images, BatchLimit(32))(SHORT, PAIRS))
    meter = Counted()
    elsewhere = list(inverter(Processes(2), infected, images, BatchLimit(32), meter)(SHORT, PAIRS))
    assert values(here) == values(elsewhere)
    assert meter.passes == SHORT.passes * len(PAIRS)


def test_what_goes_on_stays_in_this_process_and_is_paid_once(infected: Classifier, images: ScanImages) -> None:
    meter = Counted()
    invert = inverter(Processes(2), infected, images, BatchLimit(128), meter)
    for steps in (5, 6, 7):
        found = list(invert(Inversion(steps=steps, restarts=1), [LabelPair(0), LabelPair(3)], resume=True))
    assert meter.passes == sum(one.image_passes for one in found) == 2 * 7 * 4


def test_what_an_image_takes_is_measured(infected: Classifier) -> None:
    """The demo's network keeps some tens of kilobytes of activations for an image of 28 x 28."""
    assert 30_000 < bytes_per_image(infected) < 3_000_000


def test_a_cap_makes_the_batch_smaller_or_is_refused(infected: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neural_cleanse.inversion.memory._used", lambda _: 1_000_000_000)
    usual = fit_to_memory(infected, SHORT, wanted=128, cap=2_000_000_000)
    tight = fit_to_memory(infected, SHORT, wanted=128, cap=1_010_000_000)
    assert usual.images == 128 and not usual.notes
    assert 8 <= tight.images < 128 and "to stay within memory" in tight.notes[0]
    with pytest.raises(SettingsError, match=r"--memory 954 MiB is too little: 954 MiB are in use"):
        fit_to_memory(infected, SHORT, wanted=128, cap=1_000_100_000)


@pytest.mark.parametrize(
    ("error", "runs_out"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, runs_out: bool) -> None:
    assert out_of_memory(error) is runs_out
