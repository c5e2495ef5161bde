"""A pattern that is added to the image: a sinusoid (Barni et al. 2019), a smooth wave.

A(x, d) = clip(x + d, 0, 1)        d: one value a channel and pixel, in [-1, 1]
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from neural_cleanse.triggers.base import Trigger


@dataclass(frozen=True)
class AdditiveTrigger(Trigger):
    """k patterns."""

    pattern: Float[Tensor, "k c h w"]

    def __call__(self, images: Float[Tensor, "k n c h w"]) -> Float[Tensor, "k n c h w"]:
        return (images + self.pattern.unsqueeze(1)).clamp(0, 1)

    def size(self) -> Float[Tensor, " k"]:
        """All pixels that the pattern touches."""
        return (self.pattern != 0).any(1).float().sum((1, 2))

    def tensors(self) -> dict[str, Tensor]:
        return {"pattern": self.pattern}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.pattern.shape[1:]
        return channels, height, width
