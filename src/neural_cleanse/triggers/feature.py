"""A trigger between the layers: one shift of the activations at a cut (cut.py), the same for all images.

    A(z) = z + s        z: activations in units of their own spread over clean images, s: their shape

Its size is the L2 norm of s. Warped images (WaNet, Nguyen and Tran 2021), image-dependent and blended triggers have no
small patch, but move the activations of the first layers alike for all images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neural_cleanse.triggers.base import SearchedTrigger

START = 0.02  # spread of the start values: nearly no shift


@dataclass(frozen=True)
class FeatureTrigger(SearchedTrigger):
    """k shifts of activations."""

    shift: Float[Tensor, "k c h w"]

    def __call__(self, images: Float[Tensor, "k n c h w"]) -> Float[Tensor, "k n c h w"]:
        return images + self.shift.unsqueeze(1)

    def size(self) -> Float[Tensor, " k"]:
        return _norm(self.shift)

    def tensors(self) -> dict[str, Tensor]:
        return {"shift": self.shift}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of the activations."""
        channels, height, width = self.shift.shape[1:]
        return channels, height, width

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "FeatureTrigger":
        return cls(**tensors)

    @classmethod
    def decode(cls, free: Sequence[Tensor]) -> "FeatureTrigger":
        (shift,) = free
        return cls(shift)

    @classmethod
    def size_of(cls, free: Sequence[Tensor]) -> Float[Tensor, " k"]:
        (shift,) = free
        return _norm(shift)

    @classmethod
    def random_free(cls, shape: tuple[int, int, int], generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randn(*shape, generator=generator) * START,)


def _norm(shift: Float[Tensor, "k c h w"]) -> Float[Tensor, " k"]:
    norms: Tensor = torch.linalg.vector_norm(shift.flatten(1), dim=1)
    return norms
