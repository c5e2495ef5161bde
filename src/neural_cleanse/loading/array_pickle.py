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
SCALAR = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
FROM_BUFFER = ("numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer")  # pickle protocol 5
KINDS = ("b1", "i1", "u1", "i2", "u2", "i4", "i8", "f2", "f4", "f8")


def _text(value: Any) -> Any:
    """Python 2 wrote bytes where Python 3 writes text."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


class DtypeParts:
    """Stands for a dtype: its code, and whether its bytes are in this machine's order."""

    _skipped = DTYPE

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code, self.order = _text(code), "="

    def __setstate__(self, state: Any) -> None:
        self.order = _text(state[1]) if isinstance(state, tuple) and len(state) > 1 else "?"


class ArrayParts:
    """Stands for an array until it is known that its parts fit each other."""

    _skipped = "numpy.ndarray"

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> Any:
        """The array; None where it holds no plain numbers, or other bytes than its shape needs."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, kind, fortran, content = self.state
        if not isinstance(kind, DtypeParts) or kind.code not in KINDS or kind.order not in ("<", ">", "=", "|"):
            return None
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            return None
        if not isinstance(content, bytes | bytearray) or len(content) != math.prod(shape) * int(kind.code[1:]):
            return None
        order = ">" if kind.order == ">" else "<"
        values = np.frombuffer(content, dtype=f"{order}{kind.code}").reshape(
            shape, order="F" if fortran is True else "C"
        )
        return np.array(values, dtype=values.dtype.newbyteorder("="), order="C")

    def tensor(self) -> Tensor | None:
        """The array as a tensor, or None."""
        values = self.array()
        return None if values is None else torch.from_numpy(values)


class ScalarParts(ArrayParts):
    """Stands for one number of NumPy's: its dtype and its bytes."""

    def __init__(self, kind: Any = None, content: Any = None) -> None:
        self.state = (1, (), kind, False, content)


class BufferParts(ArrayParts):
    """Stands for an array of pickle protocol 5: its bytes, dtype, shape, order, and its axes where they are turned."""

    def __init__(
        self, content: Any = None, kind: Any = None, shape: Any = None, order: Any = None, axes: Any = None
    ) -> None:
        self.state, self.axes = (1, shape, kind, order == "F", content), axes if order == "K" else None

    def array(self) -> Any:
        """The array, or None."""
        values = super().array()
        if values is None or self.axes is None:
            return values
        if not isinstance(self.axes, list | tuple) or sorted(map(str, self.axes)) != sorted(
            map(str, range(values.ndim))
        ):
            return None
        return np.ascontiguousarray(values.transpose(self.axes))


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
