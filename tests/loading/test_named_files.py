"""Files that are no model, called what they are: the message is the cure."""

from pathlib import Path

import numpy as np
import pytest

from neural_cleanse.errors import UnknownFormat
from neural_cleanse.loading.load import load_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "what", "cure"),
    [
        (POINTER, "git-lfs", "git lfs pull"),
        (b"\n <!DOCTYPE html><html><body>Sign in</body></html>", "web page", "Download it again"),
        (b"<html><head><title>404</title></head></html>", "web page", "Download it again"),
        (b"\x1c\0\0\0TFL3" + bytes(100), "TensorFlow Lite", "Keras model or ONNX"),
    ],
)
@pytest.mark.parametrize("allow_code", [False, True])
def test_what_is_no_model_is_called_what_it_is(
    tmp_path: Path, content: bytes, what: str, cure: str, allow_code: bool
) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(UnknownFormat) as refused:
        load_model(tmp_path / "model.pth", allow_code=allow_code)
    assert what in str(refused.value) and cure in str(refused.value)


def test_a_pickle_in_an_npy_is_never_offered_to_be_run(tmp_path: Path) -> None:
    np.save(tmp_path / "model.npy", np.array([{"weights": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UnknownFormat, match="pickle") as refused:
        load_model(tmp_path / "model.npy")
    assert "allow" not in str(refused.value)


def test_a_distributed_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(b"x")
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(UnknownFormat, match=r"distributed checkpoint.*dcp_to_torch"):
        load_model(tmp_path)
