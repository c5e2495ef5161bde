"""What people do to their modules before they bring them: the scan sees the same network, or says what is wrong."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from neural_cleanse.api.data import draw
from neural_cleanse.api.form import Form, FormKeywords, parsed
from neural_cleanse.api.models import opened
from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import ModelError, UnusableOutputs
from neural_cleanse.images import ImageSet
from neural_cleanse.outputs import OutputKind

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning"
)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        rows: Tensor = self.linear(self.convolution(images).relu().mean((2, 3)))
        return rows


class Flat(nn.Module):
    """As tutorials write it: images are flattened in the training loop."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 5)

    def forward(self, rows: Tensor) -> Tensor:
        answers: Tensor = self.layer(rows)
        return answers


class Rows(nn.Module):
    """A network over the rows of an image, which takes n x height x width."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.layer = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, rows: Tensor) -> Tensor:
        answers: Tensor = self.layer(self.cell(rows)[0][:, -1])
        return answers


class InTrainingAlways(Small):
    def train(self, mode: bool = True) -> "InTrainingAlways":
        return super().train(True)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(images, 0.5, self.training))


@pytest.fixture
def images() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    return ImageSet(torch.randint(0, 256, (20, 1, 8, 8), generator=generator, dtype=torch.uint8), torch.arange(20) % 5)


def trained_a_step(module: nn.Module) -> nn.Module:
    """With weights that hang on a computation, as after a step of training."""
    module.train()(torch.rand(2, 1, 8, 8)).sum().backward()
    return module


def scanned(module: Any, images: ImageSet, **form: Any) -> Classifier:
    said = parsed(FormKeywords(**form), "scan")
    return opened(module, said, draw(images, said, None, 0))[0].classifier


CHANGES: dict[str, Callable[[Small], nn.Module]] = {
    "weight_norm": lambda module: trained_a_step(_with(torch.nn.utils.weight_norm, module)),
    "spectral_norm": lambda module: trained_a_step(_with(torch.nn.utils.spectral_norm, module)),
    "weight_norm as parametrisation": lambda module: _with(nn.utils.parametrizations.weight_norm, module),
    "orthogonal": lambda module: _with(nn.utils.parametrizations.orthogonal, module),
    "pruned": lambda module: trained_a_step(_with(lambda layer: prune.l1_unstructured(layer, "weight", 0.3), module)),
    "scripted": torch.jit.script,
    "traced": lambda module: torch.jit.trace(module.eval(), torch.rand(2, 1, 8, 8)),
    "symbolically traced": torch.fx.symbolic_trace,
    "moving average": lambda module: torch.optim.swa_utils.AveragedModel(module),
    "parallel": nn.DataParallel,
    "double precision": lambda module: module.double(),
    "inference mode": lambda module: _in_inference_mode(module),
    "a tensor of a computation": lambda module: _with_attribute(module, torch.ones(2, requires_grad=True) * 2),
}


def _with(change: Callable[[nn.Module], Any], module: Small) -> Small:
    change(module.linear)
    return module


def _with_attribute(module: Small, value: Any) -> Small:
    module.extra = value
    return module


def _in_inference_mode(module: Small) -> Small:
    with torch.inference_mode():
        return copy.deepcopy(module)


@pytest.mark.parametrize("change", CHANGES)
def test_the_network_that_is_scanned_answers_as_the_callers_does(images: ImageSet, change: str) -> None:
    torch.manual_seed(1)
    module = CHANGES[change](Small())
    state = {name: value.clone() for name, value in module.state_dict().items()}
    classifier = scanned(module, images)
    pixels = images.images / 255
    with torch.no_grad():
        kind = torch.float64 if change == "double precision" else torch.float32
        expected = copied_answers(module, pixels.to(kind)).float()
        assert torch.allclose(classifier(pixels), expected, atol=1e-5)
    assert not any(weight.requires_grad for weight in classifier.module.parameters())
    seen = pixels.clone().requires_grad_()
    assert torch.autograd.grad(classifier(seen).sum(), seen)[0].abs().sum() > 0
    assert copy.deepcopy(classifier.module) is not None  # what a repair does
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def copied_answers(module: nn.Module, pixels: Tensor) -> Tensor:
    """The answers of the caller's own module in eval mode, which is put back."""
    mode = module.training
    answers: Tensor = module.eval()(pixels)
    module.train(mode)
    return answers


@pytest.mark.parametrize("make", [Flat, Rows])
def test_images_are_reshaped_for_a_module_that_takes_them_flat(images: ImageSet, make: type[nn.Module]) -> None:
    torch.manual_seed(1)
    module = make()
    drawn = draw(images, Form(), None, 0)
    suspect, _ = opened(module, Form(), drawn)
    assert any("images were reshaped to" in note for note in suspect.notes)
    shape = (64,) if make is Flat else (8, 8)
    pixels = images.images / 255
    with torch.no_grad():
        assert torch.allclose(suspect.classifier(pixels), module(pixels.reshape(20, *shape)), atol=1e-6)


def test_answers_beside_features_are_told_by_the_number_of_classes(images: ImageSet) -> None:
    class Both(Small):
        def forward(self, images: Tensor) -> Any:
            features = self.convolution(images).relu().mean((2, 3))
            return features, self.linear(features)

    assert scanned(Both(), images).num_classes == 5
    assert scanned(Both(), images.without_labels(), label_names=list("abcd")).num_classes == 4
    with pytest.raises(UnusableOutputs, match=r"no entry is known as the answers \(0: 16x4, 1: 16x5\)"):
        scanned(Both(), images.without_labels())


@pytest.mark.parametrize("answer", [lambda rows: (rows[:, 0],), lambda rows: rows[:, :1, None, None]])
def test_one_value_an_image_stands_for_two_classes_wherever_it_is(images: ImageSet, answer: Any) -> None:
    class One(Small):
        def forward(self, images: Tensor) -> Any:
            return answer(super().forward(images) * 9 - 3)

    classifier = scanned(One(), images.without_labels())
    assert classifier.num_classes == 2 and classifier.outputs is OutputKind.ONE_LOGIT


def test_what_a_module_keeps_beside_its_weights_is_no_hindrance(images: ImageSet) -> None:
    class Noting(Small):
        def get_extra_state(self) -> Any:
            return {"version": 3}

        def set_extra_state(self, state: Any) -> None:
            assert state == {"version": 3}

    assert scanned(Noting(), images).num_classes == 5


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(Small(), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Small().to("meta"), r"meta device: convolution.weight has no values.*load_state_dict"),
        (quantised, "quantised, in linear.*Give the network that it was quantised from"),
        (lambda: _with_attribute(Small(), threading.Lock()), "cannot be copied.*lock"),
        (InTrainingAlways, "answers differently"),
        (lambda: Small, r"A type is not a model.*not its class: Small\(\.\.\.\)"),
        (lambda: Small().state_dict(), "weights alone.*load_state_dict"),
        (lambda: torch.export.export(Small(), (torch.rand(1, 1, 8, 8),)), r"ExportedProgram.*\.module\(\)"),
        (lambda: nn.Sequential(Small(), nn.Softmax(1), _Argmax()), "int64.*argmax"),
    ],
)
def test_what_no_scan_can_use_is_told_before_it(images: ImageSet, make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        scanned(make(), images)


@pytest.mark.parametrize(
    ("channels", "side", "message"),
    [(5, 8, r"to have 5 channels.*Give them with 5 channels"), (3, 9, r"images of shape 3x8x8 .*in the size it takes")],
)
def test_channels_and_sizes_that_do_not_fit_are_told_apart(
    images: ImageSet, channels: int, side: int, message: str
) -> None:
    """Grey images get three channels where the network wants these; then what is wrong is their size."""
    network = nn.Sequential(nn.Conv2d(channels, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * side * side, 5))
    with pytest.raises(ModelError, match=message):
        scanned(network, images)


class _Argmax(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows.argmax(1)
