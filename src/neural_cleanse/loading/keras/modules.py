"""What Keras computes and torch has no module for.

Feature maps are n c h w here and n h w c in most Keras files: whatever depends on the order of the axes says so.
"""

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class KerasOrder(nn.Module):
    """`operation`, which sees feature maps as Keras lays them out, channels last."""

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.operation(values.movedim(1, -1) if values.dim() == 4 else values)
        return result.movedim(-1, 1) if result.dim() == 4 else result


class Reshape(nn.Module):
    """Every image's values in another shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, values: Tensor) -> Tensor:
        return values.reshape(values.shape[0], *self.shape)


class Permute(nn.Module):
    """Every image's axes, counted from 1, in another order."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, values: Tensor) -> Tensor:
        return values.permute(0, *self.axes)


class SamePadding(nn.Module):
    """TensorFlow's 'same': ceil(size / stride) windows fit, and the odd pixel of padding goes right and below."""

    def __init__(
        self, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int] = (1, 1), value: float = 0.0
    ) -> None:
        super().__init__()
        self.reach = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True))
        self.stride, self.value = stride, value

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c p q"]:
        sides: list[int] = []
        for size, reach, stride in zip(images.shape[:1:-1], self.reach[::-1], self.stride[::-1], strict=True):
            missing = max((-(-size // stride) - 1) * stride + reach - size, 0)
            sides += [missing // 2, missing - missing // 2]
        return functional.pad(images, sides, value=self.value)


class SameAveragePool(nn.Module):
    """Average pooling with 'same' padding: TensorFlow leaves the padding out of the average."""

    def __init__(self, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        self.padding, self.pool = SamePadding(kernel, stride), nn.AvgPool2d(kernel, stride)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c p q"]:
        share = self.pool(self.padding(torch.ones_like(images[:1, :1])))
        pooled: Tensor = self.pool(self.padding(images)) / share
        return pooled


class GlobalPool(nn.Module):
    """One value a channel: the mean or the largest over these axes."""

    def __init__(self, axes: tuple[int, ...], *, largest: bool, keep: bool) -> None:
        super().__init__()
        self.axes, self.largest, self.keep = axes, largest, keep

    def forward(self, values: Tensor) -> Tensor:
        if self.largest:
            return values.amax(self.axes, keepdim=self.keep)
        return values.mean(self.axes, keepdim=self.keep)


class Merge(nn.Module):
    """Several values of the same rank, or numbers, into one, from the first to the last."""

    PAIRWISE: Mapping[str, Callable[..., Tensor]] = {
        "Add": operator.add,
        "Average": operator.add,
        "Divide": operator.truediv,
        "Maximum": torch.maximum,
        "Minimum": torch.minimum,
        "Multiply": operator.mul,
        "Subtract": operator.sub,
    }

    def __init__(self, kind: str, dim: int = 1) -> None:
        super().__init__()
        self.kind, self.dim = kind, dim

    def forward(self, *values: Tensor | float) -> Tensor:
        if self.kind == "Concatenate":
            return torch.cat(values, self.dim)  # type: ignore[arg-type]
        merged: Any = reduce(self.PAIRWISE[self.kind], values)  # a tensor, since at least one value is one
        result: Tensor = merged / len(values) if self.kind == "Average" else merged
        return result


class Affine(nn.Module):
    """values * scale + offset, with one number or one a channel."""

    scale: Tensor
    offset: Tensor

    def __init__(self, scale: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def forward(self, values: Tensor) -> Tensor:
        return values * self.scale + self.offset


class Standardize(nn.Module):
    """(values - mean) / standard deviation, of the channel or of all."""

    SMALLEST = 1e-7  # keras.backend.epsilon(): no deviation counts as less

    def __init__(self, mean: Tensor, variance: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)
        self.mean: Tensor
        self.variance: Tensor

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.variance.sqrt().clamp_min(self.SMALLEST)


class PiecewiseReLU(nn.Module):
    """Keras' ReLU with all its settings: cut at `largest`, nothing changed above `threshold`, a slope below it."""

    def __init__(self, largest: float | None, slope: float, threshold: float) -> None:
        super().__init__()
        self.largest, self.slope, self.threshold = largest, slope, threshold

    def forward(self, values: Tensor) -> Tensor:
        kept = torch.where(values >= self.threshold, values, self.slope * (values - self.threshold))
        return kept if self.largest is None else kept.clamp_max(self.largest)


class SlopePerPixel(nn.Module):
    """PReLU with a slope of its own for every place it is given one for."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape, device="meta"))

    def forward(self, values: Tensor) -> Tensor:
        return values.relu() - self.weight * (-values).relu()


class ChannelScale(nn.Module):
    """A factor for each channel, shaped to meet it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape, device="meta"))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.weight


class OldHardSigmoid(nn.Module):
    """The hard sigmoid before Keras 3: 0.2 x + 0.5, kept within [0, 1]."""

    def forward(self, values: Tensor) -> Tensor:
        return (0.2 * values + 0.5).clamp(0, 1)


class Exponential(nn.Module):
    """e to the power of every value."""

    def forward(self, values: Tensor) -> Tensor:
        return values.exp()


class Resize(nn.Module):
    """Feature maps at another size, or so many times their own."""

    def __init__(self, mode: str, *, size: tuple[int, int] | None = None, times: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.mode, self.size, self.times = mode, size, times

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c p q"]:
        times = None if self.times is None else [float(factor) for factor in self.times]
        return functional.interpolate(images, self.size, times, mode=self.mode)


class ResizeImages(nn.Module):
    """Images at one size by bilinear interpolation; `fit` says what becomes of another aspect ratio.

    "stretch" ignores it, "crop" cuts what is over in the middle first, "pad" adds a border of `fill` first.
    """

    def __init__(
        self, size: tuple[int, int], *, antialias: bool = False, fit: str = "stretch", fill: float = 0
    ) -> None:
        super().__init__()
        self.size, self.antialias, self.fit, self.fill = size, antialias, fit, fill

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c p q"]:
        height, width = images.shape[2:]
        rows, columns = int(width * self.size[0] / self.size[1]), int(height * self.size[1] / self.size[0])
        if self.fit == "crop":
            images = cut_middle(images, max(min(height, rows), 1), max(min(width, columns), 1))
        if self.fit == "pad":
            top, left = ((max(size, wanted) - size) // 2 for size, wanted in ((height, rows), (width, columns)))
            images = functional.pad(images, (left, left, top, top), value=self.fill)
        return functional.interpolate(images, self.size, mode="bilinear", antialias=self.antialias)


class CentreCrop(nn.Module):
    """The middle of images that are at least as large; of others what fits, brought to the size."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size, self.smaller = size, ResizeImages(size, fit="crop")

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c p q"]:
        if images.shape[2] < self.size[0] or images.shape[3] < self.size[1]:
            resized: Tensor = self.smaller(images)
            return resized
        return cut_middle(images, *self.size)


def cut_middle(images: Float[Tensor, "n c h w"], height: int, width: int) -> Float[Tensor, "n c p q"]:
    """So many rows and columns out of the middle, rounded to the top and left."""
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    return images[:, :, top : top + height, left : left + width]


class Channel(nn.Module):
    """One channel of the images, as planes."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
        return images[:, self.index]


class StackPlanes(nn.Module):
    """Planes become the channels of an image."""

    def forward(self, *planes: Float[Tensor, "n h w"]) -> Float[Tensor, "n c h w"]:
        return torch.stack(planes, dim=1)
