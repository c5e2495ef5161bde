"""The patch trigger of Neural Cleanse (Wang et al., S&P 2019, section IV): a mask blends in a pattern.

    A(x, m, p) = (1 - m) * x + m * p        m: one value a pixel, p: one a channel and pixel, both in [0, 1]

Its size is the L1 norm of the mask, in pixels. A constant mask is the blended attack (Chen et al. 2017).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neural_cleanse.triggers.base import SearchedTrigger

# value = tanh(free) / (2 - EPSILON) + 0.5, so that arctanh of 0 and 1 stays finite (authors' visualizer.py).
EPSILON = 1e-7


@dataclass(frozen=True)
class PatchTrigger(SearchedTrigger):
    """k masks and patterns."""

    mask: Float[Tensor, "k 1 h w"]
    pattern: Float[Tensor, "k c h w"]

    def __call__(self, images: Float[Tensor, "k n c h w"]) -> Float[Tensor, "k n c h w"]:
        # lerp is one fused pass, exact at both ends: mask 0 gives the image, mask 1 the pattern.
        return torch.lerp(images, self.pattern.unsqueeze(1), self.mask.unsqueeze(1))

    def size(self) -> Float[Tensor, " k"]:
        return self.mask.sum((1, 2, 3))

    def tensors(self) -> dict[str, Tensor]:
        return {"mask": self.mask, "pattern": self.pattern}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.pattern.shape[1:]
        return channels, height, width

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "PatchTrigger":
        return cls(**tensors)

    @classmethod
    def decode(cls, free: Sequence[Tensor]) -> "PatchTrigger":
        mask, pattern = map(_values, free)
        return cls(mask, pattern)

    @classmethod
    def size_of(cls, free: Sequence[Tensor]) -> Float[Tensor, " k"]:
        mask, _ = free
        return _values(mask).sum((1, 2, 3))

    @classmethod
    def random_free(cls, shape: tuple[int, int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mask and pattern uniform in [0, 1], as the authors start every label."""
        channels, height, width = shape
        mask = torch.rand(1, height, width, generator=generator)
        pattern = torch.rand(channels, height, width, generator=generator)
        return _free(mask), _free(pattern)


def _values(free: Float[Tensor, "k c h w"]) -> Float[Tensor, "k c h w"]:
    values = free.tanh() / (2 - EPSILON) + 0.5
    # For the last bit of float32: -3e-8 is no share of an image. Where that acts, tanh is flat: there is no gradient
    # that the clamp would have to stop.
    values.detach().clamp_(0, 1)
    return values


def _free(values: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    return torch.arctanh((values - 0.5) * (2 - EPSILON))
