"""Keras' weights without a description, matched to a network of ours, and written back."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hdf5_files import by_hand, chain, edited
from torch import Tensor, nn

from neural_cleanse.errors import CheckpointMismatch, CodeExecutionRefused, ModelError
from neural_cleanse.loading.keras.weights import assemble, holds_weights_only, rewrite

h5py = pytest.importorskip("h5py")
os.environ["KERAS_BACKEND"] = "torch"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what Keras imports
    keras = pytest.importorskip("keras")
    from keras import layers as kl

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:keras", "ignore:.*:DeprecationWarning")


def randomized(model: Any) -> Any:
    draw = np.random.default_rng(0)
    for variable in model.weights:
        values = draw.normal(0, 0.2, variable.shape)
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.name else values)
    return model


def deepid(num_classes: int = 7) -> Any:
    """DeepID as the CSAW-HackML 2020 contest had it: the layers that our architecture of the name follows."""
    image = keras.Input((55, 47, 3))
    pooled = image
    for filters, kernel in ((20, 4), (40, 3), (60, 3)):
        pooled = kl.MaxPooling2D()(kl.Conv2D(filters, kernel, activation="relu")(pooled))
    convolved = kl.Conv2D(80, 2, activation="relu")(pooled)
    merged = kl.Add()([kl.Dense(160)(kl.Flatten()(pooled)), kl.Dense(160)(kl.Flatten()(convolved))])
    return randomized(keras.Model(image, kl.Dense(num_classes, activation="softmax")(kl.ReLU()(merged))))


def cifar() -> Any:
    layers: list[Any] = [keras.Input((32, 32, 3))]
    for filters in (32, 64, 128):
        for _ in range(2):
            layers += [kl.Conv2D(filters, 3, padding="same", use_bias=False), kl.BatchNormalization(), kl.ReLU()]
        layers.append(kl.MaxPooling2D())
    return randomized(keras.Sequential([*layers, kl.Flatten(), kl.Dense(5)]))


def mnist() -> Any:
    """Its hidden layer has as many values as its last map: only the first linear layer sees a map."""
    layers = [kl.Conv2D(16, 5, activation="relu"), kl.MaxPooling2D(), kl.Conv2D(32, 5, activation="relu")]
    hidden = [kl.MaxPooling2D(), kl.Flatten(), kl.Dense(512, activation="relu"), kl.Dense(10)]
    return randomized(keras.Sequential([keras.Input((28, 28, 1)), *layers, *hidden]))


MODELS = {"deepid": deepid, "cifar_cnn": cifar, "mnist_cnn": mnist}


def old_weights(model: Any) -> bytes:
    """As save_weights of Keras 2 wrote them: a group a layer, in order, and those without weights among them."""
    held = {layer.name: [weight.numpy() for weight in layer.weights] for layer in model.layers}
    return by_hand(None, held)


def new_weights(model: Any, directory: Path) -> bytes:
    path = directory / "m.weights.h5"
    model.save_weights(path)
    return path.read_bytes()


def oracle(model: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(images.permute(0, 2, 3, 1).contiguous(), training=False)).cpu()


def answer(module: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return module.eval()(images)


@pytest.mark.parametrize("era", ["old", "new"])
@pytest.mark.parametrize("name", MODELS)
def test_weights_meet_their_network(tmp_path: Path, name: str, era: str) -> None:
    model = MODELS[name]()
    content = old_weights(model) if era == "old" else new_weights(model, tmp_path)
    assert holds_weights_only(content, "m")
    network = assemble(content, "m", name, allow_code=False)
    assert network.input_shape is not None
    images = torch.rand(3, *network.input_shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = answer(network.module, images), oracle(model, images)
    assert torch.allclose(ours.softmax(1) if name == "deepid" else ours, theirs, atol=1e-4, rtol=1e-4)
    assert network.trust == "tensors only"
    assert any("order and shape" in note for note in network.assumed)
    assert any("epsilon" in note for note in network.assumed) == (name == "cifar_cnn")


@pytest.mark.parametrize("name", MODELS)
def test_changed_weights_go_back(tmp_path: Path, name: str) -> None:
    model = MODELS[name]()
    content = new_weights(model, tmp_path)
    module = assemble(content, "m", name, allow_code=False).module
    assert rewrite(content, module.state_dict(), name) == content
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.9)
    path = tmp_path / "changed.weights.h5"
    path.write_bytes(rewrite(content, module.state_dict(), name))
    model.load_weights(path)
    images = torch.rand(3, *(model.input_shape[-1], *model.input_shape[1:3]))
    ours = answer(module, images)
    expected = oracle(model, images)
    assert torch.allclose(ours.softmax(1) if name == "deepid" else ours, expected, atol=1e-4, rtol=1e-4)


def test_a_whole_model_can_be_read_by_a_network_of_ours_too(tmp_path: Path) -> None:
    model = mnist()
    model.save(tmp_path / "m.h5")
    content = (tmp_path / "m.h5").read_bytes()
    assert not holds_weights_only(content, "m")
    images = torch.rand(2, 1, 28, 28)
    network = assemble(content, "m", "mnist_cnn", allow_code=False)
    assert torch.allclose(answer(network.module, images), oracle(model, images), atol=1e-4, rtol=1e-4)


OWN = """
from torch import nn, Tensor

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.first, self.last = nn.Conv2d(1, 2, 3), nn.Linear(32, 5), nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return self.last({flattened}.relu())

def build() -> nn.Module:
    return Net()
"""
FLATTENED = {
    "self.first(maps.flatten(1).relu() * 1.0)": "followed",
    "self.first(maps.view(-1, 32))": "followed",
    "self.first(maps.reshape(maps.shape[0], -1))": "followed",
    "self.first(maps.permute(0, 2, 3, 1).flatten(1))": "lost",
    "self.first(nn.functional.pad(maps.flatten(1)[:, :30], (1, 1)))": "lost",
    "self.first(maps.flatten(1).roll(1, 1)[:, :30].repeat(1, 2)[:, :32])": "lost",
}


@pytest.mark.parametrize("flattened", FLATTENED)
def test_where_flattening_cannot_be_followed_nothing_is_guessed(tmp_path: Path, flattened: str) -> None:
    file = tmp_path / "net.py"
    file.write_text(OWN.replace("{flattened}", flattened))
    layers = [kl.Conv2D(2, 3), kl.Flatten(), kl.ReLU(), kl.Dense(5, activation="relu"), kl.Dense(3)]
    model = randomized(keras.Sequential([keras.Input((6, 6, 1)), *layers]))
    content, spec = old_weights(model), f"{file}:build"
    with pytest.raises(CodeExecutionRefused):
        assemble(content, "m", spec, allow_code=False, input_shape=(1, 6, 6))
    with pytest.raises(ModelError, match="Nothing says which images"):
        assemble(content, "m", spec, allow_code=True)
    if FLATTENED[flattened] == "lost":
        with pytest.raises(CheckpointMismatch, match="cannot be followed"):
            assemble(content, "m", spec, allow_code=True, input_shape=(1, 6, 6))
        return
    network = assemble(content, "m", spec, allow_code=True, input_shape=(1, 6, 6))
    assert "your own code" in network.trust
    if "relu" in flattened:
        images = torch.rand(2, 1, 6, 6)
        assert torch.allclose(answer(network.module, images), oracle(model, images), atol=1e-4, rtol=1e-4)


def weights(**layers: list[tuple[int, ...]]) -> bytes:
    return by_hand(None, {name: [np.ones(shape) for shape in shapes] for name, shapes in layers.items()})


CONVOLUTIONS: dict[str, list[tuple[int, ...]]] = {"a": [(5, 5, 1, 16), (16,)], "b": [(5, 5, 16, 32), (32,)]}
MISFITS: dict[str, tuple[dict[str, list[tuple[int, ...]]], str]] = {
    "too few": ({**CONVOLUTIONS, "c": [(512, 512), (512,)]}, "has fewer linear layers"),
    "too many": ({**CONVOLUTIONS, **{key: [(512, 512), (512,)] for key in "cde"}}, "left over"),
    "other shape": ({**CONVOLUTIONS, "c": [(512, 500), (500,)], "d": [(500, 10), (10,)]}, "does not fit"),
    "no bias": ({**CONVOLUTIONS, "c": [(512, 512)], "d": [(512, 10), (10,)]}, "has 1 arrays"),
    "another kind of layer": ({**CONVOLUTIONS, "c": [(3, 3, 3), (10,)]}, "only those of convolutions"),
    "a model inside": ({**CONVOLUTIONS, "c": [(512, 512), (512,), (512, 10), (10,)]}, "only those of convolutions"),
    "nothing": ({"a": []}, "no layers with weights"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_weights_of_another_network_are_refused(name: str) -> None:
    layers, message = MISFITS[name]
    with pytest.raises(ModelError, match=message):
        assemble(weights(**layers), "m", "mnist_cnn", allow_code=False)


def test_a_file_of_a_billion_classes_is_refused_unbuilt() -> None:
    content = edited(weights(**CONVOLUTIONS, c=[(512, 512), (512,)], d=[(512, 10), (10,)]), huge)
    with pytest.raises(ModelError, match="than it holds"):
        assemble(content, "m", "mnist_cnn", allow_code=False)


def huge(file: Any) -> None:
    del file["d/d/0:0"]
    file.create_dataset("d/d/0:0", (512, 10**9), "f4")


def test_without_a_name_the_cure_says_so() -> None:
    with pytest.raises(ModelError, match="--architecture NAME"):
        assemble(weights(**CONVOLUTIONS), "m", None, allow_code=False)
    assert not holds_weights_only(by_hand(chain(), {}), "m")
