"""A stopwatch never changes an answer: what it may choose has the same bits, the rest goes by rule."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion import batch_size as hardware
from neural_cleanse.inversion.batch_size import Timing, choose_execution
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.memory import bytes_per_image
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.results.records import LabelPair


def test_one_thread_goes_by_the_rule(infected: Classifier) -> None:
    execution = choose_execution(infected, Inversion(), 1283)
    assert (execution.batch_images, execution.chosen, execution.trials) == (128, "rule", ())
    assert execution.describe()["precision"] == "fp32" and "trials" not in execution.describe()


def test_a_batch_is_no_larger_than_all_rows(infected: Classifier) -> None:
    assert choose_execution(infected, Inversion(), 2).batch_images == 2 * 3 * 4
    asked = choose_execution(infected, Inversion(), 100, batch_images=512)
    assert (asked.batch_images, asked.chosen) == (512, "asked")


def test_bytes_are_those_that_autograd_keeps() -> None:
    """Two ReLUs keep an output each; the convolution before them keeps its input."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5)
    )
    activation, pixels = 8 * 8 * 8 * 4, 3 * 8 * 8 * 4
    found = bytes_per_image(Classifier(network, (3, 8, 8), 5))
    assert 2 * activation + pixels <= found <= 8 * activation + 2 * pixels


def test_short_scans_are_not_spent_on_trials() -> None:
    assert hardware._affordable(512, 128, 10 * 3000) == []
    assert hardware._affordable(512, 128, 10**6) == [64, 128, 256, 512]
    assert hardware._affordable(200, 128, 10**6) == [64, 128]


def test_a_trial_times_every_size_and_compares_bits(infected: Classifier) -> None:
    trials = hardware._try(infected, [4, 8, 16], 8)
    assert [trial.batch_images for trial in trials] == [4, 8, 16]
    assert all(trial.same_bits and trial.images_per_s > 0 for trial in trials)


def test_a_size_that_changes_bits_is_never_taken() -> None:
    class Coupled(nn.Module):
        """Logits that depend on the size of the batch."""

        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 2)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.last(images.flatten(1)) * len(images)
            return logits

    trials = hardware._try(Classifier(Coupled(), (1, 2, 2), 2), [4, 8, 16], 8)
    assert [trial.same_bits for trial in trials] == [False, True, False]
    assert hardware._fastest(tuple(replace(trial, images_per_s=trial.batch_images) for trial in trials), 8) == 8


@pytest.mark.parametrize(("speed", "taken"), [(105.0, 128), (120.0, 256)])
def test_another_size_is_taken_when_it_is_clearly_faster(speed: float, taken: int) -> None:
    assert (
        hardware._fastest((Timing(128, 100.0, True), Timing(256, speed, True), Timing(512, 999.0, False)), 128) == taken
    )


def test_a_search_in_bf16_keeps_its_variables_and_its_measurements_in_fp32(
    infected: Classifier, digits: ImageSet
) -> None:
    inversion = Inversion(steps=60, restarts=1, precision="bf16")
    data = ScanImages.of(infected, digits, 0)
    state = inversion.advance(infected, data, inversion.start(infected, [LabelPair(3)], 0), 60)
    assert all(variables.dtype == torch.float32 for variables in (*state.free, *state.candidates))
    exact = replace(inversion, precision="fp32")
    other = exact.advance(infected, data, exact.start(infected, [LabelPair(3)], 0), 60)
    assert not torch.equal(state.free[0], other.free[0])
    assert exact.finish(infected, data, state)[0].hits == inversion.finish(infected, data, state)[0].hits
    assert inversion.describe()["precision"] == "bf16"
