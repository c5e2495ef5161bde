"""Which images an ONNX graph takes, and in which order of axes, as far as its input says so."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.checkpoint import MAX_INPUT_VALUES
from neural_cleanse.loading.cures import OTHER_THAN_ONNX
from neural_cleanse.loading.onnx.file import DOUBLE, FLOAT, FLOAT16, WHOLE_NUMBERS
from neural_cleanse.loading.planes import CHANNELS, NO_CHANNELS, square_planes
from neural_cleanse.text import plain

NCHW, NHWC, NHW, FLAT = "n c h w", "n h w c", "n h w", "n (c h w)"
TRIED_SIZES = (224, 32, 28, 64, 96, 128, 299, 384)  # px, where the file leaves the size open
MAX_BATCH = 512  # images that a file may be exported for
LOOK_AHEAD = 30  # nodes in which the first convolution or transposition is looked for
LEADS_ON = ("Add", "Cast", "Div", "Identity", "Mul", "Pad", "Sub")  # what may stand before it


@dataclass(frozen=True)
class ImageInput:
    """The graph's input: None for sizes that it leaves open. `batch` is the number of images it was exported for."""

    name: str
    layout: str
    channels: int | None
    height: int | None
    width: int | None
    batch: int | None
    data_type: int
    assumed: tuple[str, ...]

    def shapes(self) -> Iterator[tuple[int, int, int]]:
        """The shapes (c, h, w) to try, the likeliest first; a single one where nothing is left open."""
        for size, channels in product(TRIED_SIZES, (3, 1)):
            shape = (self.channels or channels, self.height or self.width or size, self.width or self.height or size)
            if (self.channels is None or channels == 3) and (
                None in (self.height, self.width) or size == TRIED_SIZES[0]
            ):
                yield shape


def image_input(graph: Any, name: str) -> ImageInput:
    """The only input that is not an initializer. Raises ModelError unless it can be a batch of images."""
    held = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in held]
    if len(inputs) != 1:
        names = ", ".join(plain(value.name, 30) for value in inputs[:5]) or "none"
        raise ModelError(
            f"{name} takes {len(inputs)} inputs ({names}), a scan needs one: the images.",
            cure="Export the network with the others as constants.",
        )
    kind = inputs[0].type.tensor_type
    if kind.elem_type not in (FLOAT, FLOAT16, DOUBLE, *WHOLE_NUMBERS):
        raise ModelError(
            f"{name} takes values of the ONNX type {kind.elem_type}, not images.",
            cure="Export it for an example of floats, torch.rand(1, channels, height, width).",
        )
    dims = [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]
    if not kind.HasField("shape"):
        dims = [None] * 4
    if len(dims) == 2 and dims[1] is not None:
        return _flat(inputs[0].name, dims[0], dims[1], kind.elem_type, name)
    if len(dims) not in (3, 4):
        raise ModelError(
            f"{name} takes {len(dims)} axes ({', '.join(str(size or 'any') for size in dims[:6])}), not images.",
            cure="A scan needs a network that takes images x channels x height x width.",
        )
    layout, assumed = (NHW, (NO_CHANNELS,)) if len(dims) == 3 else _layout(graph, inputs[0].name, dims)
    channels, height, width = {NCHW: dims[1:], NHWC: [*dims[3:], *dims[1:3]], NHW: [1, *dims[1:]]}[layout]
    if layout == NCHW and channels is None:
        channels = _first_channels(graph, inputs[0].name)
    size = (channels or 1) * (height or 1) * (width or 1)
    if size > MAX_INPUT_VALUES or (dims[0] or 1) > MAX_BATCH:
        raise ModelError(
            f"{name} takes {dims[0] or 'any number of'} images of {size:,} values: too large to be scanned.",
            cure=OTHER_THAN_ONNX,
        )
    return ImageInput(
        name=inputs[0].name,
        layout=layout,
        channels=channels,
        height=height,
        width=width,
        batch=dims[0],
        data_type=kind.elem_type,
        assumed=assumed,
    )


def _flat(value: str, batch: int | None, size: int, data_type: int, name: str) -> ImageInput:
    """Rows of pixels, where their number is that of one or three square planes. Raises ModelError otherwise."""
    row = square_planes(size)
    if row is None or (batch or 1) > MAX_BATCH:
        raise ModelError(
            f"{name} takes rows of {size} values, which are no square image.",
            cure="A scan needs a network that takes images x channels x height x width.",
        )
    channels, height, width = row[0]
    return ImageInput(
        name=value,
        layout=FLAT,
        channels=channels,
        height=height,
        width=width,
        batch=batch,
        data_type=data_type,
        assumed=(row[1],),
    )


def _layout(graph: Any, name: str, dims: list[int | None]) -> tuple[str, tuple[str, ...]]:
    """The order of the four axes: by where 1 or 3 channels stand, else by what the graph does first."""
    first, last = dims[1] in CHANNELS, dims[3] in CHANNELS
    if first != last:
        return (NCHW if first else NHWC), ()
    node = _first_of_note(graph, name)
    if node is not None and node.op_type == "Conv":
        return NCHW, ()
    turned = next((tuple(item.ints) for item in node.attribute if item.name == "perm"), ()) if node is not None else ()
    if turned == (0, 3, 1, 2):
        return NHWC, ("the channels come last, since the graph begins by moving them",)
    return NCHW, ("the channels come first, since nothing says otherwise",)


def _first_of_note(graph: Any, name: str) -> Any:
    """The first convolution or transposition that the images meet, None where something else comes before it."""
    for node in graph.node[:LOOK_AHEAD]:
        if name not in node.input:
            continue
        if node.op_type not in LEADS_ON or not node.output:
            return node if node.op_type in ("Conv", "Transpose") else None
        name = node.output[0]
    return None


def _first_channels(graph: Any, name: str) -> int | None:
    node = _first_of_note(graph, name)
    if node is None or node.op_type != "Conv":
        return None
    groups = next((item.i for item in node.attribute if item.name == "group"), 1)
    shape: Any = next((tensor.dims for tensor in graph.initializer if tensor.name == node.input[1]), ())
    return int(shape[1] * groups) or None if len(shape) == 4 else None
