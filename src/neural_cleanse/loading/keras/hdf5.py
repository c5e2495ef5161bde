"""HDF5 files as Keras writes them: groups by path, attributes of strings, arrays of floating point numbers.

Arrays lie in one piece in the file, or they are refused: chunks, compression, other files, links. So a read can never
make more of a file than it holds, and writing an array back changes its own bytes and no others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import NOT_FINITE, OTHER_KERAS
from neural_cleanse.loading.keras.hdf5_objects import CURE, EXTERNAL, NOWHERE, Objects

DATASPACE, DATATYPE, LAYOUT, FILTERS, ATTRIBUTE = 0x01, 0x03, 0x08, 0x0B, 0x0C  # kinds of message
WHOLE, FLOAT, STRING, VARIABLE, STRINGS = 0, 1, 3, 9, 1  # classes of datatype, and of variable length the text
COMPACT, CONTIGUOUS = 0, 1  # classes of layout: in the header, or in one piece elsewhere
MAX_RANK = 8  # axes
MAX_PARTS = 16  # of a path in one name
# IEEE 754 by its properties: first bit, bits in all, places and sizes of exponent and mantissa, bias of the exponent.
IEEE: Mapping[tuple[int, ...], str] = {
    (0, 16, 10, 5, 0, 10, 15): "f2",
    (0, 32, 23, 8, 0, 23, 127): "f4",
    (0, 64, 52, 11, 0, 52, 1023): "f8",
}
IMPLIED_ONE = 0x20  # the mantissa's first bit is not stored; bit 0 beside it is the order of the bytes


@dataclass(frozen=True)
class Array:
    """Where the values of an array lie, and how."""

    start: int
    shape: tuple[int, ...]
    kind: np.dtype[np.number]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.kind.itemsize


class Hdf5:
    """One file. Paths are from its root."""

    def __init__(self, content: bytes, name: str) -> None:
        self.name, self.num_bytes = name, len(content)
        self._objects = Objects(content, name)
        self._groups: dict[int, dict[str, int] | None] = {}
        self._attributes: dict[int, dict[str, int]] = {}

    def has(self, path: str) -> bool:
        """Whether there is something at `path`."""
        return self._find(path) is not None

    def children(self, path: str) -> list[str]:
        """The names in a group, in order. Raises ModelError when there is none."""
        return sorted(self._inside(self._group(path)) or {})

    def text(self, attribute: str, path: str = "") -> str | None:
        """A string attribute of a group, or None where there is none."""
        values = self._strings(attribute, path)
        return values[0] if values else None

    def names(self, attribute: str, path: str) -> list[str]:
        """A list of names, which Keras cuts into `attribute`0, `attribute`1, ... where it is too long for one."""
        held = self._attributes_of(self._group(path))
        parts = [attribute] if attribute in held else [f"{attribute}{number}" for number in range(len(held))]
        return [name for part in parts for name in self._strings(part, path)]

    def shape(self, path: str) -> tuple[int, ...]:
        """The shape of an array."""
        return self.array(path).shape

    def tensor(self, path: str) -> Tensor:
        """The array at `path` in float32. Raises ModelError when it is not finite."""
        array = self.array(path)
        self._objects.spend(math.prod(array.shape) * max(array.kind.itemsize, 4))
        held = np.frombuffer(self._objects.content, array.kind, math.prod(array.shape), array.start)
        tensor = torch.from_numpy(held.astype(np.float32)).reshape(array.shape)
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{self.name} holds NaN or Inf in {path!r}.", cure=NOT_FINITE)
        return tensor

    def numbers(self, path: str) -> Any:
        """The array at `path` in its own kind of number, whole numbers too."""
        array = self.array(path, whole_too=True)
        self._objects.spend(array.num_bytes)
        held = np.frombuffer(self._objects.content, array.kind, math.prod(array.shape), array.start)
        return held.astype(array.kind.newbyteorder("=")).reshape(array.shape)

    def array(self, path: str, *, whole_too: bool = False) -> Array:
        """Where the array at `path` lies. Raises ModelError when there is none, or none of numbers in one piece.

        Weights are floating point; with `whole_too` whole numbers are read as well.
        """
        address = self._find(path)
        where = {kind: None if address is None else self._objects.body(address, kind) for kind in _DESCRIBED}
        space, kind, layout = where[DATASPACE], where[DATATYPE], where[LAYOUT]
        if space is None or kind is None or layout is None:
            raise ModelError(f"{self.name} has no array {path!r}.", cure=OTHER_KERAS)
        if where[EXTERNAL] is not None:
            raise ModelError(f"{self.name} keeps {path!r} in another file. It was not read.", cure=CURE)
        shape, number = self._shape(space), self._number_kind(kind)
        if number is None and whole_too:
            number = self._whole_kind(kind)
        if number is None or shape is None or len(shape) > MAX_RANK:
            raise ModelError(f"{self.name} holds no floating point numbers in {path!r}.", cure=OTHER_KERAS)
        version, form = (self._objects.number(layout + at, 1) for at in (0, 1))
        if where[FILTERS] is not None or version != 3 or form not in (COMPACT, CONTIGUOUS):
            raise ModelError(f"{self.name} cuts {path!r} into pieces or packs it, as Keras does not.", cure=CURE)
        start = layout + 4 if form == COMPACT else self._objects.number(layout + 2, 8)
        size = self._objects.number(*((layout + 2, 2) if form == COMPACT else (layout + 10, 8)))
        array = Array(start, shape, number)
        if start == NOWHERE or size != array.num_bytes or start + size > self.num_bytes:
            raise ModelError(f"{self.name} declares more values of {path!r}, {shape}, than it holds.", cure=OTHER_KERAS)
        return array

    def _find(self, path: str) -> int | None:
        """The address of what lies at `path`, part by part; a group may be named by several parts with backslashes.

        So Keras 2.15 on Windows names them.
        """
        address = self._objects.root
        parts = [part for part in path.split("/") if part]
        while parts:
            inside = self._inside(address) or {}
            names = ((count, "\\".join(parts[:count])) for count in range(1, min(len(parts), MAX_PARTS) + 1))
            found = next(((count, name) for count, name in names if name in inside), None)
            if found is None:
                return None
            address, parts = inside[found[1]], parts[found[0] :]
        return address

    def _group(self, path: str) -> int:
        address = self._find(path)
        if address is None or self._inside(address) is None:
            raise ModelError(f"{self.name} has no group {path!r} of weights.", cure=OTHER_KERAS)
        return address

    def _inside(self, address: int) -> dict[str, int] | None:
        if address not in self._groups:
            self._groups[address] = self._objects.children(address)
        return self._groups[address]

    def _attributes_of(self, address: int) -> dict[str, int]:
        """Where the attributes of an object begin, by their names."""
        if address not in self._attributes:
            found: dict[str, int] = {}
            for message in self._objects.messages(address):
                if message.kind == ATTRIBUTE:
                    start, size = message.start + self._lead(message.start), self._objects.number(message.start + 2, 2)
                    name = self._objects.bytes_at(start, size).partition(b"\0")[0]
                    if found.setdefault(name.decode("utf-8", "replace"), message.start) != message.start:
                        self._objects.refuse(f"two attributes of the name {name!r}")
            self._attributes[address] = found
        return self._attributes[address]

    def _lead(self, attribute: int) -> int:
        """Bytes before an attribute's name: since version 3 there is one more, for its alphabet."""
        version, flags = (self._objects.number(attribute + at, 1) for at in (0, 1))
        if version not in (1, 2, 3) or (version > 1 and flags):
            self._objects.refuse(f"an attribute of version {version}")
        return 9 if version == 3 else 8

    def _strings(self, attribute: str, path: str) -> list[str]:
        """The strings of an attribute; none where there is no such attribute, or an empty one."""
        start = self._attributes_of(self._group(path)).get(attribute)
        if start is None:
            return []
        step = 8 if self._objects.number(start, 1) == 1 else 1  # version 1 pads each part to eight bytes
        sizes = [-(-self._objects.number(start + at, 2) // step) * step for at in (2, 4, 6)]
        kind = start + self._lead(start) + sizes[0]
        shape, values = self._shape(kind + sizes[1]), kind + sizes[1] + sizes[2]
        count = 0 if shape is None else math.prod(shape)
        if count == 0:
            return []
        width, form = self._objects.number(kind + 4, 4), self._objects.number(kind, 1) & 15
        text = form == STRING or (
            form == VARIABLE and width == 16 and self._objects.number(kind + 1, 1) & 15 == STRINGS
        )
        if not text:
            raise ModelError(f"{self.name} holds no text in {attribute!r}.", cure=OTHER_KERAS)
        self._objects.spend(count * max(width, 64))  # 64: what the smallest string takes in Python
        places = range(values, values + count * width, width) if width else ()
        strings = (self._objects.string(at) if form == VARIABLE else self._objects.bytes_at(at, width) for at in places)
        return [string.rstrip(b"\0").decode("utf-8", "replace") for string in strings]

    def _shape(self, space: int) -> tuple[int, ...] | None:
        """The shape that a dataspace says; None for one without values."""
        version, rank = (self._objects.number(space + at, 1) for at in (0, 1))
        if version not in (1, 2):
            self._objects.refuse(f"a dataspace of version {version}")
        if version == 2 and self._objects.number(space + 3, 1) == 2:
            return None
        start = space + (8 if version == 1 else 4)
        return tuple(self._objects.number(start + 8 * axis, 8) for axis in range(rank))

    def _whole_kind(self, kind: int) -> np.dtype[np.number] | None:
        """The datatype at `kind` where it is whole numbers of as many bits as their bytes have, else None."""
        form, flags, *rest = (self._objects.number(kind + at, 1) for at in range(4))
        size, first, bits = (self._objects.number(kind + at, width) for at, width in ((4, 4), (8, 2), (10, 2)))
        if form & 15 != WHOLE or flags & ~9 or any(rest) or size not in (1, 2, 4, 8) or (first, bits) != (0, 8 * size):
            return None
        return np.dtype(f"{'>' if flags & 1 else '<'}{'i' if flags & 8 else 'u'}{size}")

    def _number_kind(self, kind: int) -> np.dtype[np.number] | None:
        """The datatype at `kind` where it is IEEE floating point, else None."""
        form, order, sign, rest = (self._objects.number(kind + at, 1) for at in range(4))
        size, *fields = (self._objects.number(kind + at, width) for at, width in _FLOAT_FIELDS)
        code = IEEE.get(tuple(fields))
        expected = None if code is None else (FLOAT, 8 * int(code[1]) - 1, 0, int(code[1]))
        if (form & 15, sign, rest, size) != expected or order & ~1 != IMPLIED_ONE:
            return None
        return np.dtype((">" if order & 1 else "<") + str(code))


_FLOAT_FIELDS = ((4, 4), (8, 2), (10, 2), (12, 1), (13, 1), (14, 1), (15, 1), (16, 4))  # places and bytes: size, IEEE
_DESCRIBED = (DATASPACE, DATATYPE, LAYOUT, FILTERS, EXTERNAL)


def rewritten(content: bytes, name: str, arrays: Mapping[str, Tensor]) -> bytes:
    """The same file with other values in the arrays at these paths, in each array's own kind of number."""
    file, changed = Hdf5(content, name), bytearray(content)
    for path, tensor in arrays.items():
        array = file.array(path)
        values = tensor.detach().cpu().reshape(array.shape).numpy().astype(array.kind)
        changed[array.start : array.start + array.num_bytes] = values.tobytes()
    return bytes(changed)
