"""Networks that round their input: the search's gradient passes it, the answers stay their own."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier

SHAPE = (1, 6, 6)


class Rounding(nn.Module):
    """A small network behind `first`."""

    def __init__(self, first: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.net = first, nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 5))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.first(images))


def images() -> Tensor:
    return torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "first",
    [
        lambda images: torch.round(images * 255) / 255,
        lambda images: (images * 15).floor() / 15,
        lambda images: images.round(decimals=2),
        lambda images: torch.ceil(images * 7) / 7,
    ],
)
def test_a_gradient_passes_rounding_and_the_answers_stay(first: Callable[[Tensor], Tensor]) -> None:
    module = Rounding(first).eval()
    classifier = Classifier(module, SHAPE, 5)
    pixels = images().requires_grad_()
    answers = classifier(pixels)
    assert classifier.rounds and torch.equal(answers, module(images()))
    (gradient,) = torch.autograd.grad(answers[:, 3].sum(), pixels)
    rounded = first(images()).detach().requires_grad_()
    (beyond,) = torch.autograd.grad(module.net(rounded)[:, 3].sum(), rounded)
    assert torch.allclose(gradient, beyond)
    assert replace(classifier, num_classes=5).rounds


@pytest.mark.parametrize(
    "first", [lambda images: images, lambda images: images * 0, lambda images: (images > 2) * images]
)
def test_other_networks_are_left_alone(first: Callable[[Tensor], Tensor]) -> None:
    assert not Classifier(Rounding(first).eval(), SHAPE, 5).rounds


def test_rounding_beside_the_pixels_own_way_keeps_its_meaning() -> None:
    module = Rounding(lambda images: images + torch.round(images)).eval()
    assert not Classifier(module, SHAPE, 5).rounds
