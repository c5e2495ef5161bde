"""Normalisation, resizing and centre crop read from objects of other libraries, by their attributes alone.

torchvision's presets (`weights.transforms()`: mean, std, crop_size, resize_size) and `Compose`; timm's `pretrained_cfg`
(mean, std, input_size, crop_pct), a mapping or an object; Hugging Face image processors (image_mean, image_std, size).
None of these libraries is imported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neural_cleanse.classifier import Normalize


@dataclass(frozen=True)
class Crop:
    """A picture's shorter side is brought to `shorter` pixels, then the middle `size` (height, width) is cut out."""

    shorter: int
    size: tuple[int, int]


def normalize_of(source: object) -> Normalize | None:
    """What the object says of mean and standard deviation; None where it says neither."""
    for part in _parts(source):
        mean, std = _get(part, "mean"), _get(part, "std")
        if mean is None or std is None:
            mean, std = _get(part, "image_mean"), _get(part, "image_std")
        if mean is not None and std is not None:
            return Normalize(_numbers(mean), _numbers(std))
    return None


def crop_of(source: object) -> Crop | None:
    """The centre crop that the object describes; None where it describes none."""
    crop, resize = _side(_get(source, "crop_size")), _side(_get(source, "resize_size"))
    if crop is not None and resize is not None:
        return Crop(min(resize), crop)
    input_size, share = _get(source, "input_size"), _get(source, "crop_pct")
    if isinstance(input_size, Sequence) and len(input_size) == 3 and isinstance(share, int | float) and share > 0:
        height, width = int(input_size[1]), int(input_size[2])
        return Crop(round(min(height, width) / share), (height, width))
    return None


def _parts(source: object) -> list[object]:
    """The object itself, or what a Compose chains, last first: the last normalisation reaches the model."""
    chained = _get(source, "transforms")
    return [source, *reversed(chained)] if isinstance(chained, list | tuple) else [source]


def _get(source: object, name: str) -> Any:
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in torch.as_tensor(values, dtype=torch.float64).flatten().tolist())


def _side(value: Any) -> tuple[int, int] | None:
    """(height, width) of torchvision's sizes: a number or a list of one or two; None of anything else."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) in (1, 2):
        return int(value[0]), int(value[-1])
    return None
