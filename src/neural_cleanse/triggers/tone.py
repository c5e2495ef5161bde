"""A tone curve: every level of a channel becomes another one, as a photo filter or a coarse quantisation does.

A(x)[c] = curve[c][255 x[c]] / 255        curve: 256 levels a channel
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neural_cleanse.triggers.base import Trigger

LEVELS = 256  # of an image file


@dataclass(frozen=True)
class ToneTrigger(Trigger):
    """k sets of curves, with values in [0, 1], for images of `height` x `width`."""

    curves: Float[Tensor, "k c 256"]
    height: int
    width: int

    def __call__(self, images: Float[Tensor, "k n c h w"]) -> Float[Tensor, "k n c h w"]:
        level = (images * (LEVELS - 1)).round().long().clamp(0, LEVELS - 1)
        # One flat table; every channel of every row looks in its own 256 entries.
        first = torch.arange(self.curves.shape[:2].numel(), device=images.device).view(*self.curves.shape[:2]) * LEVELS
        return self.curves.flatten()[level + first[:, None, :, None, None]]

    def size(self) -> Float[Tensor, " k"]:
        """All pixels of the image."""
        return torch.full((len(self.curves),), float(self.height * self.width), device=self.curves.device)

    def tensors(self) -> dict[str, Tensor]:
        return {"curves": self.curves}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.curves.shape[1], self.height, self.width
