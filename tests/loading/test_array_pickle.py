"""NumPy arrays in a checkpoint are tensors, and nothing of NumPy is called for them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neural_cleanse.loading.architectures import mnist_cnn
from neural_cleanse.loading.array_pickle import ArrayParts, DtypeParts
from neural_cleanse.loading.checkpoint import read_state_dict
from neural_cleanse.loading.load import load_model
from neural_cleanse.loading.save import save_like


def saved(value: object, path: Path) -> bytes:
    torch.save(value, path)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int64", "int32", "uint8", "bool"])
def test_arrays_are_read_as_they_are(tmp_path: Path, kind: str) -> None:
    weights = np.random.default_rng(0).normal(0, 3, (4, 3, 2)).astype(kind)
    values = {"fc.weight": weights, "fc.bias": np.asfortranarray(weights[0]), "fc.scale": weights[:, :1]}
    read = read_state_dict(saved(values, tmp_path / "m"), "m")
    assert read.notes == ()
    assert all(torch.equal(read.sets[""][name], torch.from_numpy(np.array(part))) for name, part in values.items())


def test_a_model_of_arrays_is_loaded_and_saved(tmp_path: Path) -> None:
    model = mnist_cnn(7)
    torch.save({"net": {name: part.numpy() for name, part in model.state_dict().items()}}, tmp_path / "m.pth")
    loaded = load_model(tmp_path / "m.pth", architecture="mnist_cnn")
    changed = {name: part + 1 for name, part in loaded.classifier.module.state_dict().items()}
    save_like(loaded.origin, changed, tmp_path / "out.pth")
    again = load_model(tmp_path / "out.pth", architecture="mnist_cnn").classifier.module.state_dict()
    assert all(torch.equal(again[name], part + 1) for name, part in model.state_dict().items())


def test_arrays_of_objects_and_words_are_left_out_and_named(tmp_path: Path) -> None:
    values = {"net": mnist_cnn(7).state_dict(), "names": np.array(["a", "b"]), "any": np.array([None, 1], dtype=object)}
    read = read_state_dict(saved(values, tmp_path / "m"), "m")
    assert list(read.sets) == ["net"]
    assert read.notes == ("objects beside the weights were not built: numpy.ndarray",)


@pytest.mark.parametrize(
    "state",
    [
        None,
        (1, (2,), DtypeParts("f4")),
        (1, (2,), DtypeParts("f4"), False, b"1234567"),
        (1, (2**40,), DtypeParts("f4"), False, b"12345678"),
        (1, (-1, -2), DtypeParts("f4"), False, b"12345678"),
        (1, (2.0,), DtypeParts("f4"), False, b"12345678"),
        (1, (2,), DtypeParts("O8"), False, b"1234567812345678"),
        (1, (1,), DtypeParts("f8,f8"), False, b"1234567812345678"),
        (1, (2,), "f4", False, b"12345678"),
        (1, (2,), DtypeParts("f4"), False, "12345678"),
    ],
)
def test_parts_that_do_not_fit_make_no_tensor(state: Any) -> None:
    parts = ArrayParts()
    parts.__setstate__(state)
    assert parts.tensor() is None


def test_bytes_in_another_order_are_turned() -> None:
    kind, parts = DtypeParts("f4"), ArrayParts()
    parts.__setstate__((1, (2,), kind, False, b"12345678"))
    assert parts.tensor() is not None
    kind.__setstate__((3, ">", None, None, None, -1, -1, 0))
    turned = parts.tensor()
    assert turned is not None and turned.tolist() == np.frombuffer(b"12345678", ">f4").tolist()
