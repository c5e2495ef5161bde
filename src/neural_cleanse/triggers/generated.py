"""A patch that two small networks draw for each image (input-aware: Nguyen and Tran, NeurIPS 2020).

    A(x) = (1 - M(x)) * x + M(x) * P(x)
    P(x) = tanh(G_p(x)) / 2 + 1/2,   M(x) = tanh(STEEP tanh(G_m(x))) / 2 + 1/2

G is a convolutional encoder and decoder without normalisation layers, far smaller than the authors', so that a card
can hold its weights. All weights lie in one vector, those of the mask first.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from neural_cleanse.triggers.base import Trigger

WIDTHS = (8, 16)  # channels of the encoder
STEEP = 20.0  # makes the mask nearly 0 or 1 (authors' code)


@dataclass(frozen=True)
class GeneratedTrigger(Trigger):
    """One mask and pattern an image (k = 1). `weights` has `num_weights(channels)` values."""

    weights: Float[Tensor, "1 p"]
    channels: int
    height: int
    width: int

    def __call__(self, images: Float[Tensor, "1 n c h w"]) -> Float[Tensor, "1 n c h w"]:
        return self.drawn_for(images[0], images[0]).unsqueeze(0)

    def drawn_for(self, others: Float[Tensor, "n c h w"], images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images, each with the trigger that belongs to the other image at its place (cross-trigger mode)."""
        mask, pattern = self.mask_and_pattern(others)
        return torch.lerp(images, pattern, mask)

    def mask_and_pattern(
        self, images: Float[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n c h w"]]:
        """What the networks draw for each image."""
        _, of_pattern = self.weights[0].split(num_weights(self.channels))
        return self.mask(images), _network(of_pattern, images, self.channels).tanh() / 2 + 0.5

    def mask(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
        """Where each image's trigger lies."""
        of_mask, _ = self.weights[0].split(num_weights(self.channels))
        return (STEEP * _network(of_mask, images, 1).tanh()).tanh() / 2 + 0.5

    def size(self) -> Float[Tensor, " k"]:
        """All pixels of the image: where the mask lies depends on the image."""
        return torch.tensor([float(self.height * self.width)], device=self.weights.device)

    def tensors(self) -> dict[str, Tensor]:
        return {"weights": self.weights}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


def num_weights(channels: int) -> tuple[int, int]:
    """How many weights the mask's network has on images of so many channels, and the pattern's."""
    return _count(channels, 1), _count(channels, channels)


def random_weights(channels: int, generator: torch.Generator) -> Float[Tensor, "1 p"]:
    """Weights and biases uniform in +-1/sqrt(fan in), as torch starts its layers."""
    parts = []
    for out in (1, channels):
        for into, layer_out in _layers(channels, out):
            bound = 1 / math.sqrt(9 * into)
            parts.append((torch.rand(layer_out * (9 * into + 1), generator=generator) * 2 - 1) * bound)
    return torch.cat(parts).unsqueeze(0)


def _layers(channels: int, out: int) -> Iterator[tuple[int, int]]:
    """Channels into and out of each 3x3 convolution: two halve the resolution, two follow a doubling."""
    small, large = WIDTHS
    yield from ((channels, small), (small, large), (large, small), (small, out))


def _count(channels: int, out: int) -> int:
    return sum(layer_out * (9 * into + 1) for into, layer_out in _layers(channels, out))


def _network(weights: Float[Tensor, " p"], images: Float[Tensor, "n c h w"], out: int) -> Float[Tensor, "n d h w"]:
    sides, values, first = [images.shape[2:]], images, 0
    for number, (into, layer_out) in enumerate(_layers(images.shape[1], out)):
        kernel = weights[first : first + 9 * layer_out * into].view(layer_out, into, 3, 3)
        bias = weights[first + kernel.numel() : first + kernel.numel() + layer_out]
        first += kernel.numel() + layer_out
        if number < 2:
            values = functional.conv2d(values, kernel, bias, stride=2, padding=1)
            sides.append(values.shape[2:])
        else:
            values = functional.interpolate(values, sides[3 - number])
            values = functional.conv2d(values, kernel, bias, padding=1)
        values = values.relu() if number < 3 else values
    return values
