"""One node of an ONNX graph as the operators' tables see it: inputs by kind, attributes by type."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import OTHER_THAN_ONNX
from neural_cleanse.loading.graph import Value
from neural_cleanse.loading.onnx.builder import FEW, IMAGE, Builder, Entry, Kind, Weight
from neural_cleanse.loading.onnx.file import place

INT, STRING, TENSOR, INTS = 2, 3, 4, 7  # AttributeProto.AttributeType; FLOAT is 1, FLOATS 6
FLOAT, FLOATS = 1, 6
WEIGHT = ".weight"  # what follows a layer's name in that of its weight
FIELDS = {FLOAT: "f", INT: "i", STRING: "s", TENSOR: "t", FLOATS: "floats", INTS: "ints"}


class Node:
    """A node, its inputs found among what is built. Attributes that nobody asked for are an error: see `leftover`."""

    def __init__(self, builder: Builder, proto: Any) -> None:
        self.builder, self.proto = builder, proto
        self.opset = builder.opset
        self.op_type: str = proto.op_type
        self._attributes = {item.name: item for item in proto.attribute}
        self._asked: set[str] = set()
        missing = [name for name in proto.input if name and name not in builder.entries]
        if missing:
            raise ModelError(f"{place(proto)} needs a value that nothing before it makes.", cure=OTHER_THAN_ONNX)
        self.kind = self._kind()

    def _kind(self) -> Kind:
        entries = [entry for entry in map(self.entry, range(self.num_inputs)) if entry is not None]
        kinds = {entry.kind for entry in entries}
        tensors = [entry.tensor for entry in entries if entry.tensor is not None]
        if Kind.DATA in kinds:
            return Kind.DATA
        if Kind.SHAPE not in kinds:
            return Kind.KNOWN
        weights = any(tensor.is_floating_point() and tensor.numel() > FEW for tensor in tensors)
        return Kind.DATA if weights else Kind.SHAPE

    # --- inputs ---

    @property
    def num_inputs(self) -> int:
        """How many inputs are written down, empty ones included."""
        return len(self.proto.input)

    @property
    def num_outputs(self) -> int:
        """How many outputs are written down."""
        return len(self.proto.output)

    @property
    def uses_extras(self) -> bool:
        """Whether anything needs another output than the first."""
        return any(self.builder.num_uses[name] for name in self.proto.output[1:] if name)

    def entry(self, index: int) -> Entry | None:
        """What is known of an input; None where it is left out."""
        name = self.proto.input[index] if index < self.num_inputs else ""
        return self.builder.entries[name] if name else None

    def data(self, index: int) -> Any:
        """An input to compute with: a tensor while all inputs are known, else what stands for it in a step."""
        entry = self.entry(index)
        if entry is None:
            raise ModelError(f"{place(self.proto)} lacks its input number {index + 1}.", cure=OTHER_THAN_ONNX)
        if entry.kind is Kind.KNOWN:
            return self.builder.constant(self.proto, index) if self.kind is Kind.DATA else entry.tensor
        if entry.kind is Kind.SHAPE and self.kind is Kind.DATA:
            return self.builder.call(_beside, (Value(entry.step_name), Value(IMAGE)), Kind.DATA)
        return Value(entry.step_name)

    def optional(self, index: int) -> Any:
        """As `data`, None where the input is left out."""
        return None if self.entry(index) is None else self.data(index)

    def all_data(self) -> list[Any]:
        """All inputs."""
        return [self.data(index) for index in range(self.num_inputs)]

    def known(self, index: int) -> Tensor | None:
        """The tensor of a constant input, None where it is left out or follows from the image."""
        entry = self.entry(index)
        return entry.tensor if entry is not None else None

    def number(self, index: int, default: float | None = None) -> Any:
        """A constant input of one value as a plain number; what stands for it in a step where it is none."""
        if self.entry(index) is None:
            return default
        tensor = self.known(index)
        return tensor.item() if tensor is not None and tensor.numel() == 1 else self.data(index)

    def whole(self, index: int, attribute: str = "") -> Any:
        """Whole numbers, from an attribute or an input: a tuple where constant, else a Value. None where not given.

        Raises ModelError when they follow from pixels.
        """
        if attribute in self._attributes:
            return self.integers(attribute)
        entry = self.entry(index)
        if entry is None:
            return None
        if entry.kind is Kind.DATA:
            raise ModelError(f"{place(self.proto)} takes a shape that depends on the pixels.", cure=OTHER_THAN_ONNX)
        if entry.tensor is None:
            return Value(entry.step_name)
        if entry.tensor.is_floating_point():
            raise ModelError(f"{place(self.proto)} needs whole numbers.", cure=OTHER_THAN_ONNX)
        return tuple(int(value) for value in entry.tensor.reshape(-1).tolist())

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of an input with 2 images."""
        entry = self.entry(index)
        if entry is None:
            raise ModelError(f"{place(self.proto)} lacks its input number {index + 1}.", cure=OTHER_THAN_ONNX)
        return self.builder.shapes(entry)[0]

    def batch_axis(self, index: int) -> int | None:
        """The axis of an input that grows with the number of images."""
        entry = self.entry(index)
        shapes = self.builder.shapes(entry) if entry is not None else ((), ())
        return next((axis for axis, (two, three) in enumerate(zip(*shapes, strict=True)) if two != three), None)

    # --- attributes ---

    def _attribute(self, name: str, kind: int, default: Any) -> Any:
        self._asked.add(name)
        item = self._attributes.get(name)
        if item is None:
            return default
        if item.type != kind or item.ref_attr_name:
            raise ModelError(f"{place(self.proto)} has an attribute {name} of the wrong type.", cure=OTHER_THAN_ONNX)
        return getattr(item, FIELDS[kind])

    def has(self, name: str) -> bool:
        """Whether the attribute is there."""
        return name in self._attributes

    def integer(self, name: str, default: int = 0) -> int:
        """A whole number."""
        return int(self._attribute(name, INT, default))

    def real(self, name: str, default: float = 0.0) -> float:
        """A number."""
        return float(self._attribute(name, FLOAT, default))

    def text(self, name: str, default: str) -> str:
        """A word."""
        value = self._attribute(name, STRING, default)
        return value if isinstance(value, str) else str(value, "utf-8", "replace")

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...] | None:
        """Whole numbers."""
        value = self._attribute(name, INTS, default)
        return None if value is None else tuple(value)

    def reals(self, name: str) -> tuple[float, ...]:
        """Numbers."""
        return tuple(self._attribute(name, FLOATS, ()))

    def tensor(self, name: str) -> Any:
        """A TensorProto, None where not given."""
        return self._attribute(name, TENSOR, None)

    def leftover(self) -> list[str]:
        """Attributes that nobody asked for: they may change what the operator does."""
        return sorted(set(self._attributes) - self._asked)

    # --- results ---

    def call(self, function: Callable[..., Any], *arguments: Any, kind: Kind | None = None) -> Any:
        """`function`(`arguments`) as a step, or its result where all is known."""
        return self.builder.call(function, arguments, kind or self.kind)

    def calls(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """As `call`, with one result for each of the node's outputs."""
        return self.builder.call(function, arguments, self.kind, results=self.num_outputs)

    def layer(self, layer: nn.Module, weights: Mapping[str, Weight], image: Any) -> Any:
        """A step through `layer`, named as in the file."""
        name = self.proto.input[weights["weight"].index] if "weight" in weights else ""
        wanted = name.removesuffix(WEIGHT) if name.endswith(WEIGHT) else self.proto.name or self.op_type
        return self.builder.add_layer(wanted, layer, weights, image, self.proto)


def _beside(tensor: Tensor, image: Tensor) -> Tensor:
    return tensor.to(image.device)


def weight(index: int, tensor: Tensor, back: Callable[[Tensor], Tensor] | None = None) -> Weight:
    """A layer's parameter out of a node's input; without `back` it only takes that input's shape again."""
    return Weight(index, tensor, back or torch.Tensor.contiguous)
