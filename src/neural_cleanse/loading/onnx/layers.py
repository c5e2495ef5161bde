"""ONNX operators with weights, as torch layers where their weights are constants, and attention."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import OTHER_THAN_ONNX
from neural_cleanse.loading.onnx.builder import Kind, Weight
from neural_cleanse.loading.onnx.file import place
from neural_cleanse.loading.onnx.node import Node, weight
from neural_cleanse.loading.onnx.pools import even, padded, windows

# By rank.
CONVOLUTIONS: Mapping[int, tuple[Callable[..., nn.Module], Callable[..., Tensor]]] = {
    3: (nn.Conv1d, F.conv1d),
    4: (nn.Conv2d, F.conv2d),
    5: (nn.Conv3d, F.conv3d),
}
TRANSPOSED: Mapping[int, tuple[Callable[..., nn.Module], Callable[..., Tensor]]] = {
    3: (nn.ConvTranspose1d, F.conv_transpose1d),
    4: (nn.ConvTranspose2d, F.conv_transpose2d),
}
BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
INSTANCE_NORMS = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def conv(node: Node) -> Any:
    """Conv."""
    shape = node.shape(1)
    kernel = shape[2:]
    if len(shape) not in CONVOLUTIONS or (node.integers("kernel_shape", kernel) or kernel) != kernel:
        raise ModelError(f"{place(node.proto)} has a kernel that does not fit its weights.", cure=OTHER_THAN_ONNX)
    groups = node.integer("group", 1)
    pads, strides, dilations = windows(node, kernel)
    image = node.data(0)
    margin: Any = 0
    if even(pads):
        margin = pads[: len(kernel)]
    else:
        image = node.call(padded, image, pads, kernel, strides, dilations, 0.0)
    make, function = CONVOLUTIONS[len(shape)]
    tensor, bias = node.known(1), node.known(2)
    if tensor is None or node.kind is not Kind.DATA or (bias is None and node.entry(2) is not None):
        return node.call(function, image, node.data(1), node.optional(2), strides, margin, dilations, groups)
    layer = make(
        tensor.shape[1] * groups,
        tensor.shape[0],
        kernel,
        strides,
        margin,
        dilations,
        groups,
        bias=bias is not None,
        device="meta",
    )
    weights = {"weight": weight(1, tensor)} | ({} if bias is None else {"bias": weight(2, bias)})
    return node.layer(layer, weights, image)


def transposed(node: Node) -> Any:
    """ConvTranspose, with the margins of the file; an uneven one is cut from what is made."""
    shape = node.shape(1)
    kernel = shape[2:]
    if len(shape) not in TRANSPOSED or (node.integers("kernel_shape", kernel) or kernel) != kernel:
        raise ModelError(f"{place(node.proto)} has a kernel that does not fit its weights.", cure=OTHER_THAN_ONNX)
    pads, strides, dilations = windows(node, kernel)
    extra = node.integers("output_padding", (0,) * len(kernel)) or (0,) * len(kernel)
    if isinstance(pads, str) or node.has("output_shape") or len(extra) != len(kernel):
        raise ModelError(
            f"{place(node.proto)} takes its margins from the size of its output, which is not read.",
            cure="Export the network with explicit padding.",
        )
    groups, margin = node.integer("group", 1), pads[: len(kernel)] if even(pads) else 0
    make, function = TRANSPOSED[len(shape)]
    tensor, bias = node.known(1), node.known(2)
    if tensor is None or node.kind is not Kind.DATA or (bias is None and node.entry(2) is not None):
        found = node.call(
            function, node.data(0), node.data(1), node.optional(2), strides, margin, extra, groups, dilations
        )
    else:
        layer = make(
            tensor.shape[0], tensor.shape[1] * groups, kernel, strides, margin, extra, groups,
            bias=bias is not None, dilation=dilations, device="meta",
        )  # fmt: skip
        weights = {"weight": weight(1, tensor)} | ({} if bias is None else {"bias": weight(2, bias)})
        found = node.layer(layer, weights, node.data(0))
    return found if even(pads) else node.call(_cut, found, pads)


def _cut(values: Tensor, pads: tuple[int, ...]) -> Tensor:
    half = len(pads) // 2
    return F.pad(values, [-pads[axis + side] for axis in reversed(range(half)) for side in (0, half)])


def gemm(node: Node) -> Any:
    """Gemm: alpha * A * B + beta * C, as a linear layer where B and C are constants."""
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    turn_a, turn_b = node.integer("transA"), node.integer("transB")
    tensor, bias = node.known(1), node.known(2)
    outputs = node.shape(1)[0 if turn_b else 1]
    row = bias is not None and bias.dim() > 0 and bias.numel() == outputs == bias.shape[-1]
    plain_bias = row or node.entry(2) is None
    if tensor is None or turn_a or not plain_bias or not alpha or not beta or node.kind is not Kind.DATA:
        return node.call(_gemm, node.data(0), node.data(1), node.optional(2), alpha, beta, turn_a, turn_b)
    layer = nn.Linear(tensor.shape[1 if turn_b else 0], outputs, bias=bias is not None, device="meta")
    weights = {"weight": _matrix(1, tensor, turned=bool(turn_b), scale=alpha)}
    if bias is not None:
        weights["bias"] = Weight(2, bias.reshape(-1) * beta, lambda changed: changed / beta)
    return node.layer(layer, weights, node.data(0))


def _gemm(a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float, turn_a: int, turn_b: int) -> Tensor:
    product = alpha * ((a.t() if turn_a else a) @ (b.t() if turn_b else b))
    return product if c is None else product + beta * c


def _matrix(index: int, tensor: Tensor, *, turned: bool, scale: float = 1.0) -> Weight:
    """A matrix as nn.Linear keeps it (outputs x inputs): `turned` says that the file keeps it so too."""
    if turned:
        return Weight(index, tensor * scale, lambda changed: changed / scale)
    return Weight(index, tensor.t() * scale, lambda changed: changed.t() / scale)


def matmul(node: Node) -> Any:
    """MatMul, as a linear layer where its right side is a constant matrix."""
    tensor = node.known(1)
    if tensor is None or tensor.dim() != 2 or node.kind is not Kind.DATA:
        return node.call(torch.matmul, node.data(0), node.data(1))
    layer = nn.Linear(tensor.shape[0], tensor.shape[1], bias=False, device="meta")
    return node.layer(layer, {"weight": _matrix(1, tensor, turned=False)}, node.data(0))


def add(node: Node) -> Any:
    """Add; a constant added to a linear layer or a convolution without a bias becomes its bias."""
    for made, constant in ((0, 1), (1, 0)):
        entry, bias = node.entry(made), node.known(constant)
        layer = node.builder.bare_layer(entry) if entry is not None else None
        if entry is None or bias is None or layer is None or node.builder.num_uses[node.proto.input[made]] != 1:
            continue
        rank, outputs, after = len(node.shape(made)), layer.weight.shape[0], layer.weight.dim() - 2
        if (
            bias.dim() <= rank
            and bias.numel() == outputs
            and tuple(bias.shape[-1 - after :]) == (outputs, *(1,) * after)
        ):
            node.builder.add_weight(entry.layer or "", "bias", weight(constant, bias.reshape(-1)), node.proto)
            return node.data(made)
    return node.call(torch.add, node.data(0), node.data(1))


def batch_norm(node: Node) -> Any:
    """BatchNormalization with the statistics of the file."""
    node.real("momentum")  # takes no part in inference
    epsilon = node.real("epsilon", 1e-5)
    if node.integer("training_mode") and node.kind is Kind.KNOWN:  # weights standardised, no images
        return node.call(F.batch_norm, node.data(0), None, None, node.data(1), node.data(2), True, 0.0, epsilon)
    if node.integer("training_mode") or not node.integer("spatial", 1) or node.uses_extras:
        raise ModelError(
            f"{place(node.proto)} normalises with the batch at hand: one image's answer depends on the others.",
            cure="Export the network in eval mode: model.eval().",
        )
    known = [node.known(index) for index in range(1, 5)]
    rank = len(node.shape(0))
    if node.kind is not Kind.DATA or rank not in BATCH_NORMS or any(tensor is None for tensor in known):
        parts = [node.data(index) for index in range(5)]
        return node.call(_batch_norm, *parts, epsilon)
    names = ("weight", "bias", "running_mean", "running_var")
    weights = {
        part: weight(index, tensor)
        for index, (part, tensor) in enumerate(zip(names, known, strict=True), 1)
        if tensor is not None
    }
    layer = BATCH_NORMS[rank](node.shape(1)[0], eps=epsilon, device="meta")
    return node.layer(layer, weights, node.data(0))


def _batch_norm(image: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    return F.batch_norm(image, mean, variance, scale, bias, eps=epsilon)


def instance_norm(node: Node) -> Any:
    """InstanceNormalization."""
    epsilon, rank = node.real("epsilon", 1e-5), len(node.shape(0))
    scale, bias = node.known(1), node.known(2)
    if scale is None or bias is None or node.kind is not Kind.DATA or rank not in INSTANCE_NORMS:
        return node.call(_instance_norm, node.data(0), node.data(1), node.data(2), epsilon)
    layer = INSTANCE_NORMS[rank](scale.shape[0], eps=epsilon, affine=True, device="meta")
    return node.layer(layer, {"weight": weight(1, scale), "bias": weight(2, bias)}, node.data(0))


def _instance_norm(image: Tensor, scale: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    return F.instance_norm(image, weight=scale, bias=bias, eps=epsilon)


def group_norm(node: Node) -> Any:
    """GroupNormalization; before opset 21 with one scale and bias a group, since then a channel."""
    groups, epsilon = node.integer("num_groups", 1), node.real("epsilon", 1e-5)
    node.integer("stash_type", 1)  # computed in float32 here in any case
    scale, bias, channels = node.known(1), node.known(2), node.shape(0)[1]
    fits = scale is not None and bias is not None and scale.numel() == bias.numel() == channels
    if scale is None or bias is None or not fits or node.kind is not Kind.DATA:
        return node.call(_group_norm, node.data(0), node.data(1), node.data(2), groups, epsilon)
    layer = nn.GroupNorm(groups, channels, eps=epsilon, device="meta")
    return node.layer(layer, {"weight": weight(1, scale), "bias": weight(2, bias)}, node.data(0))


def _group_norm(image: Tensor, scale: Tensor, bias: Tensor, groups: int, epsilon: float) -> Tensor:
    each = image.shape[1] // scale.shape[0]
    return F.group_norm(image, groups, scale.repeat_interleave(each), bias.repeat_interleave(each), epsilon)


def layer_norm(node: Node) -> Any:
    """LayerNormalization over the axes from `axis` on."""
    epsilon, axis = node.real("epsilon", 1e-5), node.integer("axis", -1)
    node.integer("stash_type", 1)  # computed in float32 here in any case
    scale, bias = node.known(1), node.known(2)
    if node.uses_extras:
        raise ModelError(f"{place(node.proto)} hands out its mean, which is not read.", cure=OTHER_THAN_ONNX)
    axes = len(node.shape(0)) - axis if axis >= 0 else -axis
    whole = scale is not None and tuple(scale.shape) == node.shape(0)[-axes:]
    biased = node.entry(2) is None or (scale is not None and bias is not None and bias.shape == scale.shape)
    if scale is None or not whole or not biased or node.kind is not Kind.DATA or node.batch_axis(0) in range(-axes, 0):
        return node.call(_layer_norm, node.data(0), node.data(1), node.optional(2), axes, epsilon)
    layer = nn.LayerNorm(tuple(scale.shape), eps=epsilon, bias=bias is not None, device="meta")
    weights = {"weight": weight(1, scale)} | ({} if bias is None else {"bias": weight(2, bias)})
    return node.layer(layer, weights, node.data(0))


def _layer_norm(values: Tensor, scale: Tensor, bias: Tensor | None, axes: int, epsilon: float) -> Tensor:
    normal = F.layer_norm(values, values.shape[values.dim() - axes :], eps=epsilon) * scale
    return normal if bias is None else normal + bias


def attention(node: Node) -> Any:
    """Attention (opset 23): softmax(scale * Q K^T + mask) V."""
    causal, scale = bool(node.integer("is_causal")), node.real("scale") if node.has("scale") else None
    heads = node.integer("q_num_heads"), node.integer("kv_num_heads")
    extras = any(node.entry(index) is not None for index in range(4, node.num_inputs))
    modes = node.real("softcap"), node.integer("qk_matmul_output_mode")
    node.integer("softmax_precision")  # computed in float32 here in any case
    if extras or any(modes) or node.uses_extras:
        raise ModelError(f"{place(node.proto)} is not an attention that is read.", cure=OTHER_THAN_ONNX)
    return node.call(_attention, *(node.data(index) for index in range(3)), node.optional(3), causal, scale, heads)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
    heads: tuple[int, int],
) -> Tensor:
    flat = query.dim() == 3
    if flat:
        query = query.unflatten(-1, (heads[0], -1)).transpose(1, 2)
        key, value = (part.unflatten(-1, (heads[1], -1)).transpose(1, 2) for part in (key, value))
    mixed = F.scaled_dot_product_attention(
        query, key, value, mask, is_causal=causal, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )
    return mixed.transpose(1, 2).flatten(2) if flat else mixed
