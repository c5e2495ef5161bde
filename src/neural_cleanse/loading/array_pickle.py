"""NumPy arrays in a pickled checkpoint, as tensors: built from shape, type and bytes; nothing of NumPy's is called.

NumPy pickles an array as `_reconstruct(ndarray, (0,), b"b")` with the state (version, shape, dtype, fortran, bytes),
and a dtype as `dtype("f4", False, True)` with a state whose second part is the order of bytes.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

RECONSTRUCT = ("numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct")
DTYPE = "numpy.dtype"
KINDS = ("b1", "i1", "u1", "i2", "i4", "i8", "f2", "f4", "f8")


class DtypeParts:
    """Stands for a dtype: its code, and whether its bytes are in this machine's order."""

    _skipped = DTYPE

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if isinstance(state, tuple) and len(state) > 1 else "?"


class ArrayParts:
    """Stands for an array until it is known that its parts fit each other."""

    _skipped = "numpy.ndarray"

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def tensor(self) -> Tensor | None:
        """The array as a tensor; None where it holds no plain numbers, or fewer bytes than its shape needs."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, kind, fortran, content = self.state
        if not isinstance(kind, DtypeParts) or kind.code not in KINDS or kind.order not in ("<", "=", "|"):
            return None
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            return None
        if not isinstance(content, bytes) or len(content) != math.prod(shape) * int(kind.code[1:]):
            return None
        values = np.frombuffer(content, dtype=f"<{kind.code}").reshape(shape, order="F" if fortran is True else "C")
        return torch.from_numpy(np.array(values, order="C"))


def with_tensors(value: Any, skipped: dict[str, None]) -> Any:
    """The same containers, with a tensor in the place of every array of numbers; the others are named in `skipped`."""
    if isinstance(value, ArrayParts):
        tensor = value.tensor()
        if tensor is None:
            skipped[value._skipped] = None
        return value if tensor is None else tensor
    if isinstance(value, dict):
        for key, part in value.items():
            value[key] = with_tensors(part, skipped)
    elif type(value) in (list, tuple):
        return type(value)(with_tensors(part, skipped) for part in value)
    return value
