"""A smooth warp of the image (WaNet: Nguyen and Tran, ICLR 2021): no pixel is painted, all move a little.

    A(x) = x sampled (bilinear) at  clip(identity + U(points) / h, -1, 1)

U enlarges a coarse grid of shifts to every pixel (bicubic), h is the height of the image. Places run from -1 to 1, so
that a shift of 1 moves by half a pixel.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from neural_cleanse.triggers.base import Trigger


@dataclass(frozen=True)
class WarpTrigger(Trigger):
    """k grids of shifts (along x, along y) for images of `channels` x `height` x `width`."""

    points: Float[Tensor, "k 2 g g"]
    channels: int
    height: int
    width: int

    def __call__(self, images: Float[Tensor, "k n c h w"]) -> Float[Tensor, "k n c h w"]:
        k, n = images.shape[:2]
        places = self._places().repeat_interleave(n, dim=0)
        return _sampled(images.flatten(0, 1), places).view(k, n, *self.image_shape)

    def jittered(self, images: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """WaNet's noise mode (k = 1): each image by the warp plus a random shift of at most 1 at every pixel."""
        shape = (len(images), self.height, self.width, 2)
        noise = torch.rand(shape, generator=generator).to(images.device) * 2 - 1
        return _sampled(images, (self._places() + noise / self.height).clamp(-1, 1))

    def size(self) -> Float[Tensor, " k"]:
        """All pixels of the image."""
        return torch.full((len(self.points),), float(self.height * self.width), device=self.points.device)

    def tensors(self) -> dict[str, Tensor]:
        return {"points": self.points}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def _places(self) -> Float[Tensor, "k h w 2"]:
        rows, columns = (torch.linspace(-1, 1, side, device=self.points.device) for side in (self.height, self.width))
        identity = torch.stack([columns.expand(self.height, -1), rows[:, None].expand(-1, self.width)], dim=-1)
        shifts = functional.interpolate(self.points, (self.height, self.width), mode="bicubic", align_corners=True)
        return (identity + shifts.permute(0, 2, 3, 1) / self.height).clamp(-1, 1)


def _sampled(images: Float[Tensor, "n c h w"], places: Float[Tensor, "n h w 2"]) -> Float[Tensor, "n c h w"]:
    # The clamp is for the last bit of float32.
    return functional.grid_sample(images, places, align_corners=True).clamp(0, 1)
