"""One trained network in every container gives one answer: the same sizes, labels and verdict."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.load import load_model
from neural_cleanse.results.records import ScanResult

SETTINGS = ScanSettings(patches_only=True, labels=(0, 1, 2, 3, 4, 5), restarts=1)
# Rounding differs between readers in the last bit (Keras flattens in another order), and 250 steps carry it along.
RELATIVE_SIZE = 0.1


def _state_dict(module: nn.Module, path: Path) -> None:
    torch.save(module.state_dict(), path)


def _onnx(module: nn.Module, path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.onnx.export(module, (torch.zeros(1, 1, 28, 28),), str(path), dynamo=True, verbose=False, external_data=False)


def _exported(module: nn.Module, path: Path) -> None:
    content = io.BytesIO()
    torch.export.save(torch.export.export(module, (torch.zeros(2, 1, 28, 28),)), content)
    path.write_bytes(content.getvalue())


def _keras(module: nn.Module, path: Path) -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(16, 5, activation="relu"), layers.MaxPooling2D(),
            layers.Conv2D(32, 5, activation="relu"), layers.MaxPooling2D(),
            layers.Flatten(), layers.Dense(512, activation="relu"), layers.Dense(10, activation="softmax"),
        ]
    )  # fmt: skip
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    first, last = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    # Keras flattens height, width, channels; we channels, height, width.
    hidden = first.weight.view(512, 32, 4, 4).permute(2, 3, 1, 0).reshape(512, 512)
    kernels = [(one.weight.permute(2, 3, 1, 0), one.bias) for one in convolutions]
    kernels += [(hidden, first.bias), (last.weight.T, last.bias)]
    weights = [tensor.detach().contiguous().numpy() for pair in kernels for tensor in pair if tensor is not None]
    model.set_weights(weights)
    model.save(path)


CONTAINERS: dict[str, tuple[str, Callable[[nn.Module, Path], None]]] = {
    "state_dict": ("model.pth", _state_dict),
    "ONNX": ("model.onnx", _onnx),
    "torch.export": ("model.pt2", _exported),
    "Keras HDF5": ("model.h5", _keras),
    "Keras archive": ("model.keras", _keras),
}


@pytest.fixture(scope="module")
def expected(demo_files: Path, digits: ImageSet) -> ScanResult:
    return scan(load_model(demo_files / "infected.safetensors").classifier, digits, SETTINGS)


@pytest.mark.filterwarnings("ignore")  # exporters and old formats warn of themselves
@pytest.mark.parametrize("container", CONTAINERS)
def test_the_scan_is_the_same(
    container: str, demo_files: Path, digits: ImageSet, expected: ScanResult, tmp_path: Path
) -> None:
    name, write = CONTAINERS[container]
    module = load_model(demo_files / "infected.safetensors").classifier.module
    write(module.to(memory_format=torch.contiguous_format), tmp_path / name)
    architecture = "mnist_cnn" if container == "state_dict" else None
    found = scan(load_model(tmp_path / name, architecture=architecture).classifier, digits, SETTINGS)
    for ours, theirs in zip(found.labels, expected.labels, strict=True):
        assert ours.size == pytest.approx(theirs.size, rel=RELATIVE_SIZE)
    assert min(found.labels, key=lambda row: row.size or 1e9).target == 3
    assert found.verdict is expected.verdict
