"""The extremes of early channels are those of the layers' own outputs, whichever way they are come by."""

import pytest
import torch
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import UnusableOutputs
from neural_cleanse.mitigation import extremes
from neural_cleanse.mitigation.extremes import EarlyLayers

IMAGES = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([4, 1])


class Network(nn.Sequential):
    """Two of its three convolutions are early. It counts how often the first is called."""

    def __init__(self, *, inplace: bool = False) -> None:
        torch.manual_seed(0)
        convolutions = [
            part for width, out in ((3, 4), (4, 5), (5, 6)) for part in (nn.Conv2d(width, out, 3), nn.ReLU(inplace))
        ]
        super().__init__(*convolutions, nn.Flatten(), nn.Linear(6 * 36, 2))
        self.calls = 0
        self[0].register_forward_pre_hook(self._count)

    def _count(self, layer: nn.Module, inputs: object) -> None:
        self.calls += 1


class Fickle(Network):
    """It leaves out its second convolution for bright images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.mean() > 0.9:
            shape = (len(images), 5, 8, 8)
            return self[7](self[6](self[4](images.new_zeros(shape))))
        return super().forward(images)


def found(network: Network, images: torch.Tensor = IMAGES) -> tuple[torch.Tensor, int]:
    """Its extremes, and how often its first layer was called for them."""
    classifier = Classifier(network, (3, 12, 12), 2)
    assert classifier.layers.early == ("0", "2")
    inner = classifier.module
    assert isinstance(inner, Network)
    inner.calls = 0
    with EarlyLayers(classifier) as early:
        classifier(images)
    return early.extremes(images, ROWS), inner.calls


@torch.no_grad()
def expected() -> torch.Tensor:
    """The layers called one after the other."""
    network = Network()
    first = network[0](IMAGES[ROWS])
    second = network[2](first.relu())
    return torch.cat([extreme((2, 3)) for part in (first, second) for extreme in (part.amax, part.amin)], 1)


@torch.no_grad()
def test_one_pass_gives_them_for_some_of_the_images() -> None:
    values, calls = found(Network())
    torch.testing.assert_close(values, expected())
    assert calls == 1


@torch.no_grad()
def test_activations_that_a_later_layer_wrote_over_are_made_again() -> None:
    values, calls = found(Network(inplace=True))
    torch.testing.assert_close(values, expected())
    assert calls == 2


def test_inference_tensors_do_not_tell_what_was_written_over_and_are_made_again() -> None:
    with torch.inference_mode():
        values, calls = found(Network(inplace=True))
    torch.testing.assert_close(values.clone(), expected())
    assert calls == 2


@torch.no_grad()
def test_activations_too_many_to_be_kept_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extremes, "MOST_KEPT", 4 * IMAGES[:, :1].numel())
    values, calls = found(Network())
    torch.testing.assert_close(values, expected())
    assert calls == 2


@torch.no_grad()
def test_no_rows_and_no_convolutions_have_no_values() -> None:
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(432, 2)), (3, 12, 12), 2)
    with EarlyLayers(classifier) as early:
        classifier(IMAGES)
    assert early.extremes(IMAGES, ROWS).shape == (2, 0)
    classifier = Classifier(Network(), (3, 12, 12), 2)
    with EarlyLayers(classifier) as early:
        classifier(IMAGES)
    assert early.extremes(IMAGES, ROWS[:0]).shape == (0, 0)


@torch.no_grad()
def test_a_network_that_calls_other_layers_for_some_images_is_one_error() -> None:
    with pytest.raises(UnusableOutputs, match="same layers"):
        found(Fickle(), torch.ones_like(IMAGES))
