"""Heads other than a softmax over the classes: sigmoids, and one value for two classes."""

import pytest
import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier, Normalize, OutputKind, probe

SHAPE = (1, 6, 6)


class Head(nn.Module):
    """A small network, `classes` values an image, changed by `last`."""

    def __init__(self, classes: int, last: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net, self.last = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, classes)), last

    def forward(self, images: Tensor) -> Tensor:
        scores = self.net(images)
        if "sigmoid" in self.last:
            scores = scores.sigmoid()
        return scores.squeeze(1) if "flat" in self.last else scores


def images() -> Tensor:
    return torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("classes", "last", "kind"),
    [
        (5, "sigmoid", OutputKind.SIGMOID),
        (5, "", OutputKind.LOGITS),
        (1, "", OutputKind.ONE_LOGIT),
        (1, "flat", OutputKind.ONE_LOGIT),
        (1, "sigmoid", OutputKind.ONE_SIGMOID),
        (1, "sigmoid flat", OutputKind.ONE_SIGMOID),
    ],
)
def test_the_kind_is_told_and_gives_the_logits_before_it(classes: int, last: str, kind: OutputKind) -> None:
    module = Head(classes, last).eval()
    num_classes, found = probe(module, images(), Normalize())
    assert (num_classes, found) == (max(2, classes), kind)
    logits = Classifier(module, SHAPE, num_classes, outputs=found)(images())
    truth = module.net(images())
    if classes == 1:
        truth = torch.cat([torch.zeros(8, 1), truth], dim=1)
    assert torch.allclose(logits, truth, atol=1e-4)


@pytest.mark.parametrize("classes", [1, 4])
def test_logits_that_happen_to_lie_between_0_and_1_are_no_sigmoid(classes: int) -> None:
    module = Head(classes, "").eval()
    with torch.no_grad():
        module.net[3].weight.mul_(0.1)
        module.net[3].bias.fill_(0.4)
    assert bool(((module(images()) > 0) & (module(images()) < 1)).all())
    assert probe(module, images(), Normalize())[1] in (OutputKind.LOGITS, OutputKind.ONE_LOGIT)


def test_a_saturated_sigmoid_keeps_a_finite_gradient() -> None:
    module = Head(4, "sigmoid").eval()
    with torch.no_grad():
        module.net[3].weight.mul_(1000)
    pixels = images().requires_grad_()
    Classifier(module, SHAPE, 4, outputs=OutputKind.SIGMOID)(pixels).sum().backward()
    assert pixels.grad is not None and torch.isfinite(pixels.grad).all()
