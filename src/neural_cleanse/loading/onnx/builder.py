"""From the nodes of an ONNX graph to a GraphNetwork, one node after the other in the file's order.

Every value is of one of three kinds: KNOWN (constants and all that follows from them: computed here, once), SHAPE
(follows from the size of the image, computed with each batch on the CPU) and DATA (follows from the pixels). What
follows from pixels is run dry beside it, without memory (torch's meta device), with 2 images and with 3: that gives
every shape, refuses what would be too large before anything is reserved, and shows which axis counts the images.
"""

import enum
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from neural_cleanse.errors import ModelError, UnusableOutputs
from neural_cleanse.loading.cures import NOT_FINITE, OTHER_THAN_ONNX
from neural_cleanse.loading.dry_run import DryRun, TooLarge
from neural_cleanse.loading.graph import GraphNetwork, Step, Value, filled, names_in
from neural_cleanse.loading.onnx.file import FLOATS, place, tensor_of
from neural_cleanse.text import plain

IMAGE = "image"
DRY_RUN = (2, 3)  # images
MAX_VALUES, MAX_TOTAL = 2**25, 2**29  # values that one image may take in one result, and in all of them
# Values in a result that follows from the image's size (shapes, positions, masks), which is computed for good: kept,
# and foreseen.
MAX_SHAPE_VALUES, MAX_SHAPE_PRODUCT = 2**20, 2**24
FEW = 8  # floats in a constant that belongs to a computation of shapes


class Kind(enum.Enum):
    """What a value of the graph follows from."""

    KNOWN = enum.auto()
    SHAPE = enum.auto()
    DATA = enum.auto()


@dataclass
class Entry:
    """A value of the graph: its tensor where it is KNOWN, else its name in the steps.

    `data_type` is the ONNX type in the file. `layer` is the layer that made it, while that may still take a bias;
    `bound` says that it has a name in the graph.
    """

    kind: Kind
    tensor: Tensor | None = None
    step_name: str = ""
    data_type: int = 0
    layer: str | None = None
    bound: bool = False


@dataclass
class Slot:
    """Where a tensor of the network's state_dict came from: inputs of nodes, and how it goes back to what they take."""

    uses: list[tuple[Any, int]]
    entry: Entry
    back: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Weight:
    """A layer's parameter: `tensor`, made of the node's input number `index`, and the way `back` to that input."""

    index: int
    tensor: Tensor
    back: Callable[[Tensor], Tensor]


@dataclass
class Builder:
    """The network as far as it is built. `static_batch` is the batch size the file was exported for, if it has one."""

    opset: int
    image_shape: tuple[int, ...]
    static_batch: int | None
    allowance: int  # values that constants may still grow by
    num_uses: Mapping[str, int]
    entries: dict[str, Entry] = field(default_factory=dict)
    slots: dict[str, Slot] = field(default_factory=dict)
    _steps: list[Step] = field(default_factory=list)
    _layers: dict[str, nn.Module] = field(default_factory=dict)
    _constants: dict[str, Slot] = field(default_factory=dict)
    _by_step_name: dict[str, Entry] = field(default_factory=dict)
    _dry: tuple[DryRun, ...] = ()

    def __post_init__(self) -> None:
        few, more = DRY_RUN
        self._dry = DryRun(few), DryRun(more, MAX_VALUES, MAX_TOTAL)
        for dry in self._dry:
            dry.take_images(IMAGE, self.image_shape)
        self._by_step_name[IMAGE] = Entry(Kind.DATA, step_name=IMAGE)

    def bind(self, name: str, result: Any, data_type: int = 0) -> None:
        """Give a result of a step, or a constant, its name in the graph. Raises ModelError when it has one twice."""
        if not name or name in self.entries:
            raise ModelError(
                f"A value of the graph has no name, or one that is taken: {plain(name)!r}.", cure=OTHER_THAN_ONNX
            )
        if isinstance(result, Value):
            entry = self._by_step_name[result.name]
            if entry.bound:  # by this name others may use it too, so that it can take no bias
                entry.layer = None
            entry.bound = True
            self.entries[name] = entry
        else:
            self.entries[name] = Entry(Kind.KNOWN, tensor=result, data_type=data_type)

    def shapes(self, entry: Entry) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of a value with 2 images and with 3."""
        first, second = (entry.tensor if entry.tensor is not None else dry.values[entry.step_name] for dry in self._dry)
        return tuple(first.shape), tuple(second.shape)

    def call(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        kind: Kind,
        layer: str | None = None,
        results: int | None = None,
    ) -> Any:
        """The Value (a tuple of them, where there are several `results`) of a new step; a tensor where all is known."""
        if not any(names_in(argument) for argument in arguments):
            return self._folded(function, arguments)
        foreseen = [filled(argument, self._dry[1].values) for argument in arguments] if kind is Kind.SHAPE else []
        if kind is Kind.SHAPE and _num_results(function, foreseen) > MAX_SHAPE_PRODUCT:
            raise ModelError("The graph computes too much with the sizes of the image alone.", cure=OTHER_THAN_ONNX)
        made = [dry.call(function, arguments) for dry in self._dry]
        pairs = list(zip(*made, strict=True)) if results is not None else [tuple(made)]
        if results is not None and len(pairs) != results:
            raise ModelError(f"An operator with {results} results makes {len(pairs)}.", cure=OTHER_THAN_ONNX)
        names = tuple(f"v{len(self._by_step_name) + number}" for number in range(len(pairs)))
        for step_name, (first, second) in zip(names, pairs, strict=True):
            self._admit(step_name, first, second, kind)
            self._by_step_name[step_name] = Entry(kind, step_name=step_name, layer=layer)
        self._steps.append(Step(names, layer or function, tuple(arguments)))
        return Value(names[0]) if results is None else tuple(Value(step_name) for step_name in names)

    def add_layer(self, wanted: str, layer: nn.Module, weights: Mapping[str, Weight], image: Any, proto: Any) -> Any:
        """A step through a new layer with the file's weights in it."""
        key = re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_")[-60:] or "layer"
        key = f"{key}_layer" if key in dir(nn.ModuleDict()) or key[0].isdigit() else key
        if key in self._layers:
            key = f"{key}_{len(self._layers)}"
        layer.eval()
        result = self.call(layer, (image,), Kind.DATA, layer=key)
        layer.to_empty(device="cpu")
        for buffer in layer.buffers():
            buffer.zero_()
        self._layers[key] = layer
        for part, weight in weights.items():
            self.add_weight(key, part, weight, proto)
        return result

    def add_weight(self, key: str, part: str, weight: Weight, proto: Any) -> None:
        """Put a tensor of the file into a layer. Raises ModelError when it is not finite."""
        if weight.tensor.numel() == 0 or not torch.isfinite(weight.tensor).all():
            raise ModelError(
                f"The weights of {place(proto)} hold NaN or Inf, or nothing: the network cannot be scanned.",
                cure=NOT_FINITE,
            )
        layer = self._layers[key]
        if part in layer._buffers:
            layer._buffers[part] = weight.tensor.clone().contiguous()
        else:
            setattr(layer, part, nn.Parameter(weight.tensor.clone().contiguous()))
        entry = self.entries[proto.input[weight.index]]
        self.slots[f"layers.{key}.{part}"] = Slot([(proto, weight.index)], entry, weight.back)

    def bare_layer(self, entry: Entry) -> nn.Linear | nn.Conv2d | None:
        """The layer without a bias that made the value, if it is one."""
        layer = self._layers.get(entry.layer or "")
        return layer if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is None else None

    def constant(self, proto: Any, index: int) -> Value:
        """A known input of a node as a constant of the network."""
        name = proto.input[index]
        entry = self.entries[name]
        assert entry.tensor is not None
        key = f"c {name}"
        if key not in self._constants:
            self._constants[key] = Slot([], entry, _same)
            for dry in self._dry:
                dry.values[key] = entry.tensor.to("meta")
        self._constants[key].uses.append((proto, index))
        return Value(key)

    def network(self, output: Entry) -> GraphNetwork:
        """The finished network, without the steps that its output does not need."""
        if output.kind is not Kind.DATA:
            raise UnusableOutputs("The output does not depend on the image.", cure=OTHER_THAN_ONNX)
        if tuple(shape[:1] for shape in self.shapes(output)) != tuple((number,) for number in DRY_RUN):
            raise ModelError(
                "The graph mixes the images of a batch, or works for one number of them alone.",
                cure="Export it with a batch of any size: dynamic_axes, or dynamic_shapes.",
            )
        needed, kept = {output.step_name}, []
        for step in reversed(self._steps):
            if needed.intersection(step.results):
                needed.update(name for argument in step.arguments for name in names_in(argument))
                kept.append(step)
        called = {step.call for step in kept}
        layers = {key: layer for key, layer in self._layers.items() if key in called}
        used = {key: slot for key, slot in self._constants.items() if key in needed}
        self.slots.update({f"constant_{number}": slot for number, slot in enumerate(used.values())})
        constants = {key: slot.entry.tensor for key, slot in used.items() if slot.entry.tensor is not None}
        return GraphNetwork(kept[::-1], layers, constants, IMAGE, output.step_name)

    def _folded(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """The result on constants, computed now, once its size is known to be small enough."""
        self.allowance -= _num_results(function, arguments)
        if self.allowance < 0:
            raise ModelError(
                "The graph's constants are far larger than the file that holds them.", cure=OTHER_THAN_ONNX
            )
        with torch.no_grad():
            return function(*arguments)

    def _admit(self, name: str, first: Tensor, second: Tensor, kind: Kind) -> None:
        """Keep a result. Raises ModelError when it takes more memory than an image classifier's."""
        if second.numel() * DRY_RUN[0] > first.numel() * DRY_RUN[1]:
            raise ModelError("A result grows faster than the number of images.", cure=OTHER_THAN_ONNX)
        if kind is Kind.SHAPE and second.numel() > MAX_SHAPE_VALUES:
            raise ModelError(
                f"The sizes of the image alone make a result of {second.numel():,} values.", cure=OTHER_THAN_ONNX
            )
        try:
            for dry, result in zip(self._dry, (first, second), strict=True):
                dry.keep((name,), (result,))
        except TooLarge as error:
            raise ModelError(
                f"For one image the graph makes a result of {error.values:,} values and {error.total:,} in all.",
                cure=OTHER_THAN_ONNX,
            ) from error


def add_initializers(builder: Builder, initializers: Any) -> None:
    """Make the file's tensors known to the builder."""
    for proto in initializers:
        builder.bind(proto.name, tensor_of(proto), proto.data_type if proto.data_type in FLOATS else 0)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _mapped(argument: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(argument, Tensor):
        return function(argument)
    if isinstance(argument, list | tuple):
        return type(argument)(_mapped(part, function) for part in argument)
    return argument


def _num_results(function: Callable[..., Any], arguments: Sequence[Any]) -> int:
    """How many values a result will have: by a dry run, and where it needs real values, at most by what goes in."""
    try:
        with torch.no_grad(), torch.device("meta"):
            dry = function(*(_mapped(argument, lambda tensor: tensor.to("meta")) for argument in arguments))
    except Exception:  # whatever a function says that cannot run dry
        return _num_values(arguments)
    return sum(math.prod(part.shape) for part in (dry if isinstance(dry, list | tuple) else [dry]))


def _num_values(argument: Any) -> int:
    """The product of the numbers of values in all real tensors."""
    if isinstance(argument, Tensor):
        return 1 if argument.is_meta else max(argument.numel(), 1)
    return math.prod(map(_num_values, argument)) if isinstance(argument, list | tuple) else 1
