"""ONNX Resize and Upsample: along each axis a matrix that takes the old values to the new ones.

Coordinates and weights as the operator's own page gives them (onnx.ai, Resize-19).
"""

import math
from typing import Any

import torch
from torch import Tensor

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.graph import Value
from neural_cleanse.loading.onnx.file import place
from neural_cleanse.loading.onnx.node import Node

COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def resize(node: Node) -> Any:
    """Resize."""
    modern = node.opset >= 11
    mode = node.text("mode", "nearest")
    coordinates = node.text("coordinate_transformation_mode", "half_pixel" if modern else "asymmetric")
    rounding = node.text("nearest_mode", "round_prefer_floor" if modern else "floor")
    cubic = node.real("cubic_coeff_a", -0.75)
    node.real("extrapolation_value")  # for crops alone
    same_meaning = (
        node.integer("antialias") == 0
        and node.integer("exclude_outside") == 0
        and node.text("keep_aspect_ratio_policy", "stretch") == "stretch"
    )
    known = coordinates in COORDINATES and rounding in ROUNDINGS and mode in ("nearest", "linear", "cubic")
    if not known or not same_meaning:
        raise ModelError(f"{place(node.proto)} resizes in a way that is not read.")
    scales = _numbers_of(node, 2 if modern else 1)
    sizes = node.whole(3) if modern else None
    axes = node.integers("axes")
    batch_axis, static = node.batch_axis(0), node.builder.static_batch
    if isinstance(sizes, tuple) and axes is None and batch_axis is not None and static is not None:
        # A file for a fixed batch names it among the sizes.
        axes = tuple(axis for axis in range(len(sizes)) if axis != batch_axis)
        sizes = tuple(sizes[axis] for axis in axes)
    return node.call(_resize, node.data(0), sizes, scales, axes, mode, coordinates, rounding, cubic)


def upsample(node: Node) -> Any:
    """Upsample, which Resize has replaced."""
    mode = node.text("mode", "nearest")
    scales = node.reals("scales") if node.has("scales") else _numbers_of(node, 1)
    if mode not in ("nearest", "linear"):
        raise ModelError(f"{place(node.proto)} resizes in a way that is not read.")
    return node.call(_resize, node.data(0), None, scales, None, mode, "asymmetric", "floor", 0.0)


def _numbers_of(node: Node, index: int) -> Any:
    """Scales: numbers, what stands for them in a step, or None where they are left out or empty."""
    entry = node.entry(index)
    if entry is None:
        return None
    if entry.tensor is not None:
        return tuple(float(value) for value in entry.tensor.reshape(-1).tolist()) or None
    return Value(entry.step_name)


def _resize(
    values: Tensor, sizes: Any, scales: Any, axes: Any, mode: str, coordinates: str, rounding: str, cubic: float
) -> Tensor:
    wanted = scales if sizes is None else sizes
    for axis, number in zip(range(values.dim()) if axes is None else axes, list(wanted), strict=True):
        old = values.shape[axis]
        new = int(number) if sizes is not None else math.floor(old * float(number))
        scale = new / old if sizes is not None else float(number)
        if new == old and scale == 1:
            continue
        at = _coordinates(new, old, scale, coordinates, values.device)
        if mode == "nearest":
            values = values.index_select(axis, _rounded(at, rounding).clamp(0, old - 1).long())
        else:
            matrix = (_linear if mode == "linear" else _cubic)(at, old, cubic)
            values = (values.movedim(axis, -1) @ matrix.t()).movedim(-1, axis)
    return values


def _coordinates(new: int, old: int, scale: float, coordinates: str, device: torch.device) -> Tensor:
    """Where each new value lies among the old ones."""
    number = torch.arange(new, device=device, dtype=torch.float32)
    if coordinates == "align_corners":
        return number * ((old - 1) / (new - 1)) if new > 1 else number * 0
    if coordinates == "asymmetric":
        return number / scale
    if coordinates == "tf_half_pixel_for_nn":
        return (number + 0.5) / scale
    if coordinates == "pytorch_half_pixel" and new == 1:
        return number * 0
    return (number + 0.5) / scale - 0.5


def _rounded(at: Tensor, rounding: str) -> Tensor:
    if rounding == "round_prefer_floor":
        return (at - 0.5).ceil()
    if rounding == "round_prefer_ceil":
        return (at + 0.5).floor()
    return at.floor() if rounding == "floor" else at.ceil()


def _linear(at: Tensor, old: int, _: float) -> Tensor:
    at = at.clamp(0, old - 1)
    return (1 - (at[:, None] - torch.arange(old, device=at.device)).abs()).clamp_min(0)


def _cubic(at: Tensor, old: int, a: float) -> Tensor:
    """Four neighbours, those outside being the edge again (Keys 1981, with coefficient a)."""
    matrix = torch.zeros(len(at), old, device=at.device)
    for offset in (-1, 0, 1, 2):
        neighbour = at.floor() + offset
        far = (at - neighbour).abs()
        near = (a + 2) * far**3 - (a + 3) * far**2 + 1
        wide = a * far**3 - 5 * a * far**2 + 8 * a * far - 4 * a
        share = torch.where(far <= 1, near, wide)
        matrix = matrix.scatter_add(1, neighbour.clamp(0, old - 1).long()[:, None], share[:, None])
    return matrix
