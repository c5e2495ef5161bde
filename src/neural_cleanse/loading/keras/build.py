"""From a described Keras model and its arrays to a network of torch modules.

The network is first put together without memory, and run so: every layer sees the shapes that it will meet, and a file
whose layers ask for more than it is worth is refused before anything is allocated.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neural_cleanse.errors import CheckpointMismatch, ModelError
from neural_cleanse.loading.cures import OTHER_KERAS
from neural_cleanse.loading.dry_run import DryRun, TooLarge
from neural_cleanse.loading.graph import GraphNetwork, Step, Value
from neural_cleanse.loading.keras.config import Layer, Model, Reference
from neural_cleanse.loading.keras.hdf5 import Hdf5
from neural_cleanse.loading.keras.layers import pieces
from neural_cleanse.loading.keras.spec import UNREAD, LayerInput, LayerSpec, WeightLayout, variables
from neural_cleanse.loading.keras.weight_paths import Place
from neural_cleanse.text import first_line, quoted

MAX_VALUES = 2**24  # of one layer's output for one image: 64 channels of 512 x 512
MAX_SUM, SUM_PER_BYTE = 2**27, 64  # of all layers' outputs for one image: so many, or so many a byte of the file
STAND_IN = 224  # rows and columns of an input whose size the file leaves open
IMAGE = "image"
FLAT_CHANNELS = (1, 3)  # of images whose pixels come in one row
NO_LAYERS = nn.ModuleDict()  # its own attributes are names that no layer can have


@dataclass(frozen=True)
class Built:
    """The network, how many values it answers with, and for each tensor of its state where the file keeps it."""

    module: GraphNetwork
    num_classes: int | None
    sources: Mapping[str, tuple[str, WeightLayout, tuple[int, ...]]]


def build(model: Model, file: Hdf5, places: Mapping[Place, str], *, channels_last: bool, keras3: bool) -> Built:
    """Build `model` with the arrays at `places`. Raises ModelError and CheckpointMismatch."""
    shape = input_shape(model, channels_last=channels_last) or _stand_in(model, file, channels_last=channels_last)
    builder = _Builder(file, places, channels_last=channels_last, keras3=keras3)
    builder.dry.take_images(IMAGE, shape)
    output = builder.expand(model, (), builder.as_taken(model.input_shape, IMAGE))
    num_classes = builder.dry.values[output].shape[1] if builder.dry.values[output].dim() == 2 else None
    output = builder.without_softmax(output)
    sources = builder.fill()
    return Built(GraphNetwork(builder.steps, builder.layers, {}, IMAGE, output).eval(), num_classes, sources)


def input_shape(model: Model, *, channels_last: bool) -> tuple[int, int, int] | None:
    """(channels, height, width) where the file says all three."""
    shape = _as_image(model.input_shape, channels_last=channels_last)
    if shape is None or len(shape) != 3 or None in shape:
        return None
    first, second, third = (size or 0 for size in shape)
    return (third, first, second) if channels_last else (first, second, third)


def _as_image(shape: Sequence[int | None] | None, *, channels_last: bool) -> Sequence[int | None] | None:
    """The shape with the axes that a flat input leaves out: (28, 28) and (784,) are images of 28x28."""
    if shape is None or len(shape) not in (1, 2) or None in shape:
        return shape
    sizes = [size or 0 for size in shape]
    if len(sizes) == 1:
        channels = next((c for c in FLAT_CHANNELS if c * math.isqrt(sizes[0] // c) ** 2 == sizes[0] > 1), None)
        if channels is None:
            return shape
        sizes = [math.isqrt(sizes[0] // channels)] * 2
    else:
        channels = 1
    return [*sizes, channels] if channels_last else [channels, *sizes]


def _stand_in(model: Model, file: Hdf5, *, channels_last: bool) -> tuple[int, int, int]:
    shape = model.input_shape
    channels = None if shape is None or len(shape) != 3 else shape[-1 if channels_last else 0]
    if channels is None:
        raise ModelError(
            f"{file.name} takes {shape or 'inputs of a shape it does not say'}: images are needed.", cure=OTHER_KERAS
        )
    return channels, STAND_IN, STAND_IN


def one_plane(images: Tensor) -> Tensor:
    """n 1 h w as n h w."""
    return images.squeeze(1)


def one_row(images: Tensor) -> Tensor:
    """n c h w as n rows of h w c."""
    return images.permute(0, 2, 3, 1).flatten(1)


class _Builder:
    """Steps, layers and the shapes of all values so far."""

    def __init__(self, file: Hdf5, places: Mapping[Place, str], *, channels_last: bool, keras3: bool) -> None:
        self.file, self.places, self.channels_last, self.keras3 = file, places, channels_last, keras3
        self.steps: list[Step] = []
        self.layers: dict[str, nn.Module] = {}
        self.dry = DryRun(1, MAX_VALUES, max(MAX_SUM, SUM_PER_BYTE * file.num_bytes))
        self._built: dict[tuple[str, ...], tuple[int, list[tuple[str, LayerSpec]]]] = {}  # rank of the input, modules
        self._taken, self._numbers = set[str](), dict[str, int]()

    def as_taken(self, shape: Sequence[int | None] | None, image: str) -> str:
        """The images as a network takes them that leaves out axes: reshaped in Keras' order, channels last."""
        if shape is None or len(shape) not in (1, 2):
            return image
        turned = "flat image"
        call = one_plane if len(shape) == 2 else one_row
        self.dry.values[turned] = call(self.dry.values[image])
        self.steps.append(Step((turned,), call, (Value(image),)))
        return turned

    def expand(self, model: Model, prefix: tuple[str, ...], image: str) -> str:
        """Add the steps of a model that sees the value `image`; the name of its output."""
        results = {Reference(model.image, 0): image}
        by_name = {layer.name: layer for layer in model.layers}
        for reference in self._in_order(model, by_name):
            layer = by_name[reference.layer]
            operands = layer.calls[reference.node]
            inputs = [results[operand] if isinstance(operand, Reference) else operand for operand in operands]
            try:
                if layer.model is None:
                    results[reference] = self._apply(layer, (*prefix, layer.name), inputs)
                else:
                    (value,) = inputs
                    results[reference] = self.expand(layer.model, (*prefix, layer.name), str(value))
            except (KeyError, TypeError, ValueError, RuntimeError, IndexError, OverflowError, AttributeError) as error:
                raise CheckpointMismatch(
                    f"{self.file.name}: the layer {quoted(layer.name)} ({layer.kind}) does not fit its weights or what "
                    f"goes into it: {type(error).__name__} {first_line(error)}",
                    cure=OTHER_KERAS,
                ) from error
        return results[model.output]

    def _in_order(self, model: Model, by_name: Mapping[str, Layer]) -> list[Reference]:
        """All calls that the output needs, each after those it needs itself."""
        image = Reference(model.image, 0)
        done: dict[Reference, None] = {image: None}
        open_calls: set[Reference] = set()
        stack = [model.output]
        while stack:
            call = stack[-1]
            layer = by_name.get(call.layer)
            if layer is None or (call not in done and not 0 <= call.node < len(layer.calls)):
                raise ModelError(
                    f"{self.file.name} needs a layer {quoted(call.layer)} that it does not describe.", cure=OTHER_KERAS
                )
            needed = () if call in done else layer.calls[call.node]
            missing = [operand for operand in needed if isinstance(operand, Reference) and operand not in done]
            if not missing:
                done[call] = None
                stack.pop()
            elif call in open_calls:
                raise ModelError(
                    f"{self.file.name} describes layers in a circle, at {quoted(call.layer)}.", cure=OTHER_KERAS
                )
            else:
                open_calls.add(call)
                stack += missing
        return [call for call in done if call != image]

    def _apply(self, layer: Layer, path: tuple[str, ...], inputs: Sequence[str | float]) -> str:
        """Add the steps of one plain layer; the name of its output."""
        tensors = tuple(self.dry.values[value] for value in inputs if isinstance(value, str))
        rank = tensors[0].dim()
        if path not in self._built:
            names = [name for part in variables(layer.kind, layer.config) for name in part]
            shapes = {name: self.file.shape(self.places[path, name]) for name in names if name != UNREAD}
            given = LayerInput(
                kind=layer.kind,
                config=layer.config,
                shapes=shapes,
                inputs=tensors,
                channels_last=self.channels_last,
                keras3=self.keras3,
            )
            self._built[path] = rank, [(self._key(path, piece), piece) for piece in pieces(given)]
            self.layers |= {key: piece.module.eval() for key, piece in self._built[path][1]}
        elif self._built[path][0] != rank:
            raise ValueError(f"called with {rank} axes, and before with {self._built[path][0]}")
        for key, _ in self._built[path][1]:
            result = f"{key} {len(self.steps)}"
            arguments = tuple(Value(value) if isinstance(value, str) else value for value in inputs)
            self._keep(result, self.dry.call(self.layers[key], arguments), layer)
            self.steps.append(Step((result,), key, arguments))
            inputs = [result]
        (output,) = inputs
        if not isinstance(output, str):
            raise ValueError("a number")
        return output

    def _keep(self, name: str, value: Tensor, layer: Layer) -> None:
        if value.numel() == 0:
            raise ModelError(
                f"{self.file.name}: the layer {quoted(layer.name)} makes nothing of an image.", cure=OTHER_KERAS
            )
        try:
            self.dry.keep((name,), (value,))
        except TooLarge as error:
            raise ModelError(
                f"{self.file.name}: the layer {quoted(layer.name)} makes {error.values:,} values of one image, "
                f"{error.total:,} with those before it. Nothing that large is built.",
                cure=OTHER_KERAS,
            ) from error

    def _key(self, path: tuple[str, ...], piece: LayerSpec) -> str:
        """A name for the module that no other has: the layer's own, of letters and digits."""
        words = re.sub(r"\W+", "_", "_".join((*path, piece.suffix)), flags=re.ASCII).strip("_")[:60] or "layer"
        name = words
        while name in self._taken or hasattr(NO_LAYERS, name):
            self._numbers[words] = self._numbers.get(words, 1) + 1
            name = f"{words}_{self._numbers[words]}"
        self._taken.add(name)
        return name

    def without_softmax(self, output: str) -> str:
        """Leave out a softmax that makes the output; the name of the output then."""
        if not self.steps or self.steps[-1].results != (output,):
            return output
        call, (value,) = self.steps[-1].call, self.steps[-1].arguments[:1]
        if (
            not isinstance(call, str)
            or not isinstance(self.layers[call], nn.Softmax)
            or self.dry.values[output].dim() != 2
        ):
            return output
        self.steps.pop()
        if all(step.call != call for step in self.steps):
            del self.layers[call]
        return str(value.name)

    def fill(self) -> dict[str, tuple[str, WeightLayout, tuple[int, ...]]]:
        """Give every module its tensors; for each the array it came from, how, and the array's shape."""
        sources: dict[str, tuple[str, WeightLayout, tuple[int, ...]]] = {}
        for path, (_, built) in self._built.items():
            for key, piece in built:
                state = dict(piece.constants)
                for name, (variable, rearranged) in piece.weights.items():
                    place = self.places[path, variable]
                    kept = self.file.tensor(place)
                    state[name] = rearranged.to_torch(kept).contiguous()
                    sources[f"layers.{key}.{name}"] = place, rearranged, tuple(kept.shape)
                if isinstance(piece.module, nn.modules.batchnorm._BatchNorm):
                    state["num_batches_tracked"] = torch.zeros((), dtype=torch.long)
                try:
                    piece.module.load_state_dict(state, assign=True)
                except RuntimeError as error:
                    reason = " ".join(str(error).split())
                    raise CheckpointMismatch(
                        f"{self.file.name}: the weights of {quoted(path[-1])} do not fit: {reason}", cure=OTHER_KERAS
                    ) from error
        return sources
