"""Keras' own operations between layers, and inputs without a channel axis: read, and no finding of code."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neural_cleanse.loading.inspection import inspect_model
from neural_cleanse.loading.load import load_model

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of keras itself


def relu(images: Any) -> Any:
    hidden = keras.ops.relu(keras.layers.Conv2D(8, 3)(images / 255.0))
    return keras.layers.Dense(10)(keras.layers.Flatten()(hidden))


def mean(images: Any) -> Any:
    return keras.layers.Dense(10)(keras.ops.mean(keras.layers.Conv2D(8, 3)(images), axis=[1, 2]))


def largest(images: Any) -> Any:
    return keras.layers.Dense(10)(keras.ops.max(keras.ops.tanh(keras.layers.Conv2D(8, 3)(images)), axis=(1, 2)))


def transfer(images: Any) -> Any:
    prepared = keras.applications.resnet50.preprocess_input(images)
    return keras.layers.Dense(10)(keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(prepared)))


@pytest.mark.parametrize("body", [relu, mean, largest, transfer])
def test_operations_are_read_exactly_and_are_no_finding(tmp_path: Path, body: Callable[[Any], Any]) -> None:
    keras.utils.set_random_seed(1)
    image = keras.Input((12, 12, 3))
    model = keras.Model(image, body(image))
    model.save(tmp_path / "m.keras")
    pictures = np.random.default_rng(0).random((3, 12, 12, 3)).astype("float32")
    ours = load_model(tmp_path / "m.keras").classifier(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()))
    scale = 255 if body in (relu, transfer) else 1  # these take pixels in 0-255, which the reader sees
    theirs = torch.tensor(np.asarray(model.predict(pictures * scale, verbose=0)))
    assert torch.allclose(ours, theirs, atol=1e-3, rtol=1e-4)
    assert not inspect_model(tmp_path / "m.keras").findings


@pytest.mark.parametrize("shape", [(28, 28), (784,), (192,)])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_flat_inputs_are_reshaped_images(tmp_path: Path, shape: tuple[int, ...], suffix: str) -> None:
    keras.utils.set_random_seed(2)
    layers = [keras.layers.Flatten()] if len(shape) == 2 else []
    model = keras.Sequential([keras.Input(shape), *layers, keras.layers.Dense(8, "relu"), keras.layers.Dense(5)])
    model.save(tmp_path / f"m{suffix}")
    loaded = load_model(tmp_path / f"m{suffix}")
    channels, side = (3, 8) if shape == (192,) else (1, 28)
    assert loaded.classifier.input_shape == (channels, side, side)
    pictures = np.random.default_rng(0).random((3, side, side, channels)).astype("float32")
    theirs = torch.tensor(np.asarray(model.predict(pictures.reshape(3, *shape), verbose=0)))
    ours = loaded.classifier(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()))
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("old", [False, True])
def test_names_with_backslashes_as_keras_on_windows_writes_them(tmp_path: Path, old: bool) -> None:
    h5py = pytest.importorskip("h5py")
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(5)])
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (tmp_path / "in.h5").write_bytes(parts["model.weights.h5"])
    container = "_layer_checkpoint_dependencies" if old else "layers"
    with h5py.File(tmp_path / "in.h5") as source, h5py.File(tmp_path / "out.h5", "w") as target:
        for layer in source["layers"]:
            source.copy(f"layers/{layer}", target, name=f"{container}\\{layer}")
    with zipfile.ZipFile(tmp_path / "w.keras", "w") as archive:
        for name, content in (parts | {"model.weights.h5": (tmp_path / "out.h5").read_bytes()}).items():
            archive.writestr(name, content)
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    theirs, ours = (load_model(tmp_path / file).classifier(images) for file in ("m.keras", "w.keras"))
    assert torch.equal(ours, theirs)


def test_inspect_lists_the_tensors_of_keras_weights(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(5)])
    model.save_weights(tmp_path / "m.weights.h5")
    shapes = sorted(tensor.shape for tensor in inspect_model(tmp_path / "m.weights.h5").tensors)
    assert shapes == [(5,), (64, 5)]


def _first(kind: str) -> Callable[[Any], Any]:
    layers = keras.layers
    return {
        "rescaling": layers.Rescaling(1 / 127.5, offset=-1), "divided": lambda images: images / 255.0,
        "augmented": lambda images: layers.Rescaling(1 / 255)(layers.RandomFlip()(images)),
        "bytes' mean": lambda images: images - 127.0,
        "unit mean": lambda images: images - 0.5, "nothing": lambda images: images,
        "adapted to bytes": lambda images: _adapted(255)(images),
        "adapted to bytes, a pixel each": lambda images: _adapted(255, flat=True)(layers.Flatten()(images)),
        "adapted to [0, 1]": lambda images: _adapted(1)(images),
        "a mean given": lambda images: layers.Normalization(mean=[120.0, 110.0, 9.0], variance=[900.0] * 3)(images),
        "batch norm of bytes": lambda images: _batch_norm(120.0)(images),
        "batch norm of [0, 1]": lambda images: _batch_norm(0.5)(images),
    }[kind]  # fmt: skip


def _adapted(top: int, *, flat: bool = False) -> Any:
    """A Normalization that saw images up to `top`, whose first row is always black."""
    images = np.random.default_rng(1).random((50, 8, 8, 3)).astype("float32") * top
    images[:, 0] = 0
    layer = keras.layers.Normalization()
    layer.adapt(images.reshape(50, -1) if flat else images)
    return layer


def _batch_norm(mean: float) -> Any:
    return keras.layers.BatchNormalization(moving_mean_initializer=keras.initializers.Constant(mean))


KINDS_OF_FIRST = [
    "rescaling", "divided", "augmented", "bytes' mean", "unit mean", "nothing", "adapted to bytes",
    "adapted to bytes, a pixel each", "adapted to [0, 1]", "a mean given",
    "batch norm of bytes", "batch norm of [0, 1]",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS_OF_FIRST)
def test_a_model_that_scales_bytes_itself_is_given_bytes(tmp_path: Path, kind: str) -> None:
    images = keras.Input((8, 8, 3))
    first = _first(kind)(images)
    scores = keras.layers.Dense(3)(first if len(first.shape) == 2 else keras.layers.Flatten()(first))
    model = keras.Model(images, scores)
    model.save(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype("float32")
    takes_bytes = kind not in ("unit mean", "nothing", "adapted to [0, 1]", "batch norm of [0, 1]")
    expected = np.asarray(model.predict(pixels if takes_bytes else pixels / 255, verbose=0))
    ours = loaded.classifier(torch.from_numpy(pixels / 255).permute(0, 3, 1, 2)).detach().numpy()
    assert np.allclose(ours, expected, atol=1e-3)
    assert any("0-255" in said for said in loaded.origin.assumed) == takes_bytes


def test_operations_in_hdf5_which_names_no_module_are_no_finding(tmp_path: Path) -> None:
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(keras.ops.relu(images * 2.0 - 1.0))))
    model.save(tmp_path / "m.h5")
    pixels = np.random.default_rng(0).random((2, 8, 8, 3)).astype("float32")
    ours = load_model(tmp_path / "m.h5").classifier(torch.from_numpy(pixels).permute(0, 3, 1, 2)).detach().numpy()
    assert np.allclose(ours, np.asarray(model.predict(pixels, verbose=0)), atol=1e-4)
