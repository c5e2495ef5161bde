"""Weights pickled without `torch.save`: arrays or tensors by name, as `pickle.dump(state_dict, file)` writes them.

Read as plain values (`plain_pickle`); the bytes of each tensor are a small checkpoint, read with `weights_only`.
"""

import io
import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neural_cleanse.loading.plain_pickle import load_plain
from neural_cleanse.loading.zip_guard import is_zip


class _Storage:
    """Stands for `torch.storage._load_from_bytes`."""

    def __new__(cls, content: Any = None) -> Any:
        if not isinstance(content, bytes):
            raise pickle.UnpicklingError("a tensor without bytes")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


class _Rebuilt:
    """Stands for `torch._utils._rebuild_tensor_v2`; torch itself checks that shape and strides fit the storage."""

    def __new__(cls, storage: Any = None, offset: Any = 0, size: Any = (), stride: Any = (), *_: Any) -> Any:
        return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, None)


class _Parameter:
    """Stands for `torch._utils._rebuild_parameter`."""

    def __new__(cls, tensor: Any = None, *_: Any) -> Any:
        return tensor


TENSORS: dict[str, type] = {
    "torch.storage._load_from_bytes": _Storage, "torch._utils._rebuild_tensor_v2": _Rebuilt,
    "torch._utils._rebuild_parameter": _Parameter,
}  # fmt: skip


def load_bare(content: bytes) -> Any:
    """The containers of a bare pickle, with a tensor for every array; None where it is none, or holds anything else."""
    if is_zip(content):
        return None
    try:
        held = load_plain(content, TENSORS)
    except pickle.UnpicklingError:
        return None
    return _tensors(held) if isinstance(held, dict | list | tuple) else None


def _tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, dict):
        return {key: _tensors(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_tensors(part) for part in value)
    return value.detach() if isinstance(value, Tensor) else value
