"""Images of any layout and range to uint8, n x c x h x w. What was assumed is reported, and no range is guessed twice.

Range: uint8 as it is; floats in [0, 1]; whole or fractional values up to 255; and images that the caller's own
transforms normalised, which is undone with the model's mean and standard deviation. Anything else is an error.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import DataError
from neural_cleanse.loading.images.arrays import SURELY_BYTES
from neural_cleanse.pixel_values import PIXEL_MAX, are_pixels, to_bytes

FEW_CHANNELS = (1, 3, 4)
WHOLE, MOSTLY = 0.02, 0.5  # nearness to a whole 0-255 value, which 4 % of random values have; share of such pixels


@dataclass(frozen=True)
class Pixels:
    """uint8 images, in words what was done to get them, and a note where that is in doubt.

    `normalised` says that a normalisation was undone.
    """

    images: UInt8[Tensor, "n c h w"]
    said: str
    note: str | None = None
    normalised: bool = False


def channels_first(images: Tensor) -> tuple[Tensor, str]:
    """n x c x h x w, and in words what was changed. Raises DataError where the shape is none of images."""
    if images.dim() == 2 and (side := math.isqrt(images.shape[1])) ** 2 == images.shape[1] > 1:
        return images.reshape(len(images), 1, side, side), f"rows of {side * side} values taken as {side}x{side} pixels"
    if images.dim() == 3:
        return images.unsqueeze(1), "one channel"
    if images.dim() != 4 or 0 in images.shape:
        raise DataError(
            f"Images of shape {tuple(images.shape)}: four dimensions are needed.",
            cure="Give them as images x channels x height x width.",
        )
    _, first, middle, last = images.shape
    if first in FEW_CHANNELS and last not in FEW_CHANNELS:
        return images, ""
    if (last in FEW_CHANNELS and first not in FEW_CHANNELS) or (first == middle and last in FEW_CHANNELS):
        return images.permute(0, 3, 1, 2), "channels moved from last to first"
    if first in FEW_CHANNELS or first < min(middle, last):
        return images, ""
    if last < min(first, middle):
        return images.permute(0, 3, 1, 2), "channels moved from last to first"
    raise DataError(
        f"Images of shape {tuple(images.shape)}: nothing says which dimension is the channels'.",
        cure="Give them as images x channels x height x width.",
    )


def to_uint8(images: Tensor, normalize: Normalize | None, *, normalised: bool = False) -> Pixels:
    """The pixels of images n x c x h x w. `normalize` is the model's, None where nobody gave one.

    `normalised` says that floats are known to be normalised by it: they are then undone wherever that gives pixels,
    even where they lie in [0, 1].

    Raises DataError when the values are neither in [0, 1], nor up to 255, nor normalised by `normalize`.
    """
    whole = not images.is_floating_point() and not images.is_complex()
    if whole and images.numel() and int(images.max()) == 1 and int(images.min()) >= 0:
        return Pixels(images.to(torch.uint8) * int(PIXEL_MAX), "1 is white")
    if images.dtype in (torch.uint8, torch.bool):
        return Pixels(images.to(torch.uint8), "")
    if images.is_complex():
        raise DataError(f"Images of {images.dtype}: pixels are needed.", cure="Give real numbers.")
    values = images.float()
    if not torch.isfinite(values).all():
        raise DataError("The images hold NaN or Inf.", cure="Check what loads or transforms them.")
    low, high = values.min().item(), values.max().item()
    if not images.is_floating_point():
        if low < 0 or high > PIXEL_MAX:
            raise DataError(
                f"Images of {images.dtype} with values from {low:g} to {high:g}: 0 to 255 are needed.",
                cure="Give them as floats in [0, 1], or as uint8.",
            )
        return Pixels(values.to(torch.uint8), f"{str(images.dtype).removeprefix('torch.')} taken as 0-255")
    if normalised and normalize is not None and are_pixels(undone := normalize.undone(values)):
        return _from_normalised(undone, normalize)
    if low >= 0 and high <= 1:
        return Pixels(to_bytes(values), "floats in [0, 1]")
    if low >= 0 and SURELY_BYTES < high <= PIXEL_MAX:
        return Pixels(values.round().to(torch.uint8), "floats taken as 0-255")
    return _from_normalised(_undone(values, normalize, low, high), normalize)


def _from_normalised(undone: Float[Tensor, "n c h w"], normalize: Normalize | None) -> Pixels:
    return Pixels(to_bytes(undone), f"normalisation undone: {normalize}", _off_the_grid(undone), normalised=True)


def _off_the_grid(undone: Float[Tensor, "n c h w"]) -> str | None:
    """A note where most pixels are no whole 0-255 values: undone with another mean and deviation they seldom are."""
    values = undone * PIXEL_MAX
    whole = ((values - values.round()).abs() < WHOLE).float().mean().item()
    if whole > MOSTLY:
        return None
    return (
        f"normalised images: after undoing {whole:.0%} of the pixels are whole 0-255 values; unless the images were "
        "resized as floats, mean= and std= are not those that they were normalised with"
    )


def _undone(values: Tensor, normalize: Normalize | None, low: float, high: float) -> Float[Tensor, "n c h w"]:
    """The pixels in [0, 1] that `normalize` makes these values of."""
    range_said = f"The images have values from {low:.3g} to {high:.3g}: neither in [0, 1] nor 0 to 255."
    if normalize is None or normalize == Normalize():
        raise DataError(
            f"{range_said} They look normalised, and nothing says how.",
            cure="Give the mean= and std= that they were normalised with, or give images that are not normalised.",
        )
    channels = values.shape[1]
    if not {len(normalize.mean), len(normalize.std)} <= {1, channels}:
        return normalize(values)  # which raises: the normalisation is of another number of channels
    pixels = normalize.undone(values)
    if not are_pixels(pixels):
        least, most = pixels.min().item(), pixels.max().item()
        raise DataError(
            f"{range_said} With the normalisation {normalize} undone they go from {least:.3g} to {most:.3g}: "
            "they were not normalised with it.",
            cure="Give the mean= and std= that the images were normalised with, or images that are not normalised.",
        )
    return pixels
