"""A student begins with weights of its own, and learns in whatever way its network was made."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.fresh import fresh
from neural_cleanse.detection.student import StudentPlan, make_student, remembered
from neural_cleanse.images import ImageSet

FEW = StudentPlan(steps=5)


class Parameters(nn.Module):
    """A weight that no layer with a rule of its own holds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(12.0).view(3, 4))
        self.inner = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images.flatten(1)[:, :4]) @ self.weight


def test_weights_are_drawn_anew_and_the_model_is_left_alone() -> None:
    module = Parameters().requires_grad_(False)
    before = {name: weight.clone() for name, weight in module.named_parameters()}
    again = fresh(module, 3)
    assert again is not None
    assert all(torch.equal(weight, before[name]) for name, weight in module.named_parameters())
    assert all(not torch.equal(weight, before[name]) for name, weight in again.named_parameters())
    assert torch.equal(again.weight.flatten().sort().values, torch.arange(12.0)), "the same values in another order"
    assert all(weight.requires_grad for weight in again.parameters())
    same, other = fresh(module, 3), fresh(module, 4)
    assert same is not None and other is not None
    assert torch.equal(again.inner.weight, same.inner.weight)
    assert not torch.equal(again.inner.weight, other.inner.weight)


def test_chance_elsewhere_is_not_disturbed() -> None:
    module = Parameters()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fresh(module, 1)
    assert torch.equal(torch.rand(3), expected)


class Auxiliary(nn.Module):
    """A network that answers otherwise while it is trained, as those with auxiliary heads do; `answers` says how."""

    def __init__(self, answers: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 5, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
        self.answers = answers

    def forward(self, images: torch.Tensor) -> Any:
        return self.answers(self.body(images)) if self.training else self.body(images)


def no_answer(_: torch.Tensor) -> torch.Tensor:
    raise KeyError("targets")


@pytest.mark.parametrize("answers", [lambda x: (x, x), lambda x: {"out": x}, lambda x: x[:, :3], no_answer])
def test_a_network_that_answers_otherwise_while_it_learns_has_a_student(
    answers: Callable[[torch.Tensor], Any], digits: ImageSet
) -> None:
    module = Auxiliary(answers)
    made = make_student(Classifier(module, (1, 28, 28), 10), digits.images[:50], digits.images[50:60], 0, FEW)
    assert made is not None
    own, theirs = (dict(one.named_buffers())["body.1.running_mean"] for one in (module, made.classifier.module))
    assert not torch.equal(own, theirs), "its norm layers learn too"


def test_a_network_without_gradients_has_no_student(digits: ImageSet) -> None:
    class Frozen(Auxiliary):
        def forward(self, images: torch.Tensor) -> Any:
            with torch.no_grad():
                return super().forward(images)

    suspect = Classifier(Frozen(nn.Identity()), (1, 28, 28), 10)
    assert make_student(suspect, digits.images[:50], digits.images[50:60], 0, FEW) is None


class Hidden(nn.Module):
    """Weights that no optimizer sees, behind a layer that it does."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.scale = nn.BatchNorm1d(10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.scale(images.flatten(1) @ self.weight)
        return found


def test_weights_kept_as_buffers_are_drawn_anew_and_learn(digits: ImageSet) -> None:
    """A reader of graphs keeps what it does not know as a layer so; a student must not take it on."""
    suspect = Classifier(Hidden(torch.randn(784, 10)), (1, 28, 28), 10)
    made = make_student(suspect, digits.images[:50], digits.images[50:60], 0, FEW)
    assert made is not None
    own, theirs = dict(suspect.module.named_buffers())["weight"], made.weights["weight"]
    assert torch.isclose(own, theirs).float().mean() < 0.1
    assert not torch.equal(own.flatten().sort().values, theirs.flatten().sort().values), "they were learnt"
    again = remembered(suspect, made.weights, digits.images[50:60])
    assert again is not None and all(torch.equal(value, made.weights[name]) for name, value in again.weights.items())
    assert remembered(suspect, {"weight": theirs}, digits.images[50:60]) is None, "of another network"


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64])
def test_a_network_of_weights_that_cannot_learn_has_no_student(kind: torch.dtype) -> None:
    assert fresh(Hidden((torch.randn(784, 10) * 9).to(kind)), 0) is None


def test_a_few_fixed_values_stay() -> None:
    module = Parameters()
    module.register_buffer("shift", torch.tensor([0.5, 0.2]))
    again = fresh(module, 0)
    assert again is not None and torch.equal(dict(again.named_buffers())["shift"], torch.tensor([0.5, 0.2]))


@pytest.mark.parametrize("error", [TypeError, NotImplementedError])
def test_a_layer_that_cannot_draw_its_weights_has_them_in_another_order(error: type[Exception]) -> None:
    class Own(Parameters):
        def reset_parameters(self) -> None:
            raise error("how?")

    module = Own()
    again = fresh(module, 0)
    assert again is not None and not torch.equal(again.weight, module.weight)
    assert torch.equal(again.weight.flatten().sort().values, torch.arange(12.0))


def test_a_network_that_cannot_be_copied_has_no_student() -> None:
    class Single(Parameters):
        def __deepcopy__(self, memo: object) -> "Single":
            raise RuntimeError("there is only one")

    assert fresh(Single(), 0) is None


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("named", ["weight_norm", "spectral_norm"])
def test_weights_that_others_are_computed_from_are_drawn_anew(named: str) -> None:
    """The layer's own rule draws the computed weight, which the next pass overwrites."""
    module = Parameters()
    getattr(nn.utils, named)(module.inner)
    module(torch.rand(2, 4))
    again = fresh(module, 0)
    assert again is not None
    drawn = dict(again.inner.named_parameters())
    for name, weight in module.inner.named_parameters():
        assert not torch.equal(weight, drawn[name]) or weight.unique().numel() == 1, name


def test_values_that_many_layers_share_count_once() -> None:
    module, shared = nn.Sequential(*(Parameters() for _ in range(8))), torch.arange(16)
    for layer in module:
        layer.register_buffer("places", shared)
    assert fresh(module, 0) is not None, "16 of 232 values are fixed"


def test_a_weight_that_two_layers_share_stays_one() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Hidden(torch.randn(784, 10)), Hidden(torch.zeros(1))
            self.second.weight = self.first.weight

    again = fresh(Both(), 0)
    assert again is not None and again.first.weight is again.second.weight
    assert isinstance(again.first.weight, nn.Parameter)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_program_that_keeps_its_weights_to_itself_has_no_student() -> None:
    assert fresh(nn.Sequential(torch.jit.script(Hidden(torch.randn(784, 10)))), 0) is None
