"""A trigger as JSON values on a card, and back, exactly. A card may be anybody's: sizes and values are checked."""

import base64
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from neural_cleanse.attacks.patterns import Shape
from neural_cleanse.errors import OutputError
from neural_cleanse.pixel_values import PIXEL_MAX
from neural_cleanse.triggers.additive import AdditiveTrigger
from neural_cleanse.triggers.base import Trigger
from neural_cleanse.triggers.generated import GeneratedTrigger, num_weights
from neural_cleanse.triggers.patch import PatchTrigger
from neural_cleanse.triggers.tone import LEVELS, ToneTrigger
from neural_cleanse.triggers.warp import WarpTrigger

LARGEST_IMAGE = 2**26  # values: far more than every classifier takes, and its tensors fit into memory


def trigger_to_json(trigger: Trigger) -> dict[str, Any]:
    """The trigger's kind, the shape of its images, and what defines it: levels 0 to 255 as whole numbers.

    A patch is the box around its mask, at least one pixel: that of an empty mask is the first.
    """
    for kind, (of, write, _) in _KINDS.items():
        if isinstance(trigger, of):
            return {"kind": kind, "image": list(trigger.image_shape), **write(trigger)}
    raise TypeError(f"{type(trigger).__name__} has no form on a card")


def trigger_from_json(values: Mapping[str, Any]) -> Trigger:
    """The trigger of a card. Raises OutputError when the values are not those of a trigger."""
    try:
        if values["kind"] not in _KINDS:
            raise ValueError(f"kind {values['kind']!r}")
        channels, height, width = values["image"]
        whole = all(isinstance(side, int) and side > 0 for side in (channels, height, width))
        if not whole or channels * height * width > LARGEST_IMAGE:
            raise ValueError(f"image {values['image']}")
        _, _, read = _KINDS[values["kind"]]
        return read(values, (channels, height, width))
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise OutputError(
            f"The card's trigger cannot be read: {type(error).__name__} {error}.",
            cure="Give a card as the attack command wrote it.",
        ) from error


def _write_patch(trigger: PatchTrigger) -> dict[str, Any]:
    mask, pattern = trigger.mask[0], trigger.pattern[0]
    rows, columns = (mask[0].amax(dim).nonzero().squeeze(1) for dim in (1, 0))
    top, left = (int(side.min()) if len(side) else 0 for side in (rows, columns))
    bottom, right = (int(side.max()) + 1 if len(side) else 1 for side in (rows, columns))
    return {
        "corner": [top, left],
        "mask": _levels(mask[0, top:bottom, left:right]),
        "pattern": _levels(pattern[:, top:bottom, left:right]),
    }


def _read_patch(values: Mapping[str, Any], shape: Shape) -> PatchTrigger:
    channels, height, width = shape
    top, left = values["corner"]
    inner_mask, inner_pattern = (torch.tensor(values[key]).float() / PIXEL_MAX for key in ("mask", "pattern"))
    mask, pattern = torch.zeros(1, 1, height, width), torch.zeros(1, channels, height, width)
    rows, columns = inner_mask.shape
    if inner_pattern.shape != (channels, rows, columns) or min(top, left) < 0:
        raise ValueError("mask, pattern and corner do not fit each other")
    for part in (inner_mask, inner_pattern):
        _within(part, 0)
    mask[0, 0, top : top + rows, left : left + columns] = inner_mask
    pattern[0, :, top : top + rows, left : left + columns] = inner_pattern
    return PatchTrigger(mask, pattern)


def _write_additive(trigger: AdditiveTrigger) -> dict[str, Any]:
    return {"pattern": _levels(trigger.pattern[0])}


def _read_additive(values: Mapping[str, Any], shape: Shape) -> AdditiveTrigger:
    return AdditiveTrigger(_within(_shaped(values["pattern"], shape) / PIXEL_MAX, -1)[None])


def _write_tone(trigger: ToneTrigger) -> dict[str, Any]:
    return {"curves": _levels(trigger.curves[0])}


def _read_tone(values: Mapping[str, Any], shape: Shape) -> ToneTrigger:
    channels, height, width = shape
    curves = _within(_shaped(values["curves"], (channels, LEVELS)) / PIXEL_MAX, 0)
    return ToneTrigger(curves[None], height, width)


def _write_warp(trigger: WarpTrigger) -> dict[str, Any]:
    return {"points": trigger.points[0].tolist()}


def _read_warp(values: Mapping[str, Any], shape: Shape) -> WarpTrigger:
    points = torch.tensor(values["points"]).float()
    if points.ndim != 3 or points.shape[0] != 2 or points.shape[1] != points.shape[2] or not len(points[0]):
        raise ValueError(f"points of {list(points.shape)}")
    return WarpTrigger(_finite(points)[None], *shape)


def _write_generated(trigger: GeneratedTrigger) -> dict[str, Any]:
    """Weights in half precision, as 64 letters: a list of them would be five times as long."""
    content = trigger.weights[0].half().numpy().astype("<f2").tobytes()
    return {"weights": base64.b64encode(content).decode()}


def _read_generated(values: Mapping[str, Any], shape: Shape) -> GeneratedTrigger:
    content = base64.b64decode(values["weights"], validate=True)
    weights = torch.from_numpy(np.frombuffer(content, "<f2").astype(np.float32))
    if len(weights) != sum(num_weights(shape[0])):
        raise ValueError(f"{len(weights)} weights")
    return GeneratedTrigger(_finite(weights)[None], *shape)


def _levels(values: Tensor) -> Any:
    return (values * PIXEL_MAX).round().int().tolist()


def _shaped(values: Any, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    tensor = torch.tensor(values).float()
    if tensor.shape != shape:
        raise ValueError(f"{list(tensor.shape)} values for {list(shape)}")
    return tensor


def _within(values: Float[Tensor, "..."], lowest: int) -> Float[Tensor, "..."]:
    if not ((values >= lowest) & (values <= 1)).all():
        raise ValueError(f"a level is outside {lowest * round(PIXEL_MAX)} to 255")
    return values


def _finite(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    if not values.isfinite().all():
        raise ValueError("a value is no number")
    return values


_KINDS: Mapping[str, tuple[type[Trigger], Callable[[Any], dict[str, Any]], Callable[..., Trigger]]] = {
    "patch": (PatchTrigger, _write_patch, _read_patch),
    "additive": (AdditiveTrigger, _write_additive, _read_additive),
    "tone": (ToneTrigger, _write_tone, _read_tone),
    "warp": (WarpTrigger, _write_warp, _read_warp),
    "generated": (GeneratedTrigger, _write_generated, _read_generated),
}
