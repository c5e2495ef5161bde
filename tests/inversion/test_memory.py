"""How many images a pass holds, what they take, and that precision changes only the search."""

from dataclasses import replace

import torch
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.memory import batch_images, bytes_per_image
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.results.records import LabelPair

CPU = torch.device("cpu")


def test_a_batch_is_no_larger_than_all_rows_and_no_smaller_than_one() -> None:
    assert batch_images(CPU, Inversion(), 1283) == 128
    assert batch_images(CPU, Inversion(), 2) == 2 * 4 * 4
    assert batch_images(CPU, Inversion(), 100, asked=512) == 512
    assert batch_images(CPU, Inversion(), 100, asked=1) == 4


def test_bytes_are_those_that_autograd_keeps() -> None:
    """Two ReLUs keep an output each; the convolution before them keeps its input."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5)
    )
    activation, pixels = 8 * 8 * 8 * 4, 3 * 8 * 8 * 4
    found = bytes_per_image(Classifier(network, (3, 8, 8), 5))
    assert 2 * activation + pixels <= found <= 8 * activation + 2 * pixels


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
