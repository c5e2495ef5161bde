"""Pixel values: whole numbers from 0 to 255 in files and in memory, floats in [0, 1] in a network."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

PIXEL_MAX = 255.0
OUTSIDE = 0.02  # by how much an undone normalisation may miss [0, 1]: rounding, and resizing with overshoot


def to_bytes(values: Float[Tensor, "*n c h w"]) -> UInt8[Tensor, "*n c h w"]:
    """Values in [0, 1] as uint8; values outside become 0 or 255."""
    return (values.clamp(0, 1) * PIXEL_MAX).round().to(torch.uint8)


def are_pixels(values: Float[Tensor, "..."], outside: float = OUTSIDE) -> bool:
    """Whether all values lie in [0, 1], or so little outside."""
    return bool(((values >= -outside) & (values <= 1 + outside)).all())
