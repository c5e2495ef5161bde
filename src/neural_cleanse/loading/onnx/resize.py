"""ONNX Resize and Upsample: along each axis a matrix that takes the old values to the new ones.

Coordinates and weights as the operator's own page gives them (onnx.ai, Resize-19).
"""

import math
from typing import Any

import torch
from torch import Tensor

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import OTHER_THAN_ONNX
from neural_cleanse.loading.graph import Value
from neural_cleanse.loading.onnx.file import place
from neural_cleanse.loading.onnx.node import Node

COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn")
HALF_PIXEL = ("half_pixel", "pytorch_half_pixel")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def resize(node: Node) -> Any:
    """Resize."""
    modern = node.opset >= 11
    mode = node.text("mode", "nearest")
    coordinates = node.text("coordinate_transformation_mode", "half_pixel" if modern else "asymmetric")
    rounding = node.text("nearest_mode", "round_prefer_floor" if modern else "floor")
    cubic = node.real("cubic_coeff_a", -0.75)
    node.real("extrapolation_value")  # for crops alone
    stretched = node.text("keep_aspect_ratio_policy", "stretch") == "stretch"
    known = coordinates in COORDINATES and rounding in ROUNDINGS and mode in ("nearest", "linear", "cubic")
    smooth = bool(node.integer("antialias"))
    inside = bool(node.integer("exclude_outside"))
    if not known or not stretched or ((smooth or inside) and (mode == "nearest" or coordinates not in HALF_PIXEL)):
        raise ModelError(f"{place(node.proto)} resizes in a way that is not read.", cure=OTHER_THAN_ONNX)
    scales = _numbers_of(node, 2 if modern else 1)
    sizes = node.whole(3) if modern else None
    axes = node.integers("axes")
    batch_axis, static = node.batch_axis(0), node.builder.static_batch
    if isinstance(sizes, tuple) and axes is None and batch_axis is not None and static is not None:
        # A file for a fixed batch names it among the sizes.
        axes = tuple(axis for axis in range(len(sizes)) if axis != batch_axis)
        sizes = tuple(sizes[axis] for axis in axes)
    return node.call(_resize, node.data(0), sizes, scales, axes, mode, (coordinates, rounding, cubic, smooth, inside))


def upsample(node: Node) -> Any:
    """Upsample, which Resize has replaced."""
    mode = node.text("mode", "nearest")
    scales = node.reals("scales") if node.has("scales") else _numbers_of(node, 1)
    if mode not in ("nearest", "linear"):
        raise ModelError(f"{place(node.proto)} resizes in a way that is not read.", cure=OTHER_THAN_ONNX)
    return node.call(_resize, node.data(0), None, scales, None, mode, ("asymmetric", "floor", 0.0, False, False))


def _numbers_of(node: Node, index: int) -> Any:
    """Scales: numbers, what stands for them in a step, or None where they are left out or empty."""
    entry = node.entry(index)
    if entry is None:
        return None
    if entry.tensor is not None:
        return tuple(float(value) for value in entry.tensor.reshape(-1).tolist()) or None
    return Value(entry.step_name)


def _resize(
    values: Tensor, sizes: Any, scales: Any, axes: Any, mode: str, how: tuple[str, str, float, bool, bool]
) -> Tensor:
    coordinates, rounding, cubic, smooth, inside = how
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
            continue
        if (smooth and scale < 1) or inside:
            matrix = _smooth(at, old, min(scale, 1.0) if smooth else 1.0, cubic if mode == "cubic" else None, inside)
        else:
            matrix = (_linear if mode == "linear" else _cubic)(at, old, cubic)
        values = (values.movedim(axis, -1) @ matrix.t()).movedim(-1, axis)
    return values


def _smooth(at: Tensor, old: int, scale: float, cubic: float | None, inside: bool) -> Tensor:
    """With antialias, the filter is as much wider as the image gets smaller.

    What lies outside the image is its edge again, or counts nothing where `inside` alone counts.
    """
    reach = 0 if inside else math.ceil(2 / max(scale, 1 / old))
    place_of = torch.arange(-reach, old + reach, device=at.device)
    far = (at[:, None] - place_of).abs() * scale
    shares = (1 - far).clamp_min(0) if cubic is None else _keys(far, cubic)
    matrix = torch.zeros(len(at), old, device=at.device)
    matrix = matrix.scatter_add(1, place_of.clamp(0, old - 1).expand_as(shares), shares)
    return matrix / matrix.sum(1, keepdim=True)


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
        share = _keys(far, a)
        matrix = matrix.scatter_add(1, neighbour.clamp(0, old - 1).long()[:, None], share[:, None])
    return matrix


def _keys(far: Tensor, a: float) -> Tensor:
    """The cubic kernel of Keys (1981) with coefficient a, at these distances."""
    near = (a + 2) * far**3 - (a + 3) * far**2 + 1
    wide = a * far**3 - 5 * a * far**2 + 8 * a * far - 4 * a
    return torch.where(far <= 1, near, torch.where(far < 2, wide, 0.0))
