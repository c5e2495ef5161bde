"""A network read from any container, fine-tuned: written, read back, and written again from what was read."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from onnx_graphs import graph, node, values
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import ModelError, OutputError
from neural_cleanse.loading.architectures import mnist_cnn
from neural_cleanse.loading.checkpoint import Description, write_checkpoint
from neural_cleanse.loading.load import LoadedModel, load_model
from neural_cleanse.loading.onnx import reader
from neural_cleanse.loading.save import as_written, check_written_back, save_like

pytestmark = pytest.mark.filterwarnings("ignore")  # exporters and old formats warn of themselves
EXAMPLE = torch.zeros(2, 1, 28, 28)


class Small(nn.Module):
    """What a user trains on digits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 5, bias=False), nn.BatchNorm2d(8),
            nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(images)
        return logits


def _onnx(path: Path, *, dynamo: bool, beside: bool = False) -> None:
    pytest.importorskip("onnxscript")
    module = Small().eval()
    torch.onnx.export(module, (EXAMPLE[:1],), str(path), dynamo=dynamo, verbose=False, external_data=beside)
    assert path.with_name(f"{path.name}.data").exists() is beside


def _pt2(path: Path) -> None:
    content = io.BytesIO()
    torch.export.save(torch.export.export(Small().eval(), (EXAMPLE,)), content)
    path.write_bytes(content.getvalue())


def _keras(path: Path) -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    layers = pytest.importorskip("keras").layers
    model = pytest.importorskip("keras").Sequential(
        [
            layers.Input((28, 28, 1)), layers.Conv2D(4, 5, activation="relu"), layers.MaxPooling2D(4),
            layers.Flatten(), layers.Dropout(0.2), layers.Dense(10, activation="softmax"),
        ]
    )  # fmt: skip
    model.save(path)


def _directory(path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5
    )
    transformers.ResNetForImageClassification(config).save_pretrained(path)


CONTAINERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "safetensors": (
        "m.safetensors", lambda path: write_checkpoint(path, mnist_cnn(10), Description("mnist_cnn", (1, 28, 28), 10)),
    ),
    "state_dict": ("m.pth", lambda path: torch.save(mnist_cnn(10).state_dict(), path)),
    "ONNX": ("m.onnx", lambda path: _onnx(path, dynamo=True)),
    "ONNX, weights beside": ("m.onnx", lambda path: _onnx(path, dynamo=True, beside=True)),
    "ONNX, TorchScript exporter": ("m.onnx", lambda path: _onnx(path, dynamo=False)),
    "torch.export": ("m.pt2", _pt2),
    "Keras archive": ("m.keras", _keras),
    "Keras HDF5": ("m.h5", _keras),
    "Hugging Face": ("m", _directory),
}  # fmt: skip


def opened(path: Path) -> LoadedModel:
    return load_model(path, architecture="mnist_cnn" if path.suffix == ".pth" else None, input_shape=(1, 28, 28))


def fine_tuned(classifier: Classifier) -> Classifier:
    """A few steps on noise: every weight another."""
    optimizer = torch.optim.SGD(classifier.module.requires_grad_(True).parameters(), 0.05)
    images = torch.rand(8, *classifier.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.enable_grad():
        for _ in range(2):
            optimizer.zero_grad()
            classifier(images).logsumexp(1).sum().backward()
            optimizer.step()
    return classifier


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_fine_tuned_network_is_written_read_and_written_again(container: str, tmp_path: Path) -> None:
    name, make = CONTAINERS[container]
    torch.manual_seed(0)
    make(tmp_path / name)
    loaded = opened(tmp_path / name)
    check_written_back(loaded.origin, loaded.classifier, opened)
    before = {key: value.clone() for key, value in loaded.classifier.module.state_dict().items()}
    tuned = fine_tuned(loaded.classifier)
    written = as_written(loaded.origin, tuned, opened)  # what a repair measures ...
    (tmp_path / "out").mkdir()
    save_like(loaded.origin, written.module.state_dict(), tmp_path / "out" / name)  # ... and what it saves
    again = opened(tmp_path / "out" / name).classifier.module.state_dict()
    assert [*again] == [*before]
    for key, value in tuned.module.state_dict().items():
        assert torch.allclose(again[key], value, atol=1e-6)
    assert not all(torch.allclose(again[key], value) for key, value in before.items())


def shared() -> bytes:
    """Two layers of one matrix, called by it."""
    matrix = torch.eye(3).numpy()
    nodes = [
        *(node("GlobalAveragePool", ["images"], ["p"]), node("Flatten", ["p"], ["f"])),
        node("MatMul", ["f", "one.weight"], ["g"], name="first"),
        node("MatMul", ["g", "one.weight"], ["y"], name="second"),
    ]
    content: bytes = graph(nodes, values(**{"one.weight": matrix})).SerializeToString()
    return content


@pytest.mark.parametrize("changed", [(0,), (1,), (0, 1)])
def test_layers_that_share_a_weight_keep_their_names_when_they_part(changed: tuple[int, ...]) -> None:
    state = reader.read(shared(), "m").module.state_dict()
    assert len(state) == 2
    for number, key in enumerate(state):
        state[key] = state[key] + (number + 1) * (number in changed)
    again = reader.read(reader.rewrite(shared(), state), "m").module.state_dict()
    assert [*again] == [*state]
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_a_layer_that_is_missing_is_named() -> None:
    with pytest.raises(ModelError, match=r"has no layers\.one"):
        reader.rewrite(shared(), {})


def test_a_container_that_comes_back_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    write_checkpoint(path, mnist_cnn(10), Description("mnist_cnn", (1, 28, 28), 10))
    loaded = load_model(path)
    renamed = loaded.classifier.changed(module=nn.Sequential(loaded.classifier.module))

    def otherwise(read: Path) -> LoadedModel:
        return LoadedModel(renamed, load_model(read).origin)

    with pytest.raises(OutputError, match="other names"):
        check_written_back(loaded.origin, loaded.classifier, otherwise)
