"""Weights in an .npz: tensors by their names, written back as they came; images and pickles are no weights."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shell import run

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import DataError, NeuralCleanseError, UnknownFormat
from neural_cleanse.loading import array_weights
from neural_cleanse.loading.architectures import mnist_cnn
from neural_cleanse.loading.detect import Container, container_of
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.loading.load import load_model
from neural_cleanse.loading.save import save_like

STATE = {key: tensor.numpy() for key, tensor in mnist_cnn(10).state_dict().items()}
IMAGES = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def same(name: str) -> str:
    return name


@pytest.mark.parametrize("rename", [same, lambda name: name.replace(".", "/"), lambda name: f"params/{name}"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_named_arrays_are_the_weights_of_a_named_network(
    tmp_path: Path, rename: Callable[[str], str], save: Callable[..., None], order: str
) -> None:
    state = {key: np.array(value, order=order) for key, value in STATE.items()}  # type: ignore[call-overload]
    save(tmp_path / "w.npz", **{rename(key): value for key, value in state.items()})
    loaded = load_model(tmp_path / "w.npz", architecture="mnist_cnn")
    assert loaded.origin.trust == "tensors only" and loaded.origin.container == "NumPy archive of weights"
    for key, tensor in loaded.classifier.module.state_dict().items():
        assert np.array_equal(tensor.numpy(), STATE[key])


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8"])
def test_a_changed_network_goes_back_in_the_same_names_and_numbers(tmp_path: Path, kind: str) -> None:
    extra = {"epoch": np.int64(7)}
    np.savez(tmp_path / "w.npz", **{key.replace(".", "/"): value.astype(kind) for key, value in STATE.items()}, **extra)
    loaded = load_model(tmp_path / "w.npz", architecture="mnist_cnn")
    changed = {key: tensor + 0.5 for key, tensor in loaded.classifier.module.state_dict().items()}
    save_like(loaded.origin, changed, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as saved:
        assert saved.files == [*(key.replace(".", "/") for key in STATE), "epoch"] and saved["epoch"] == 7
        assert {saved[name].dtype.itemsize for name in saved.files[:-1]} == {np.dtype(kind).itemsize}
        for key, tensor in changed.items():
            assert np.allclose(saved[key.replace(".", "/")], tensor.numpy(), atol=2e-3)


def test_a_usual_network_is_recognised_by_its_names(tmp_path: Path) -> None:
    from neural_cleanse.loading.common.resnet import ResNet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = ResNet("resnet18", 10)
    np.savez(tmp_path / "w.npz", **{key: tensor.numpy() for key, tensor in module.state_dict().items()})
    assert load_model(tmp_path / "w.npz", input_shape=(3, 32, 32)).origin.architecture.startswith("resnet18")


def test_images_are_no_model_and_weights_no_images(tmp_path: Path, demo_files: Path, clean: Classifier) -> None:
    with pytest.raises(UnknownFormat, match="a NumPy array file") as refused:
        load_model(demo_files / "digits.npz", architecture="mnist_cnn")
    assert "--data" in refused.value.cure
    np.savez(tmp_path / "w.npz", **STATE)
    with pytest.raises(NeuralCleanseError, match="no array 'images'") as other:
        load_data(tmp_path / "w.npz")
    assert "as the model" in other.value.cure


@pytest.mark.parametrize(
    ("names", "weights"),
    [(("a.bias",), True), (("dense/kernel", "n"), True), (("lightweight", "n"), False), (("weight", "images"), False)],
)
def test_readers_of_models_and_of_images_agree_on_what_are_weights(
    tmp_path: Path, names: tuple[str, ...], weights: bool
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **{name: np.zeros(4, np.float32) for name in names})
    assert (container_of(path.read_bytes()) is Container.ARRAY_WEIGHTS) is weights
    with pytest.raises(DataError) as refused:
        load_data(path)
    assert ("as the model" in refused.value.cure) is weights


def test_inspect_lists_the_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **STATE)
    ran = run("inspect", tmp_path / "w.npz")
    assert "NumPy archive of weights" in ran.out and all(key in ran.out for key in STATE)


def test_a_batch_takes_weights_and_leaves_images(tmp_path: Path, demo_files: Path) -> None:
    from neural_cleanse.cli.batch.models import find

    np.savez(tmp_path / "w.npz", **STATE)
    (tmp_path / "digits.npz").write_bytes((demo_files / "digits.npz").read_bytes())
    assert [model.path.name for model in find(tmp_path)] == ["w.npz"]


def archive(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(f"{name}.npy", content)
    return stream.getvalue()


def array(value: np.ndarray, *, pickled: bool = False) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, value, allow_pickle=pickled)
    return stream.getvalue()


GOOD = array(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(
    "content",
    [
        array(np.array([print], object), pickled=True), array(np.zeros(3, np.complex64)), array(np.array(["a", "b"])),
        array(np.zeros(2, [("a", "f4")])), GOOD[:-1], GOOD + b"\0", GOOD.replace(b"(2, 3)", b"(9, 9)"),
        GOOD.replace(b"(2, 3), }", b"(2, -3),}"), GOOD.replace(b"<f4", b"<f9"), b"", b"\x93NUMPY", GOOD[:20],
        GOOD.replace(b"\x01\x00", b"\x03\x00", 1), GOOD.replace(b"(2, 3), }", b"(2**9),} "),
    ],
    ids=range(14),
)  # fmt: skip
def test_what_is_no_array_of_numbers_is_refused_in_our_own_words(content: bytes) -> None:
    with pytest.raises(NeuralCleanseError) as refused:
        array_weights.read(archive(weight=content), "w.npz")
    assert "w.npz" in refused.value.message and "allow_pickle" not in str(refused.value)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_gives_weights_or_one_error(place: int, byte: int) -> None:
    content = bytearray(archive(weight=GOOD, bias=array(np.ones(3, np.float32))))
    content[place % len(content)] = byte
    try:
        found = array_weights.read(bytes(content), "w.npz")
    except NeuralCleanseError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in found.sets[""].values())
