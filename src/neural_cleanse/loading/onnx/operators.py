"""The table of ONNX operators: what image classifiers are made of, each as a torch layer or function.

An operator that is not in the table is refused. The meaning of each is that of onnx.ai/onnx/operators, checked in the
tests against onnxruntime.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import OTHER_THAN_ONNX
from neural_cleanse.loading.onnx import layers, pools, shapes, sizes
from neural_cleanse.loading.onnx import resize as resizing
from neural_cleanse.loading.onnx.file import place
from neural_cleanse.loading.onnx.node import Node

Operator = Callable[[Node], Any]


def _each(function: Callable[..., Any], **attributes: float) -> Operator:
    """An operator on every value alone; `attributes` are numbers with their defaults, in the function's order."""

    def operator(node: Node) -> Any:
        return node.call(function, *node.all_data(), *(node.real(name, value) for name, value in attributes.items()))

    return operator


def _fold(function: Callable[[Any, Any], Any]) -> Operator:
    """An operator on any number of inputs, joined pair by pair."""

    def operator(node: Node) -> Any:
        first, *others = node.all_data()
        return reduce(lambda left, right: node.call(function, left, right), others, first)

    return operator


def _mean(node: Node) -> Any:
    return node.call(torch.mul, _fold(torch.add)(node), 1 / node.num_inputs)


def _identity(node: Node) -> Any:
    return node.data(0)


def _dropout(node: Node) -> Any:
    training = node.known(2)
    node.real("ratio")  # takes no part in inference
    node.integer("seed")  # the same
    if node.uses_extras or (node.entry(2) is not None and (training is None or bool(training.any()))):
        raise ModelError(
            f"{place(node.proto)} drops values by chance: the same image gets different answers.",
            cure="Export the network in eval mode: model.eval().",
        )
    return node.data(0)


def _divide(left: Tensor, right: Tensor) -> Tensor:
    if left.is_floating_point() or right.is_floating_point():
        return left / right
    # Whole numbers round towards zero. The smallest one divided by -1 would stop the process, so -1 goes its own way.
    quotient = left // torch.where(right == -1, 1, right)
    rest = left - quotient * right
    return torch.where(right == -1, -left, quotient + ((rest != 0) & ((left < 0) != (right < 0))))


def _modulo(node: Node) -> Any:
    return node.call(_remainder, node.data(0), node.data(1), bool(node.integer("fmod")))


def _remainder(left: Tensor, right: Tensor, like_c: bool) -> Tensor:
    if not left.is_floating_point():
        right = torch.where(right == -1, 1, right)  # the same rest, and no overflow
    return torch.fmod(left, right) if like_c else torch.remainder(left, right)


def _power(node: Node) -> Any:
    return node.call(torch.pow, node.data(0), node.number(1))


def _clip(node: Node) -> Any:
    low = node.real("min") if node.has("min") else node.number(1)
    high = node.real("max") if node.has("max") else node.number(2)
    return node.call(_clipped, node.data(0), low, high)


def _clipped(values: Tensor, low: Any, high: Any) -> Tensor:
    values = values if low is None else values.clamp(min=low)
    return values if high is None else values.clamp(max=high)


def _gelu(node: Node) -> Any:
    return node.call(partial(F.gelu, approximate=node.text("approximate", "none")), node.data(0))


def _hard_sigmoid(values: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * values + beta).clamp(0, 1)


def _selu(values: Tensor, alpha: float, gamma: float) -> Tensor:
    return gamma * F.elu(values, alpha)


def _leaky_relu(values: Tensor, alpha: float) -> Tensor:
    return F.leaky_relu(values, alpha)


def _prelu(values: Tensor, slope: Tensor) -> Tensor:
    return torch.where(values < 0, slope * values, values)


def _thresholded_relu(values: Tensor, alpha: float) -> Tensor:
    return torch.where(values > alpha, values, 0)


def _swish(values: Tensor, alpha: float) -> Tensor:
    return values * torch.sigmoid(alpha * values)


def _softmax(function: Callable[..., Tensor]) -> Operator:
    """Before opset 13 over all axes from `axis` on, since then over that one."""

    def operator(node: Node) -> Any:
        modern = node.opset >= 13
        return node.call(_soft, node.data(0), function, node.integer("axis", -1 if modern else 1), modern)

    return operator


def _soft(values: Tensor, function: Callable[..., Tensor], axis: int, modern: bool) -> Tensor:
    if modern or axis % values.dim() == values.dim() - 1:
        return function(values, dim=axis)
    shares: Tensor = function(values.flatten(axis), dim=-1).unflatten(-1, values.shape[axis:])
    return shares


def _reduction(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Operator:
    def operator(node: Node) -> Any:
        axes, keep = node.whole(1, "axes"), bool(node.integer("keepdims", 1))
        if not axes and isinstance(axes, tuple | None):
            if node.integer("noop_with_empty_axes"):
                return node.data(0)
            axes = tuple(range(len(node.shape(0))))
        node.integer("noop_with_empty_axes")
        if not isinstance(axes, tuple):
            raise ModelError(f"{place(node.proto)} takes its axes from the image.", cure=OTHER_THAN_ONNX)
        return node.call(function, node.data(0), axes, keep)

    return operator


def _product(values: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % values.dim() for axis in axes), reverse=True):
        values = values.prod(axis, keep)
    return values


def _lp_norm(node: Node) -> Any:
    return node.call(_normal, node.data(0), float(node.integer("p", 2)), node.integer("axis", -1))


def _normal(values: Tensor, power: float, axis: int) -> Tensor:
    norm = values.norm(power, axis, keepdim=True)
    return torch.where(norm == 0, 0, values / torch.where(norm == 0, 1, norm))


def _rms_norm(node: Node) -> Any:
    axis = node.integer("axis", -1) % len(node.shape(0))
    node.integer("stash_type", 1)  # computed in float32 here in any case
    axes = tuple(range(axis, len(node.shape(0))))
    return node.call(_rms, node.data(0), node.data(1), axes, node.real("epsilon", 1e-5))


def _rms(values: Tensor, scale: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    return values * torch.rsqrt(values.square().mean(axes, keepdim=True) + epsilon) * scale


def _local_response(node: Node) -> Any:
    numbers = node.real("alpha", 1e-4), node.real("beta", 0.75), node.real("bias", 1.0)
    return node.call(F.local_response_norm, node.data(0), node.integer("size", 1), *numbers)


def _global_pool(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Operator:
    def operator(node: Node) -> Any:
        return node.call(function, node.data(0), tuple(range(2, len(node.shape(0)))), True)

    return operator


def _einsum(node: Node) -> Any:
    equation = node.text("equation", "")
    if not re.fullmatch(r"[A-Za-z,.> -]{1,100}", equation):
        raise ModelError(f"{place(node.proto)} has an equation that is not read.", cure=OTHER_THAN_ONNX)
    return node.call(torch.einsum, equation, node.all_data())


def _l2(values: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return values.square().sum(axes, keep).sqrt()


REDUCTIONS: Mapping[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {
    "ReduceL1": lambda values, axes, keep: values.abs().sum(axes, keep),
    "ReduceL2": _l2,
    "ReduceLogSum": lambda values, axes, keep: values.sum(axes, keep).log(),
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceMax": torch.amax,
    "ReduceMean": torch.mean,
    "ReduceMin": torch.amin,
    "ReduceProd": _product,
    "ReduceSum": torch.sum,
    "ReduceSumSquare": lambda values, axes, keep: values.square().sum(axes, keep),
}
EACH: Mapping[str, Callable[..., Any]] = {
    "Abs": torch.abs, "Acos": torch.acos, "And": torch.logical_and, "Asin": torch.asin, "Atan": torch.atan,
    "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh, "Div": _divide, "Equal": torch.eq, "Erf": torch.erf,
    "Exp": torch.exp, "Floor": torch.floor, "Greater": torch.gt, "GreaterOrEqual": torch.ge,
    "HardSwish": F.hardswish, "IsNaN": torch.isnan, "Less": torch.lt, "LessOrEqual": torch.le, "Log": torch.log,
    "Mish": F.mish, "Mul": torch.mul, "Neg": torch.neg, "Not": torch.logical_not, "Or": torch.logical_or,
    "PRelu": _prelu, "Reciprocal": torch.reciprocal, "Relu": F.relu, "Round": torch.round, "Sigmoid": torch.sigmoid,
    "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Softplus": F.softplus, "Softsign": F.softsign,
    "Sqrt": torch.sqrt, "Sub": torch.sub, "Tan": torch.tan, "Tanh": torch.tanh, "Where": torch.where,
    "Xor": torch.logical_xor,
}  # fmt: skip
OPERATORS: Mapping[str, Operator] = {
    **{name: _each(function) for name, function in EACH.items()},
    **{name: _reduction(function) for name, function in REDUCTIONS.items()},
    "Add": layers.add,
    "Attention": layers.attention,
    "AveragePool": pools.average_pool,
    "BatchNormalization": layers.batch_norm,
    "Cast": sizes.cast,
    "CastLike": sizes.cast_like,
    "Celu": _each(F.celu, alpha=1.0),
    "Clip": _clip,
    "Concat": shapes.concat,
    "Constant": sizes.constant,
    "ConstantOfShape": sizes.constant_of_shape,
    "Conv": layers.conv,
    "ConvTranspose": layers.transposed,
    "DepthToSpace": shapes.depth_to_space,
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Elu": _each(F.elu, alpha=1.0),
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Gather": shapes.gather,
    "GatherElements": shapes.gather_elements,
    "GatherND": shapes.gather_nd,
    "Gelu": _gelu,
    "Gemm": layers.gemm,
    "GlobalAveragePool": _global_pool(torch.mean),
    "GlobalMaxPool": _global_pool(torch.amax),
    "GroupNormalization": layers.group_norm,
    "HardSigmoid": _each(_hard_sigmoid, alpha=0.2, beta=0.5),
    "Identity": _identity,
    "InstanceNormalization": layers.instance_norm,
    "LRN": _local_response,
    "LayerNormalization": layers.layer_norm,
    "LeakyRelu": _each(_leaky_relu, alpha=0.01),
    "LogSoftmax": _softmax(F.log_softmax),
    "LpNormalization": _lp_norm,
    "MatMul": layers.matmul,
    "Max": _fold(torch.maximum),
    "MaxPool": pools.max_pool,
    "Mean": _mean,
    "Min": _fold(torch.minimum),
    "Mod": _modulo,
    "Pad": shapes.pad,
    "Pow": _power,
    "RMSNormalization": _rms_norm,
    "Range": sizes.arange,
    "Reshape": shapes.reshape,
    "Resize": resizing.resize,
    "ScatterND": shapes.scatter_nd,
    "Selu": _each(_selu, alpha=1.6732632423543772, gamma=1.0507009873554805),
    "Shape": sizes.shape,
    "Size": sizes.size,
    "Slice": shapes.slices,
    "Softmax": _softmax(F.softmax),
    "SpaceToDepth": shapes.space_to_depth,
    "Split": shapes.split,
    "Squeeze": shapes.squeeze,
    "Sum": _fold(torch.add),
    "Swish": _each(_swish, alpha=1.0),
    "ThresholdedRelu": _each(_thresholded_relu, alpha=1.0),
    "Tile": shapes.tile,
    "Transpose": shapes.transpose,
    "Trilu": shapes.trilu,
    "Unsqueeze": shapes.unsqueeze,
    "Upsample": resizing.upsample,
}
