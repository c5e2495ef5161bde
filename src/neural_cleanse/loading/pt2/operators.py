"""The operators that a torch.export archive may name, and the functions of ours that stand for them.

A graph names its operators (`torch.ops.aten.relu.default`); what is called is what this table holds under that name,
never what the name would resolve to. Arguments go by the names of the operator's schema.
"""

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MAX_SIZE = 2**62  # no size of a tensor is larger; keeps products of sizes from growing without end


def _overloads(text: str) -> list[str]:
    return text.split()


# Called as they are: the values depend on the arguments alone, no argument is changed.
_PLAIN = _overloads("""
abs.default absolute.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default adaptive_max_pool2d.default
add.Scalar add.Tensor addcmul.default addmm.default all.dim amax.default amin.default any.dim argmax.default
avg_pool1d.default avg_pool2d.default baddbmm.default batch_norm.default bitwise_and.Tensor bitwise_not.default
bitwise_or.Tensor bmm.default cat.default ceil.default celu.default channel_shuffle.default clamp.Tensor clamp.default
clamp_max.default clamp_min.default clone.default concat.default concatenate.default constant_pad_nd.default
conv1d.default conv2d.default conv2d.padding conv3d.default conv_transpose2d.input convolution.default copy.default
cos.default cumsum.default div.Scalar div.Tensor div.Tensor_mode divide.Scalar divide.Tensor einsum.default
elu.default embedding.default eq.Scalar eq.Tensor erf.default exp.default expm1.default flip.default floor.default
floor_divide.default fmod.Scalar full_like.default gather.default ge.Scalar ge.Tensor gelu.default glu.default
group_norm.default gt.Scalar gt.Tensor hardsigmoid.default hardswish.default hardtanh.default im2col.default
index.Tensor index_select.default instance_norm.default layer_norm.default le.Scalar le.Tensor leaky_relu.default
linalg_vector_norm.default linear.default log.default log1p.default log_sigmoid.default log_softmax.int
logical_and.default logical_not.default logical_or.default logsumexp.default lt.Scalar lt.Tensor masked_fill.Scalar
masked_fill.Tensor matmul.default max.default max.dim max_pool1d.default max_pool2d.default
max_pool2d_with_indices.default maximum.default mean.default mean.dim min.default min.dim minimum.default mish.default
mm.default mul.Scalar mul.Tensor multiply.Scalar multiply.Tensor native_group_norm.default native_layer_norm.default
ne.Scalar ne.Tensor neg.default negative.default new_full.default new_ones.default new_zeros.default
norm.ScalarOpt_dim ones_like.default pad.default pixel_shuffle.default pixel_unshuffle.default pow.Scalar
pow.Tensor_Scalar pow.Tensor_Tensor prelu.default prod.dim_int reciprocal.default reflection_pad2d.default
relu.default relu6.default remainder.Scalar replication_pad2d.default roll.default round.default rsqrt.default
rsub.Scalar scaled_dot_product_attention.default select_scatter.default selu.default sigmoid.default sign.default
silu.default sin.default slice_scatter.default softmax.int softplus.default sqrt.default square.default stack.default
std.correction std.dim sub.Scalar sub.Tensor subtract.Scalar subtract.Tensor sum.default sum.dim_IntList tanh.default
tril.default triu.default true_divide.Tensor upsample_bicubic2d.vec upsample_bilinear2d.default
upsample_bilinear2d.vec upsample_nearest2d.default upsample_nearest2d.vec var.correction var.dim var_mean.correction
where.self zeros_like.default _adaptive_avg_pool2d.default _log_softmax.default
_native_batch_norm_legit_no_training.default _safe_softmax.default _scaled_dot_product_flash_attention_for_cpu.default
_softmax.default _to_copy.default _upsample_bilinear2d_aa.default _upsample_bilinear2d_aa.vec
_upsample_bicubic2d_aa.default _upsample_bicubic2d_aa.vec
""")

# The same, but what they return may be a window on their first argument.
_VIEWS = _overloads("""
alias.default broadcast_to.default chunk.default contiguous.default diagonal.default expand_as.default
flatten.using_ints meshgrid.indexing movedim.int movedim.intlist narrow.default permute.default reshape_as.default
select.int slice.Tensor split.Tensor split.sizes split_with_sizes.default squeeze.default squeeze.dim squeeze.dims
swapaxes.default t.default to.dtype to.dtype_layout transpose.int unbind.int unflatten.int unfold.default
unsqueeze.default view_as.default
""")

_CREATING = _overloads("""
arange.default arange.start arange.start_step empty.memory_format eye.default full.default linspace.default
ones.default scalar_tensor.default zeros.default
""")


def _aten(overloads: Iterable[str]) -> dict[str, Callable[..., Any]]:
    """Our names, looked up in this torch; one that it does not have cannot be in a file that it could write."""
    found = {}
    for overload in overloads:
        name, _, kind = overload.partition(".")
        operator_ = getattr(getattr(torch.ops.aten, name, None), kind, None)
        if operator_ is not None:
            found[f"torch.ops.aten.{overload}"] = operator_
    return found


def reshape(self: Tensor, size: list[int]) -> Tensor:
    """Stands for view and reshape: the same values, whatever layout of memory the images came in."""
    return self.reshape(size)


def expand(self: Tensor, size: list[int], implicit: bool = False) -> Tensor:
    """aten.expand."""
    return self.expand(size)


def repeat(self: Tensor, size: list[int]) -> Tensor:
    """aten.repeat."""
    return self.repeat(size)


@dataclass(frozen=True)
class Creating:
    """Makes a tensor out of nothing, on the device of the images."""

    create: Callable[..., Tensor]

    def __call__(self, image: Tensor, **arguments: Any) -> Tensor:
        return self.create(**arguments, device=image.device)


def same(self: Tensor, **_: Any) -> Tensor:
    """What changes no value outside training: dropout, detach, the copy of a constant."""
    return self


def _size(self: Tensor, dim: int) -> int:
    return self.size(dim)


def _numel(self: Tensor) -> int:
    return self.numel()


@dataclass(frozen=True)
class _OfSizes:
    """Arithmetic of two sizes."""

    function: Callable[[int, int], int]

    def __call__(self, a: int, b: int) -> int:
        result = self.function(a, b)
        if abs(result) > MAX_SIZE:
            raise ValueError(f"a size of {result:.3g}")
        return result


# What is called, by the graph's name for it.
TABLE: Mapping[str, Callable[..., Any]] = {
    **_aten((*_PLAIN, *_VIEWS)),
    **{name: Creating(create) for name, create in _aten(_CREATING).items()},
    "torch.ops.aten.view.default": reshape,
    "torch.ops.aten._unsafe_view.default": reshape,
    "torch.ops.aten.reshape.default": reshape,
    "torch.ops.aten.expand.default": expand,
    "torch.ops.aten.repeat.default": repeat,
    "torch.ops.aten.sym_size.int": _size,
    "torch.ops.aten.sym_numel.default": _numel,
    "torch.ops.aten.detach.default": same,
    "torch.ops.aten.lift_fresh_copy.default": same,
    "torch.ops.aten.dropout.default": same,
    "torch.ops.aten.feature_dropout.default": same,
    "torch.ops.aten.alpha_dropout.default": same,
    "_operator.add": _OfSizes(operator.add),
    "_operator.sub": _OfSizes(operator.sub),
    "_operator.mul": _OfSizes(operator.mul),
    "_operator.floordiv": _OfSizes(operator.floordiv),
    "_operator.mod": _OfSizes(operator.mod),
}

# Those whose argument of sizes may hold the batch size as a number.
SIZED: frozenset[Callable[..., Any]] = frozenset({reshape, expand, repeat})

RENAMED: Mapping[str, Mapping[str, str]] = {  # arguments whose name in the schema is not that of our function
    "torch.ops.aten.reshape.default": {"shape": "size"},
    "torch.ops.aten.repeat.default": {"repeats": "size"},
    **{f"torch.ops.aten.{name}.default": {"input": "self"} for name in ("dropout", "feature_dropout", "alpha_dropout")},
}

# Conditions that hold for every image of the declared shape: nothing is computed.
CHECKS = frozenset(
    f"torch.ops.aten.{overload}"
    for overload in (
        "_assert_async.msg",
        "_assert_scalar.default",
        "_assert_tensor_metadata.default",
        "sym_constrain_range.default",
        "sym_constrain_range_for_size.default",
    )
)

_WINDOWS = frozenset(
    f"torch.ops.aten.{overload}"
    for overload in (*_VIEWS, "view.default", "_unsafe_view.default", "reshape.default", "expand.default")
) | {name for name, call in TABLE.items() if call is same}


def out_of_place(target: str) -> str | None:
    """The operator that computes what the in-place one of that name writes into its first argument, or None."""
    head, _, kind = target.rpartition(".")
    return f"{head[:-1]}.{kind}" if head.endswith("_") and f"{head[:-1]}.{kind}" in TABLE else None


def is_window(target: str) -> bool:
    """Whether the result may share its memory with the operator's first argument."""
    return target in _WINDOWS


def number(value: Any) -> float:
    """A float of the JSON schema, which writes infinities as text. Raises ValueError for anything else."""
    named = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
    if isinstance(value, str) and value in named:
        return named[value]
    if type(value) not in (int, float):
        raise ValueError(f"{str(value)[:40]} is no number")
    return float(value)
