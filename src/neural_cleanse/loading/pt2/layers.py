"""Operators over weights as layers: convolution, linear, normalisation, so that they can be tapped, pruned, retrained.

Layers are built without memory (on the meta device) and given the file's own tensors, shapes compared with each other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neural_cleanse.loading.graph import Value

ATEN = "torch.ops.aten."


@dataclass(frozen=True)
class Layer:
    """A module with the file's tensors in it, and what goes in. `tensors`: its state_dict's keys -> graph names."""

    module: nn.Module
    image: Value
    tensors: Mapping[str, str]


# A tensor of the file when the argument names one, else None.
Held = Callable[[Any], Tensor | None]
Arguments = Mapping[str, Any]


def layer_for(target: str, given: Arguments, held: Held, dims: int) -> Layer | None:
    """The layer that an operator over weights of the file is, or None; `dims` of what goes in, 0 when unknown.

    Raises ValueError, TypeError or KeyError for weights and settings that do not fit each other.
    """
    make = _MAKERS.get(target)
    return None if make is None else make(given, held, dims)


def _placed(module: nn.Module, image: Value, given: Arguments, held: Held, names: Mapping[str, str]) -> Layer:
    """Put the tensors named by the arguments `names` (layer's key -> argument) in their places."""
    tensors = {}
    for key, argument in names.items():
        value, place = given.get(argument), getattr(module, key)
        if value is None:
            continue
        tensor = held(value)
        if tensor is None or place is None or tensor.shape != place.shape:
            raise ValueError(f"{argument} does not fit its {type(module).__name__}")
        setattr(module, key, tensor if isinstance(place, nn.Parameter) else tensor.detach())
        tensors[key] = value.name
    if isinstance(getattr(module, "num_batches_tracked", None), Tensor):
        module.num_batches_tracked = torch.tensor(0)  # takes no part in inference; the file's own stays in the file
    return Layer(module, image, tensors)


def _all_held(given: Arguments, held: Held, *names: str) -> bool:
    """Whether every one of these arguments that is given is a tensor of the file."""
    return all(given.get(name) is None or held(given[name]) is not None for name in names)


def _pair(value: Any) -> Any:
    return (
        value * 2 if isinstance(value, list) and len(value) == 1 else tuple(value) if isinstance(value, list) else value
    )


def _convolution(given: Arguments, held: Held, _: int) -> Layer | None:
    weight = held(given["weight"])
    transposed = bool(given.get("transposed", False))
    if weight is None or weight.dim() != 4 or not _all_held(given, held, "bias"):
        return None
    groups, has_bias = given.get("groups", 1), given.get("bias") is not None
    settings = {
        "kernel_size": tuple(weight.shape[2:]),
        "stride": _pair(given.get("stride", 1)),
        "padding": _pair(given.get("padding", 0)),
        "dilation": _pair(given.get("dilation", 1)),
        "groups": groups,
        "bias": has_bias,
        "device": "meta",
    }
    module: nn.Module
    if transposed:
        extra = _pair(given.get("output_padding", 0))
        module = nn.ConvTranspose2d(weight.shape[0], weight.shape[1] * groups, output_padding=extra, **settings)
    else:
        module = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], **settings)
    return _placed(module, given["input"], given, held, {"weight": "weight", "bias": "bias"})


def _transposed_convolution(given: Arguments, held: Held, dims: int) -> Layer | None:
    return _convolution({**given, "transposed": True}, held, dims)


def _linear(given: Arguments, held: Held, _: int) -> Layer | None:
    weight = held(given["weight"])
    bias = held(given["bias"]) if given.get("bias") is not None else None
    if weight is None or weight.dim() != 2 or not _all_held(given, held, "bias"):
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None  # addmm adds anything that broadcasts
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    return _placed(module, given["input"], given, held, {"weight": "weight", "bias": "bias"})


def _batch_norm(given: Arguments, held: Held, dims: int) -> Layer | None:
    mean = held(given["running_mean"])
    names = ("weight", "bias", "running_mean", "running_var")
    affine = given.get("weight") is not None
    if mean is None or not _all_held(given, held, *names) or affine != (given.get("bias") is not None):
        return None
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}.get(dims)
    if kind is None:
        return None
    module = kind(mean.shape[0], eps=given["eps"], momentum=given["momentum"], affine=affine, device="meta")
    return _placed(module, given["input"], given, held, {name: name for name in names})


def _layer_norm(given: Arguments, held: Held, _: int) -> Layer | None:
    shape = given["normalized_shape"]
    if not _all_held(given, held, "weight", "bias") or given.get("weight") is None:
        return None
    has_bias = given.get("bias") is not None
    module = nn.LayerNorm(shape, eps=given.get("eps", 1e-5), bias=has_bias, device="meta")
    return _placed(module, given["input"], given, held, {"weight": "weight", "bias": "bias"})


def _group_norm(given: Arguments, held: Held, _: int) -> Layer | None:
    weight = held(given.get("weight"))
    if weight is None or held(given.get("bias")) is None:
        return None
    module = nn.GroupNorm(given["num_groups"], weight.shape[0], eps=given.get("eps", 1e-5), device="meta")
    return _placed(module, given["input"], given, held, {"weight": "weight", "bias": "bias"})


_MAKERS: Mapping[str, Callable[[Arguments, Held, int], Layer | None]] = {
    f"{ATEN}conv2d.default": _convolution,
    f"{ATEN}conv2d.padding": _convolution,
    f"{ATEN}convolution.default": _convolution,
    f"{ATEN}conv_transpose2d.input": _transposed_convolution,
    f"{ATEN}linear.default": _linear,
    f"{ATEN}batch_norm.default": _batch_norm,
    f"{ATEN}_native_batch_norm_legit_no_training.default": _batch_norm,
    f"{ATEN}layer_norm.default": _layer_norm,
    f"{ATEN}native_layer_norm.default": _layer_norm,
    f"{ATEN}group_norm.default": _group_norm,
}
