"""ONNX operators that move values about: shapes, slices, joins and margins.

A file exported for a fixed batch names it in its shapes; `reshape` and `concat` lift that to any batch.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import OTHER_THAN_ONNX
from neural_cleanse.loading.graph import Value
from neural_cleanse.loading.onnx.builder import Kind
from neural_cleanse.loading.onnx.file import place
from neural_cleanse.loading.onnx.node import Node
from neural_cleanse.loading.onnx.sizes import whole_numbers


def _of_pixels(node: Node) -> Any:
    """The first input of an operator that has no place in the arithmetic of sizes."""
    if node.kind is Kind.SHAPE:
        raise ModelError(f"{place(node.proto)} computes with sizes, which is not read.", cure=OTHER_THAN_ONNX)
    return node.data(0)


def reshape(node: Node) -> Any:
    """Reshape, its constant shape lifted where it names the batch that the file was exported for."""
    shape = node.whole(1, "shape")
    zero_is_zero = bool(node.integer("allowzero"))
    if isinstance(shape, tuple) and node.kind is Kind.DATA and node.builder.static_batch is not None:
        shape, zero_is_zero = _lifted(node, shape), False
    return node.call(_reshape, node.data(0), shape, zero_is_zero)


def _reshape(values: Tensor, shape: Any, zero_is_zero: bool) -> Tensor:
    sizes = whole_numbers(shape)
    if not zero_is_zero:
        sizes = [values.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return values.reshape(sizes)


def _lifted(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without a size on the axis that counts the images.

    That axis is where the same number of values stands before it as in the input, at the exported batch size.
    """
    axis, static = node.batch_axis(0), node.builder.static_batch
    if axis is None or static is None:
        return shape
    sizes = list(node.shape(0))
    sizes[axis] = sizes[axis] // 2 * static  # the shapes are those for 2 images
    target = [sizes[number] if size == 0 else size for number, size in enumerate(shape)]
    if -1 in target:
        target[target.index(-1)] = math.prod(sizes) // -math.prod(target)
    before = math.prod(sizes[:axis])
    fits = [
        number for number in range(len(target)) if math.prod(target[:number]) == before and target[number] % static == 0
    ]
    if not fits:
        raise ModelError(
            f"{place(node.proto)} mixes the images of the batch that the file was exported for.", cure=OTHER_THAN_ONNX
        )
    if axis in fits and target[axis] == sizes[axis]:
        return (*shape[:axis], 0, *shape[axis + 1 :])  # 0 keeps the input's size
    chosen = fits[0]
    if chosen == 1 and len(target) == 2:  # rows of tokens, for Gemm: tokens x images x features, which it takes as well
        return (target[0], -1, target[1])
    return tuple(-1 if number == chosen else size for number, size in enumerate(target))


def flatten(node: Node) -> Any:
    """Flatten to two axes."""
    return node.call(_flatten, node.data(0), node.integer("axis", 1))


def _flatten(values: Tensor, axis: int) -> Tensor:
    first = math.prod(values.shape[: axis + values.dim() if axis < 0 else axis])
    return values.reshape(first, math.prod(values.shape) // max(first, 1))


def transpose(node: Node) -> Any:
    """Transpose."""
    axes = node.integers("perm") or tuple(reversed(range(len(node.shape(0)))))
    return node.call(torch.permute, node.data(0), axes)


def squeeze(node: Node) -> Any:
    """Squeeze; without axes, all of size 1."""
    axes = node.whole(1, "axes")
    if axes is None:
        axes = tuple(number for number, size in enumerate(node.shape(0)) if size == 1)
    return node.call(_squeeze, node.data(0), axes)


def _squeeze(values: Tensor, axes: Any) -> Tensor:
    numbers = tuple(whole_numbers(axes))
    if any(values.shape[axis] != 1 for axis in numbers):
        raise ModelError(
            "An axis is dropped that has more than one value, perhaps a fixed batch of one.", cure=OTHER_THAN_ONNX
        )
    return values.squeeze(numbers)


def unsqueeze(node: Node) -> Any:
    """Unsqueeze; axes count in the result."""
    return node.call(_unsqueeze, node.data(0), node.whole(1, "axes"))


def _unsqueeze(values: Tensor, axes: Any) -> Tensor:
    numbers = whole_numbers(axes)
    rank = values.dim() + len(numbers)
    for axis in sorted(axis % rank for axis in numbers):
        values = values.unsqueeze(axis)
    return values


def expand(node: Node) -> Any:
    """Expand."""
    return node.call(_expand, node.data(0), node.whole(1))


def _expand(values: Tensor, shape: Any) -> Tensor:
    return values.expand(torch.broadcast_shapes(values.shape, tuple(whole_numbers(shape))))


def tile(node: Node) -> Any:
    """Tile."""
    return node.call(_tile, _of_pixels(node), node.whole(1))


def _tile(values: Tensor, repeats: Any) -> Tensor:
    return values.repeat(whole_numbers(repeats))


def concat(node: Node) -> Any:
    """Concat. A part exported for a fixed batch (a class token) is repeated for each image where others are."""
    parts, axis = node.all_data(), node.integer("axis", 1)
    batch_axes = [node.batch_axis(index) for index in range(node.num_inputs)]
    lead = next((number for number, batch_axis in enumerate(batch_axes) if batch_axis is not None), None)
    if node.builder.static_batch is not None and lead is not None:
        batch_axis = batch_axes[lead]
        if batch_axis != axis % len(node.shape(lead)):
            for number, part in enumerate(parts):
                if batch_axes[number] is None:
                    parts[number] = node.call(_for_each_image, part, parts[lead], batch_axis)
    return node.call(torch.cat, parts, axis)


def _for_each_image(part: Tensor, other: Tensor, axis: int) -> Tensor:
    if part.shape[axis] != 1:
        raise ModelError(
            "A constant differs between the images of the batch that the file was exported for.", cure=OTHER_THAN_ONNX
        )
    return part.expand([other.shape[number] if number == axis else size for number, size in enumerate(part.shape)])


def split(node: Node) -> Any:
    """Split; without sizes into equal parts, the last one smaller."""
    axis, sizes = node.integer("axis"), node.whole(1, "split")
    count = node.integer("num_outputs", node.num_outputs)
    if node.num_outputs == 1:
        return node.call(_whole, node.data(0), sizes, count, axis)
    return node.calls(_split, node.data(0), sizes, count, axis)


def _split(values: Tensor, sizes: Any, count: int, axis: int) -> Any:
    if sizes is None:
        return values.split(-(-values.shape[axis] // count), axis)
    return values.split(whole_numbers(sizes), axis)


def _whole(values: Tensor, sizes: Any, count: int, axis: int) -> Tensor:
    part: Tensor
    (part,) = _split(values, sizes, count, axis)
    return part


def slices(node: Node) -> Any:
    """Slice."""
    starts, ends, axes, steps = (
        node.whole(index, name) for index, name in ((1, "starts"), (2, "ends"), (3, "axes"), (4, "steps"))
    )
    return node.call(_slices, node.data(0), starts, ends, axes, steps)


def _slices(values: Tensor, starts: Any, ends: Any, axes: Any, steps: Any) -> Tensor:
    starts, ends = whole_numbers(starts), whole_numbers(ends)
    axes = list(range(len(starts))) if axes is None else whole_numbers(axes)
    steps = [1] * len(starts) if steps is None else whole_numbers(steps)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, last, step = slice(start, end, step).indices(values.shape[axis])
        if step > 0:
            values = values.narrow(axis, first, max(last - first, 0))
            values = values[(slice(None),) * (axis % values.dim()) + (slice(None, None, step),)] if step > 1 else values
        else:
            rows = torch.arange(first, last, step, device=values.device)
            values = values.index_select(axis, rows)
    return values


def gather(node: Node) -> Any:
    """Gather along one axis; indices below 0 count from the end."""
    axis, indices = node.integer("axis"), node.known(1)
    if indices is not None and indices.dim() == 0:
        return node.call(torch.select, node.data(0), axis, int(indices))
    return node.call(_gather, node.data(0), node.data(1), axis)


def _gather(values: Tensor, indices: Tensor, axis: int) -> Tensor:
    flat = indices.reshape(-1).long()
    rows = values.index_select(axis, torch.where(flat < 0, flat + values.shape[axis], flat))
    return rows.unflatten(axis, indices.shape) if indices.dim() else rows.squeeze(axis)


def gather_elements(node: Node) -> Any:
    """GatherElements."""
    return node.call(_gather_elements, node.data(0), node.data(1), node.integer("axis"))


def _gather_elements(values: Tensor, indices: Tensor, axis: int) -> Tensor:
    return values.gather(axis, torch.where(indices < 0, indices + values.shape[axis], indices).long())


def gather_nd(node: Node) -> Any:
    """GatherND without batch axes."""
    if node.integer("batch_dims"):
        raise ModelError(f"{place(node.proto)} gathers by image, which is not read.", cure=OTHER_THAN_ONNX)
    return node.call(_gather_nd, node.data(0), node.data(1))


def _gather_nd(values: Tensor, indices: Tensor) -> Tensor:
    return values[indices.long().unbind(-1)]


def scatter_nd(node: Node) -> Any:
    """ScatterND without a reduction."""
    if node.text("reduction", "none") != "none":
        raise ModelError(f"{place(node.proto)} adds up what it scatters, which is not read.", cure=OTHER_THAN_ONNX)
    return node.call(_scatter_nd, node.data(0), node.data(1), node.data(2))


def _scatter_nd(values: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    return values.index_put(indices.long().unbind(-1), updates)


def trilu(node: Node) -> Any:
    """Trilu."""
    upper, offset = bool(node.integer("upper", 1)), node.whole(1)
    return node.call(_trilu, node.data(0), (0,) if offset is None else offset, upper)


def _trilu(values: Tensor, offset: Any, upper: bool) -> Tensor:
    return (torch.triu if upper else torch.tril)(values, whole_numbers(offset)[0])


PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def pad(node: Node) -> Any:
    """Pad."""
    mode, value = node.text("mode", "constant"), node.real("value") if node.has("value") else node.number(2, 0.0)
    pads = node.whole(1, "pads")
    if mode not in PAD_MODES or isinstance(value, Value):
        raise ModelError(f"{place(node.proto)} is not a padding that is read.", cure=OTHER_THAN_ONNX)
    return node.call(_pad, _of_pixels(node), pads, node.whole(3), PAD_MODES[mode], value)


def _pad(values: Tensor, pads: Any, axes: Any, mode: str, value: float) -> Tensor:
    numbers = whole_numbers(pads)
    axes = list(range(values.dim())) if axes is None else [axis % values.dim() for axis in whole_numbers(axes)]
    by_axis = {axis: (numbers[at], numbers[at + len(axes)]) for at, axis in enumerate(axes)}
    last = values.dim() - min((axis for axis, sides in by_axis.items() if any(sides)), default=values.dim())
    margins = [side for axis in range(1, last + 1) for side in by_axis.get(values.dim() - axis, (0, 0))]
    return F.pad(values, margins, mode, value if mode == "constant" else None) if margins else values


def depth_to_space(node: Node) -> Any:
    """DepthToSpace."""
    return node.call(_depth_to_space, node.data(0), node.integer("blocksize", 1), node.text("mode", "DCR"))


def _depth_to_space(image: Tensor, block: int, mode: str) -> Tensor:
    if mode == "CRD":
        return F.pixel_shuffle(image, block)
    parts: Tensor = image.unflatten(1, (block, block, -1)).permute(0, 3, 4, 1, 5, 2)
    return parts.flatten(4, 5).flatten(2, 3)


def space_to_depth(node: Node) -> Any:
    """SpaceToDepth."""
    return node.call(_space_to_depth, node.data(0), node.integer("blocksize", 1))


def _space_to_depth(image: Tensor, block: int) -> Tensor:
    parts: Tensor = image.unflatten(3, (-1, block)).unflatten(2, (-1, block))  # n c h b w b
    return parts.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
