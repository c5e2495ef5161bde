"""ONNX operators of constants and sizes: what follows from the file, or from the size of the image, not its pixels."""

import math
from typing import Any

import torch
from torch import Tensor

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import OTHER_THAN_ONNX
from neural_cleanse.loading.graph import Value
from neural_cleanse.loading.onnx.builder import IMAGE, MAX_SHAPE_PRODUCT, Kind
from neural_cleanse.loading.onnx.file import DATA_TYPES, FLOATS, place, tensor_of
from neural_cleanse.loading.onnx.node import Node


def whole_numbers(values: Any) -> list[int]:
    """Whole numbers, from a constant or from a tensor computed beside the images."""
    return [int(value) for value in (values.reshape(-1).tolist() if isinstance(values, Tensor) else values)]


def _bounded(shape: list[int]) -> list[int]:
    if min(shape, default=0) < 0 or math.prod(shape) > MAX_SHAPE_PRODUCT:
        raise ModelError(f"The graph asks for a tensor of shape {shape[:8]}.", cure=OTHER_THAN_ONNX)
    return shape


def shape(node: Node) -> Any:
    """Shape: known once the image's size is."""
    last = node.integer("end") if node.has("end") else None
    kind = Kind.KNOWN if node.kind is Kind.KNOWN else Kind.SHAPE
    return node.call(_shape, node.data(0), node.integer("start"), last, kind=kind)


def _shape(values: Tensor, first: int, last: int | None) -> Tensor:
    return torch.tensor(values.shape[first:last], dtype=torch.int64)


def size(node: Node) -> Any:
    """Size: known once the image's size is."""
    return node.call(_size, node.data(0), kind=Kind.KNOWN if node.kind is Kind.KNOWN else Kind.SHAPE)


def _size(values: Tensor) -> Tensor:
    return torch.tensor(math.prod(values.shape), dtype=torch.int64)


def constant(node: Node) -> Any:
    """Constant, in any of its forms but text and sparse tensors."""
    if node.has("value"):
        return tensor_of(node.tensor("value"))
    for name, read in (("value_int", node.integer), ("value_float", node.real)):
        if node.has(name):
            return torch.tensor(read(name))
    if node.has("value_ints"):
        return torch.tensor(node.integers("value_ints"), dtype=torch.int64)
    if node.has("value_floats"):
        return torch.tensor(node.reals("value_floats"), dtype=torch.float32)
    raise ModelError(f"{place(node.proto)} holds neither numbers nor a tensor.", cure=OTHER_THAN_ONNX)


def constant_of_shape(node: Node) -> Any:
    """ConstantOfShape; floats belong to the pixels, whole numbers to the arithmetic of sizes."""
    proto = node.tensor("value")
    value = torch.zeros(1) if proto is None else tensor_of(proto)
    sizes = node.whole(0)
    if not isinstance(sizes, Value) or not value.is_floating_point():
        return node.call(_full, sizes, value.item(), value.dtype)
    return node.call(_full, sizes, value.item(), value.dtype, Value(IMAGE), kind=Kind.DATA)


def _full(shape: Any, value: float, dtype: torch.dtype, image: Tensor | None = None) -> Tensor:
    sizes = whole_numbers(shape)
    if image is None:
        return torch.full(_bounded(sizes), value, dtype=dtype)
    return torch.full(sizes, value, dtype=dtype, device=image.device)


def arange(node: Node) -> Any:
    """Range."""
    return node.call(_arange, *(node.number(index) for index in range(3)))


def _arange(first: Any, last: Any, step: Any) -> Tensor:
    first, last, step = (value.item() if isinstance(value, Tensor) else value for value in (first, last, step))
    _bounded([max(math.ceil((last - first) / step), 0)])
    return torch.arange(first, last, step)


def cast(node: Node) -> Any:
    """Cast; floats of any width are float32 here."""
    to = node.integer("to")
    node.integer("saturate", 1)  # speaks of 8-bit floats
    node.text("round_mode", "up")  # the same
    if to not in DATA_TYPES:
        raise ModelError(f"{place(node.proto)} casts to the ONNX type {to}, which is not read.", cure=OTHER_THAN_ONNX)
    return node.call(Tensor.to, node.data(0), torch.float32 if to in FLOATS else DATA_TYPES[to][2])


def cast_like(node: Node) -> Any:
    """CastLike."""
    node.integer("saturate", 1)  # speaks of 8-bit floats
    node.text("round_mode", "up")  # the same
    return node.call(Tensor.type_as, node.data(0), node.data(1))
