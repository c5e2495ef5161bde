"""Which values of a torch.export graph are weights of the file: named ones, and those with their dimensions permuted.

Linear layers decompose into products with a transposed weight, and Keras keeps its kernels in another order: both are
still layers over the file's own tensors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from neural_cleanse.loading.graph import Value

ATEN = "torch.ops.aten."
SAME_VALUES = frozenset(f"{ATEN}{name}" for name in ("clone.default", "contiguous.default", "lift_fresh_copy.default"))
TRANSPOSED = " transposed"  # after a value's name; no name in a graph has spaces


@dataclass(frozen=True)
class Stored:
    """A tensor of the file by name, with its dimensions in this order."""

    name: str
    dims: tuple[int, ...]


@dataclass
class Weights:
    """`names`: the graph's names of weights -> the file's; `made_by`: value -> operator and arguments."""

    tensor: Callable[[Stored], Tensor]
    ranks: Callable[[str], int]
    names: dict[str, str] = field(default_factory=dict)
    made_by: dict[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)

    def stored(self, value: Any) -> Stored | None:
        """Where `value` lies in the file, if it does."""
        if not isinstance(value, Value):
            return None
        if value.name in self.names:
            name = self.names[value.name]
            return Stored(name, tuple(range(self.ranks(name))))
        if value.name.endswith(TRANSPOSED):
            inner, order = self.stored(Value(value.name.removesuffix(TRANSPOSED))), [1, 0]
        else:
            target, given = self.made_by.get(value.name, ("", {}))
            inner, order = self.stored(given.get("self")) if _is_reordering(target) else None, _order(target, given)
        if inner is None:
            return None
        order = order or list(range(len(inner.dims)))
        rank = len(inner.dims)
        if sorted(dim % max(rank, 1) for dim in order) != list(range(rank)):
            return None
        return Stored(inner.name, tuple(inner.dims[dim] for dim in order))

    def held(self, value: Any) -> Tensor | None:
        """The tensor when `value` is one of the file's."""
        found = self.stored(value)
        return None if found is None else self.tensor(found)

    def as_linear(self, target: str, given: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """addmm, mm and matmul with a weight are what linear decomposes into; everything else as it is."""
        kind = target.removeprefix(ATEN)
        image, right = {"addmm.default": ("mat1", "mat2"), "mm.default": ("self", "mat2")}.get(kind, ("self", "other"))
        if kind not in ("addmm.default", "mm.default", "matmul.default") or not isinstance(given[right], Value):
            return target, given
        if given.get("beta", 1) != 1 or given.get("alpha", 1) != 1 or self.stored(given[image]) is not None:
            return target, given
        linear = {"input": given[image], "weight": Value(given[right].name + TRANSPOSED)}
        return f"{ATEN}linear.default", linear | ({"bias": given["self"]} if kind == "addmm.default" else {})


def _is_reordering(target: str) -> bool:
    return target in SAME_VALUES or target.removeprefix(ATEN) in ("permute.default", "t.default", "transpose.int")


def _order(target: str, given: Mapping[str, Any]) -> list[int]:
    """The order of the dimensions after an operator; empty when it keeps them."""
    kind = target.removeprefix(ATEN)
    if kind == "permute.default":
        return list(given["dims"])
    if kind == "transpose.int":  # of two dimensions: with more the order does not fit, and it is no weight of a layer
        return [1, 0] if (given["dim0"] - given["dim1"]) % 2 else [0, 1]
    return [1, 0] if kind == "t.default" else []
