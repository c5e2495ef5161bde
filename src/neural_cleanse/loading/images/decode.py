"""From the bytes of one picture to pixels: decoding, cropping, resizing. Pillow is imported when first used:
the scan's core runs without it."""

import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import UInt8
from torch import Tensor

from neural_cleanse.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # no others: of EPS, Pillow has Ghostscript run code
NO_PICTURES = {  # beginnings of files that are named like pictures
    b"version https://git-lfs": "it is a Git LFS pointer, not the picture (git lfs pull fetches it)",
    b"<": "it is text (a web page, or SVG), not a picture of pixels",
    b"%!PS": "it is PostScript, not a picture of pixels",
}
SKIP = "Remove it, or pass --skip-unreadable to go on without it."
TO_8_BITS = "Convert the pictures to 8 bits, in the range that the model was trained with."
MAX_PICTURE = 256 * 1024**2  # bytes of one picture in an archive
MAX_RATIO = 100  # of the longer to the shorter side: more would take far more memory than the picture itself
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the stored picture


@dataclass(frozen=True)
class Picture:
    """One undecoded picture: `name` for messages, `roi` as shares of width and height where the data have one."""

    name: str
    content: bytes
    roi: Box | None = None
    fault: str = ""  # why there is no content


@dataclass(frozen=True)
class Shape:
    """What to make of every picture: `size` (height, width), or a centre crop, of its region of interest or of all."""

    size: tuple[int, int] | None = None
    crop_roi: bool = False
    centre_crop: tuple[int, int] | None = None  # the shorter side first brought to, the side of the square then kept

    def __str__(self) -> str:
        parts = ["cropped to the region of interest"] if self.crop_roi else []
        parts += [f"resized to {self.size[0]}x{self.size[1]}"] if self.size else []
        if self.centre_crop:
            shorter, side = self.centre_crop
            parts.append(f"shorter side resized to {shorter}, the centre {side}x{side} kept")
        return ", ".join(parts) or "as stored"


def decode(
    pictures: Iterable[Picture], shape: Shape, *, skip_unreadable: bool = False
) -> tuple[UInt8[Tensor, "n c h w"], list[int], list[str]]:
    """The pixels of all pictures, which of them could be read (by position), and the names of the others.

    Grey pictures give one channel, all others three; one coloured picture makes the whole set coloured.
    Raises DataError on an unreadable picture (unless skipped), and when sizes differ.
    """
    arrays: list[npt.NDArray[np.uint8]] = []
    kept: list[int] = []
    skipped: list[str] = []
    for position, picture in enumerate(pictures):
        try:
            if picture.fault:
                raise ValueError(picture.fault)
            arrays.append(_pixels(picture, shape))
        except (DataError, ImportError):
            raise
        except Exception as error:  # what Pillow raises on a damaged file is no one family
            if not skip_unreadable:
                cure = TO_8_BITS if isinstance(error, _TooDeepError) else SKIP
                what = str(error).rstrip(".")
                raise DataError(f"{picture.name} cannot be read as a picture: {what}.", cure=cure) from error
            skipped.append(picture.name)
            continue
        kept.append(position)
    if not arrays:
        raise DataError(f"None of the {len(skipped)} pictures can be read.", cure="Is this a directory of images?")
    return _stack(arrays), kept, skipped


class _TooDeepError(ValueError):
    """A picture with more than 8 bits a pixel."""


def _unknown(content: bytes) -> str:
    """In words, what a file is that is none of the pictures that are read."""
    if not content:
        return "it is empty"
    start = content[:64].lstrip()
    said = next((said for mark, said in NO_PICTURES.items() if start.startswith(mark)), None)
    return said or f"it is damaged, or none of {', '.join(FORMATS)}"


def _pixels(picture: Picture, shape: Shape) -> npt.NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image: Image.Image = Image.open(io.BytesIO(picture.content), formats=FORMATS)
            if image.mode.startswith(("I", "F")):
                raise _TooDeepError(f"mode {image.mode} has more than 8 bits a pixel: no range is guessed")
            image = image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")
        except UnidentifiedImageError as error:
            raise ValueError(_unknown(picture.content)) from error
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ValueError(str(error)) from error
    box = _box(picture, image.width, image.height) if shape.crop_roi else None
    if shape.size is not None or box is not None:
        height, width = shape.size or (image.height, image.width)
        image = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    if shape.centre_crop is not None:
        image = _centre(image, *shape.centre_crop)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def resized(images: UInt8[Tensor, "n c h w"], shape: Shape) -> UInt8[Tensor, "n c height width"]:
    """Pixels already in memory brought to the size of `shape`, by the same filter as pictures."""
    from PIL import Image

    arrays = []
    for pixels in images.permute(0, 2, 3, 1).contiguous().numpy():
        image: Image.Image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        if shape.size is not None:
            image = image.resize((shape.size[1], shape.size[0]), Image.Resampling.BILINEAR)
        if shape.centre_crop is not None:
            try:
                image = _centre(image, *shape.centre_crop)
            except ValueError as error:
                raise DataError(
                    f"The images cannot be brought to size: {error}.", cure="Pass --resize HxW instead."
                ) from error
        array = np.asarray(image)
        arrays.append(array[..., None] if array.ndim == 2 else array)
    return _stack(arrays)


def _centre(image: "Image.Image", shorter: int, side: int) -> "Image.Image":
    """The shorter side brought to `shorter` pixels, and the square of `side` pixels in the middle.

    Positions are rounded as torchvision's Resize and CenterCrop round them.
    """
    from PIL import Image

    least, most = sorted(image.size)
    if most > MAX_RATIO * least:
        raise ValueError(f"{image.width}x{image.height} pixels are too long and narrow for a centre crop")
    width, height = (shorter if length == least else int(shorter * length / least) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def _box(picture: Picture, width: int, height: int) -> Box:
    if picture.roi is None:
        raise DataError(
            f"{picture.name} has no region of interest to crop to: that needs columns roi_x1 .. roi_y2, width, height.",
            cure="Leave out --crop roi.",
        )
    left, top, right, bottom = picture.roi
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise DataError(
            f"The region of interest of {picture.name} lies outside the picture.", cure="Leave out --crop roi."
        )
    return left * width, top * height, right * width, bottom * height


def _stack(arrays: list[npt.NDArray[np.uint8]]) -> UInt8[Tensor, "n c h w"]:
    sizes = sorted({array.shape[:2] for array in arrays})
    if len(sizes) > 1:
        named = ", ".join(f"{height}x{width}" for height, width in sizes[:4])
        raise DataError(
            f"The images have {len(sizes)} different sizes ({named}{' ...' if len(sizes) > 4 else ''}).",
            cure="Bring them to the model's input size with --resize HxW.",
        )
    channels = max(array.shape[2] for array in arrays)
    stacked = np.stack([np.broadcast_to(array, (*array.shape[:2], channels)) for array in arrays])
    return torch.from_numpy(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)))
