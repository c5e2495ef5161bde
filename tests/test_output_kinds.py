"""Heads other than a softmax over the classes: sigmoids, and one value for two classes."""

import pytest
import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier, Normalize
from neural_cleanse.errors import UnusableOutputs
from neural_cleanse.outputs import OutputKind
from neural_cleanse.probe import probe

SHAPE = (1, 6, 6)


class Head(nn.Module):
    """A small network, `classes` values an image, changed by `last`."""

    def __init__(self, classes: int, last: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net, self.last = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, classes)), last
        if "tanh" in last:
            self.net[3].weight.data.mul_(4)

    def forward(self, images: Tensor) -> Tensor:
        scores = self.net(images)
        if "sigmoid" in self.last:
            scores = scores.sigmoid()
        if "tanh" in self.last:
            scores = (scores / 2).tanh()
        if "percent" in self.last:
            scores = 100 * scores.softmax(1)
        if "map" in self.last:
            scores = scores[:, :, None, None]
        return scores.squeeze(1) if "flat" in self.last else scores


def images() -> Tensor:
    return torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("classes", "last", "kind"),
    [
        (5, "sigmoid", OutputKind.SIGMOID),
        (5, "", OutputKind.LOGITS),
        (5, "map", OutputKind.LOGITS),
        (5, "sigmoid map", OutputKind.SIGMOID),
        (5, "tanh", OutputKind.TANH),
        (1, "map", OutputKind.ONE_LOGIT),
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


def test_percentages_are_probabilities() -> None:
    module = Head(5, "percent").eval()
    num_classes, kind = probe(module, images(), Normalize())
    assert (num_classes, kind) == (5, OutputKind.PROBABILITIES)
    logits = Classifier(module, SHAPE, 5, outputs=kind)(images())
    assert torch.allclose(logits.log_softmax(1), module.net(images()).log_softmax(1), atol=1e-4)


def test_cosines_are_logits_and_no_tanh() -> None:
    class Cosine(Head):
        def forward(self, images: Tensor) -> Tensor:
            features = nn.functional.normalize(self.net[:3](images), dim=1)
            return features @ nn.functional.normalize(self.net[3].weight, dim=1).t()

    module = Cosine(5, "").eval()
    answers = module(images()).detach()
    assert float(answers.abs().max()) <= 1 and float(answers.min()) < 0
    assert probe(module, images(), Normalize())[1] is OutputKind.LOGITS


def test_maps_of_several_values_are_no_answers() -> None:
    with pytest.raises(UnusableOutputs, match=r"answers \(8, 4, 6, 6\)"):
        probe(nn.Conv2d(1, 4, 1), images(), Normalize())
