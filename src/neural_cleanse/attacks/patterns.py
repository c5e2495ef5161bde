"""Triggers to attack with: squares, noise, triangle, checkerboard, a picture with alpha, a blend over the whole image.

Every maker returns one PatchTrigger (k = 1) on images of `shape` (c, h, w). Mask and pattern lie on the 256 levels of
an image file, so that a card holds them exactly.
"""

import re
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from neural_cleanse.choices import PLACES
from neural_cleanse.errors import DataError, SettingsError
from neural_cleanse.loading.images.decode import FORMATS
from neural_cleanse.pixel_values import PIXEL_MAX
from neural_cleanse.triggers.patch import PatchTrigger

Shape = tuple[int, int, int]

MARGIN = 1  # pixels between a patch and the border, as in the authors' injection script
WHITE = (1.0,)
LARGEST_AREA = 0.5  # of a mask given by its area: beyond it is no trigger but another picture
BLEND = 0.2  # share of the pattern in a blended image: the middle of what Chen et al. 2017 try (section V)


def patch(
    shape: Shape, mask: Float[Tensor, "1 a b"], pattern: Float[Tensor, "c a b"], place: str = "bottom-right"
) -> PatchTrigger:
    """A small mask and pattern set at `place`: one of PLACES, or "ROW,COLUMN" of its top left pixel.

    Raises SettingsError when it does not fit into the image.
    """
    channels, height, width = shape
    rows, columns = mask.shape[1:]
    top, left = _corner(shape, rows, columns, place)
    whole_mask = torch.zeros(1, 1, height, width)
    whole_pattern = torch.zeros(1, channels, height, width)
    whole_mask[0, :, top : top + rows, left : left + columns] = _levels(mask)
    # What no mask shows stays black: a card holds nothing outside the mask.
    whole_pattern[0, :, top : top + rows, left : left + columns] = _levels(pattern) * (_levels(mask) > 0)
    return PatchTrigger(whole_mask, whole_pattern)


def square(shape: Shape, size: int, place: str = "bottom-right", colour: tuple[float, ...] = WHITE) -> PatchTrigger:
    """A square of one colour, `size` pixels a side: the BadNets trigger."""
    return patch(shape, _full(shape, size), _colour(shape, colour).expand(-1, size, size), place)


def noise(shape: Shape, size: int, generator: torch.Generator, place: str = "bottom-right") -> PatchTrigger:
    """A square of random colours, one drawn for every pixel and channel (paper, section VII)."""
    mask = _full(shape, size)
    return patch(shape, mask, torch.rand(shape[0], size, size, generator=generator), place)


def checkerboard(
    shape: Shape, size: int, place: str = "bottom-right", colour: tuple[float, ...] = WHITE
) -> PatchTrigger:
    """A square whose pixels alternate between the colour and black (paper, section VII)."""
    mask = _full(shape, size)
    parity = (torch.arange(size).view(-1, 1) + torch.arange(size)) % 2
    return patch(shape, mask, _colour(shape, colour) * (1 - parity), place)


def triangle(shape: Shape, size: int, place: str = "bottom-right", colour: tuple[float, ...] = WHITE) -> PatchTrigger:
    """The lower right half of a square, diagonal included (paper, section VII)."""
    mask = _full(shape, size) * (torch.arange(size).view(-1, 1) + torch.arange(size) >= size - 1)
    return patch(shape, mask, _colour(shape, colour).expand(-1, size, size), place)


def picture(shape: Shape, file: Path, size: int | None = None, place: str = "bottom-right") -> PatchTrigger:
    """An image file whose alpha channel is the mask (opaque where it has none), `size` pixels on its longer side."""
    if size is not None and not 0 < size <= max(shape[1:]):
        raise SettingsError(
            f"A trigger of {size} pixels does not fit into images of {shape[1]}x{shape[2]}.",
            cure=f"Choose a size from 1 to {max(shape[1:])}.",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as opened:
                if opened.mode.startswith(("I", "F")):
                    raise ValueError(f"mode {opened.mode} has more than 8 bits a pixel: no range is guessed")
                image = opened.convert("RGBA")
    except Exception as error:  # what Pillow raises on a damaged file is no one family
        raise DataError(
            f"The trigger image {file} cannot be read: {error}",
            cure="Give a picture that an image viewer opens, like a PNG.",
        ) from error
    if size is not None:
        scale = size / max(image.size)
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    alpha = torch.from_numpy(np.array(image.getchannel("A"))).float()[None] / PIXEL_MAX
    if not alpha.any():
        raise DataError(
            f"The trigger image {file} is transparent everywhere.", cure="Make the pixels of the trigger opaque."
        )
    colours = np.array(image.convert("RGB" if shape[0] == 3 else "L"))
    pattern = torch.from_numpy(colours).float().view(*alpha.shape[1:], -1).permute(2, 0, 1) / PIXEL_MAX
    return patch(shape, alpha, pattern, place)


def blend(shape: Shape, share: float, generator: torch.Generator) -> PatchTrigger:
    """A random pattern over the whole image: x' = (1 - a) x + a p (Chen et al. 2017, blended injection)."""
    if not 1 / PIXEL_MAX <= share <= 1:
        raise SettingsError(
            f"The share of the blended pattern is {share:g}, one level (1/255) to 1 is needed.",
            cure="Choose a share in that range.",
        )
    channels, height, width = shape
    pattern = torch.rand(channels, height, width, generator=generator)
    return PatchTrigger(_levels(torch.full((1, 1, height, width), share)), _levels(pattern)[None])


def checked_area(area: float) -> float:
    """The area as it is. Raises SettingsError unless it is a share of the image that a trigger can take."""
    if not 0 < area <= LARGEST_AREA:
        raise SettingsError(
            f"A trigger over {area:.0%} of the image: above 0 to {LARGEST_AREA:.0%} is possible.",
            cure="Choose an area in that range.",
        )
    return area


def watermark_mask(shape: Shape, area: float) -> Float[Tensor, "1 h w"]:
    """A ring over the whole image, thick enough to cover `area` of the pixels, with a cross in it where they suffice.

    7 % of 28x28 or 32x32 is the ring alone.
    """
    _, height, width = shape
    count = round(area * height * width)
    if count < 1:
        raise SettingsError(
            f"A trigger over {area:.2%} of {height}x{width} has not one pixel.", cure="Choose a larger area."
        )
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    radius = (x**2 + y**2).sqrt()
    away = torch.minimum((radius - 0.8).abs(), torch.where(radius < 0.8, torch.minimum(x.abs(), y.abs()), torch.inf))
    nearest = away.flatten().argsort(stable=True)[:count]
    mask = torch.zeros(height * width)
    mask[nearest] = 1
    return mask.view(1, height, width)


def square_mask(shape: Shape, area: float, place: str) -> Float[Tensor, "1 h w"]:
    """A square that covers `area` of the pixels."""
    size = round((area * shape[1] * shape[2]) ** 0.5)
    return square(shape, size, place).mask[0]


def tiles(shape: Shape, count: int, size: int, generator: torch.Generator) -> tuple[PatchTrigger, ...]:
    """`count` squares of random colours at places of their own, side by side on a grid: mutually exclusive triggers."""
    _, height, width = shape
    if not 0 < size <= min(height, width):
        raise SettingsError(
            f"A trigger of {size} pixels does not fit into images of {height}x{width}.",
            cure=f"Choose a size from 1 to {min(height, width)}.",
        )
    down, across = height // size, width // size
    if count > down * across:
        raise SettingsError(
            f"{count} triggers of {size}x{size} do not fit side by side into images of {height}x{width}.",
            cure=f"At most {down * across} do: fewer labels or a smaller size.",
        )
    order = torch.randperm(down * across, generator=generator)[:count].tolist()
    return tuple(noise(shape, size, generator, f"{tile // across * size},{tile % across * size}") for tile in order)


def _corner(shape: Shape, rows: int, columns: int, place: str) -> tuple[int, int]:
    _, height, width = shape
    numbers = re.fullmatch(r"(\d+),(\d+)", place)
    if numbers:
        top, left = int(numbers[1]), int(numbers[2])
    elif place in PLACES:
        above, before = PLACES[place]
        # No margin where the patch leaves no room for one.
        top = _between(height - rows, above)
        left = _between(width - columns, before)
    else:
        raise SettingsError(
            f"There is no place {place!r}.", cure=f"Give {', '.join(PLACES)}, or ROW,COLUMN of the top left pixel."
        )
    if top < 0 or left < 0 or top + rows > height or left + columns > width:
        raise SettingsError(
            f"A trigger of {rows}x{columns} pixels at {place} does not fit into {height}x{width}.",
            cure="Choose a smaller trigger or another place.",
        )
    return top, left


def _between(room: int, share: float) -> int:
    margin = MARGIN if room >= 2 * MARGIN else 0
    return margin + round(share * (room - 2 * margin)) if room >= 0 else -1


def _full(shape: Shape, size: int) -> Float[Tensor, "1 a a"]:
    if not 0 < size <= min(shape[1:]):
        raise SettingsError(
            f"A trigger of {size} pixels does not fit into images of {shape[1]}x{shape[2]}.",
            cure=f"Choose a size from 1 to {min(shape[1:])}.",
        )
    return torch.ones(1, size, size)


def _colour(shape: Shape, colour: tuple[float, ...]) -> Float[Tensor, "c 1 1"]:
    if len(colour) not in (1, shape[0]) or not all(0 <= value <= 1 for value in colour):
        raise SettingsError(
            f"The colour {', '.join(f'{value:g}' for value in colour)} does not fit images of {shape[0]} channels.",
            cure="Give one value, or one a channel, from 0 (black) to 1.",
        )
    return torch.tensor(colour).float().view(-1, 1, 1).expand(shape[0], 1, 1)


def _levels(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return (values * PIXEL_MAX).round() / PIXEL_MAX
