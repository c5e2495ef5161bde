"""Weights that NumPy saved: an .npz whose arrays have the names of a network's tensors. Nothing is unpickled.

An archive of images is never taken for one: its arrays have other names (loading/array_names.py).
"""

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.array_names import SUFFIX, dotted
from neural_cleanse.loading.checkpoint import Checkpoint, with_weights
from neural_cleanse.loading.cures import AGAIN
from neural_cleanse.loading.weight_sets import TOP, choose
from neural_cleanse.loading.zip_guard import entries

CONTAINER = "NumPy archive of weights"
KINDS = "fiub"  # of numbers that torch has too: floats, whole numbers, truth values
UNREADABLE = (
    OSError, ValueError, EOFError, RuntimeError, KeyError, TypeError, OverflowError, zipfile.BadZipFile, zlib.error,
    NotImplementedError, tokenize.TokenError, SyntaxError,
)  # fmt: skip


def read(content: bytes, name: str) -> Checkpoint:
    """The arrays of an .npz as tensors. Raises ModelError where one is damaged or no array of plain numbers."""
    return Checkpoint({TOP: _tensors(_arrays(content, name), name)}, CONTAINER)


def rewrite(content: bytes, state: Mapping[str, Tensor]) -> bytes:
    """The same archive with the weights of `state`: names, kinds of number and order stay."""
    arrays = _arrays(content, "the file")
    tensors = _tensors(arrays, "the file")
    changed = with_weights(choose({TOP: tensors}, None, lambda _: state, "the file").fit, tensors, state)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for key, array in arrays.items():
            with archive.open(key + SUFFIX, "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, _as_before(array, changed.get(dotted(key))), allow_pickle=False)
    return stream.getvalue()


def _tensors(arrays: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    tensors = {dotted(key): torch.from_numpy(array) for key, array in arrays.items()}
    if len(tensors) < len(arrays):
        raise ModelError(f"{name} holds two arrays of one name.", cure="Save each under a name of its own.")
    return tensors


def _as_before(array: Any, tensor: Tensor | None) -> Any:
    return array if tensor is None else tensor.detach().cpu().numpy().astype(array.dtype)


def _arrays(content: bytes, name: str) -> dict[str, Any]:
    """Every array by its name, in the file's order and in this machine's order of bytes."""
    found: dict[str, Any] = {}
    infos = entries(content, name)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry, info in infos.items():
            if not entry.endswith(SUFFIX):
                continue
            try:
                array = _array(archive.read(info))
            except UNREADABLE as error:
                why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                raise ModelError(f"{name} is damaged: {entry!r:.80} cannot be read ({why}).", cure=AGAIN) from error
            if array is None:
                raise ModelError(
                    f"{name} holds {entry!r:.80}, which is no array of plain numbers. Nothing was unpickled.",
                    cure="Save its weights as float32, or ask for safetensors or a state_dict.",
                )
            found[entry.removesuffix(SUFFIX)] = array
    return found


def _array(content: bytes) -> Any:
    """One array; None where it holds objects, or numbers that torch does not have. Raises ValueError when damaged."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of its header")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, kind = header(stream)
    if kind.hasobject or kind.kind not in KINDS or kind.itemsize > 8 or kind in (np.uint16, np.uint32, np.uint64):
        return None
    held = len(content) - stream.tell()
    if math.prod(shape) * kind.itemsize != held:
        raise ValueError(f"its header says {math.prod(shape)} values, it holds {held} bytes")
    flat = np.frombuffer(content, kind, offset=stream.tell())
    shaped = flat.reshape(shape, order="F" if fortran else "C")
    return np.array(shaped, dtype=kind.newbyteorder("="), order="C")
