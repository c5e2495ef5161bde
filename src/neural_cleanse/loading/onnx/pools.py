"""ONNX pooling, and the margins and strides that it shares with convolution."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import OTHER_THAN_ONNX
from neural_cleanse.loading.onnx.file import place
from neural_cleanse.loading.onnx.node import Node

MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOLS: Mapping[int, Callable[..., Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def windows(node: Node, kernel: tuple[int, ...]) -> tuple[Any, tuple[int, ...], tuple[int, ...]]:
    """Padding, strides and dilations: the padding as (begin, ..., end, ...), or the word of auto_pad."""
    ones = (1,) * len(kernel)
    strides = node.integers("strides", ones) or ones
    dilations = node.integers("dilations", ones) or ones
    auto = node.text("auto_pad", "NOTSET")
    pads = node.integers("pads", (0,) * 2 * len(kernel)) or (0,) * 2 * len(kernel)
    if not len(strides) == len(dilations) == len(kernel) == len(pads) / 2 or min(*strides, *dilations, *kernel) < 1:
        raise ModelError(f"{place(node.proto)} has windows that do not fit its kernel.", cure=OTHER_THAN_ONNX)
    if min(pads) < 0:
        raise ModelError(f"{place(node.proto)} crops where it should pad.", cure=OTHER_THAN_ONNX)
    if auto == "VALID":
        pads = (0,) * 2 * len(kernel)
    return (auto if auto.startswith("SAME") else pads), strides, dilations


def even(pads: Any) -> bool:
    return not isinstance(pads, str) and pads[: len(pads) // 2] == pads[len(pads) // 2 :]


def padded(
    image: Tensor,
    pads: Any,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    value: float,
) -> Tensor:
    """The image with its margin: SAME makes the output ceil(size / stride), an odd rest going to the end (UPPER)."""
    if isinstance(pads, str):
        sizes = image.shape[-len(kernel) :]
        totals = [
            max((-(-size // step) - 1) * step + (window - 1) * spread + 1 - size, 0)
            for size, window, step, spread in zip(sizes, kernel, strides, dilations, strict=True)
        ]
        small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
        pads = (*large, *small) if pads == "SAME_LOWER" else (*small, *large)
    half = len(pads) // 2
    return F.pad(image, [pads[axis + side] for axis in reversed(range(half)) for side in (0, half)], value=value)


def max_pool(node: Node) -> Any:
    """MaxPool, without its indices."""
    kernel = node.integers("kernel_shape") or ()
    node.integer("storage_order")  # speaks of the indices
    if len(kernel) not in MAX_POOLS or node.uses_extras:
        raise ModelError(f"{place(node.proto)} is not a pooling that is read.", cure=OTHER_THAN_ONNX)
    pads, strides, dilations = windows(node, kernel)
    image, margin = node.data(0), 0
    if even(pads) and all(2 * pad <= window for pad, window in zip(pads, kernel, strict=False)):
        margin = pads[: len(kernel)]
    else:
        image = node.call(padded, image, pads, kernel, strides, dilations, float("-inf"))
    ceil = bool(node.integer("ceil_mode"))
    return node.call(MAX_POOLS[len(kernel)], image, kernel, strides, margin, dilations, ceil)


def average_pool(node: Node) -> Any:
    """AveragePool."""
    kernel = node.integers("kernel_shape") or ()
    pads, strides, dilations = windows(node, kernel)
    count, ceil = bool(node.integer("count_include_pad")), bool(node.integer("ceil_mode"))
    if len(kernel) not in AVERAGE_POOLS or set(dilations) != {1}:
        raise ModelError(f"{place(node.proto)} is not a pooling that is read.", cure=OTHER_THAN_ONNX)
    if even(pads) and all(2 * pad <= window for pad, window in zip(pads, kernel, strict=False)):
        return node.call(AVERAGE_POOLS[len(kernel)], node.data(0), kernel, strides, pads[: len(kernel)], ceil, count)
    return node.call(_average_pool, node.data(0), pads, kernel, strides, ceil, count)


def _average_pool(
    image: Tensor, pads: Any, kernel: tuple[int, ...], strides: tuple[int, ...], ceil: bool, count: bool
) -> Tensor:
    pool, ones = AVERAGE_POOLS[len(kernel)], (1,) * len(kernel)
    mean: Tensor = pool(padded(image, pads, kernel, strides, ones, 0.0), kernel, strides, 0, ceil)
    if count:
        return mean
    inside = padded(torch.ones_like(image[:1, :1]), pads, kernel, strides, ones, 0.0)
    share: Tensor = pool(inside, kernel, strides, 0, ceil)
    return mean / share
