"""From arrays of a file to an ImageSet: which dimension is what, which range the pixels have, one class an image.

Images are n h w, n h w c or n c h w, or n x (h w) of a square; labels n, n x 1, one-hot, or words. Pixels are uint8, or
numbers of another kind that can be nothing but bytes, or floats in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet, whole_numbers
from neural_cleanse.loading.cures import RIGHTS
from neural_cleanse.loading.images.names import numbered
from neural_cleanse.loading.memory_limit import physical_memory
from neural_cleanse.pixel_values import PIXEL_MAX
from neural_cleanse.regular_files import TooLarge, read_regular

MAX_CHANNELS = 64
# A highest value above it is of 0-255: the ink of scikit-learn's 8 x 8 digits is 16, normalised pixels are below 5.
SURELY_BYTES = 16.0
NEARLY_WHOLE = {2: 0.1, 4: 0.02, 8: 0.02}  # by the bytes of a float: how far from a whole number rounding leaves it
MOST = 0.999  # share of the pixels that must be whole bytes
UNDO = "They look normalised: undo it (images * std + mean), and save them as uint8, 0-255."
CONVERT = "Convert them, for example (images * 255).round().astype('uint8')."


@dataclass(frozen=True)
class Arrays:
    """What a file holds: images, labels, names of the classes; `names_said` are the names that the first two have."""

    images: Any
    labels: Any = None
    names: tuple[str, ...] | None = None
    images_name: str = "images"
    labels_name: str = "labels"


def content_of(path: Path) -> bytes:
    """The whole file. Raises DataError where it cannot be read, or is larger than half of the memory."""
    limit = physical_memory() // 2
    try:
        return read_regular(path, limit)
    except TooLarge as error:
        raise DataError(f"{path} is too large: over {limit:,} bytes.", cure="Give a part of the images.") from error
    except (OSError, MemoryError) as error:
        raise DataError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or 'no memory'}.", cure=RIGHTS
        ) from error


def image_set(arrays: Arrays, path: Path) -> ImageSet:
    """The images with their labels. Raises DataError when the arrays are not images and labels."""
    images, said = as_bytes(channels_first(np.asarray(arrays.images), arrays.images_name, path), arrays, path)
    labels, names = arrays.labels, arrays.names
    if labels is not None:
        labels = _flat(np.asarray(labels))
        if labels.dtype.kind == "U" and labels.ndim == 1:
            numbers, names = numbered(labels.tolist(), names)
            labels = np.array(numbers, dtype=np.int64)
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise DataError(
                f"{arrays.labels_name!r} in {path} are {labels.dtype} of shape {labels.shape}: "
                f"a whole number for each of the {len(images)} images is needed.",
                cure="Pass --ignore-labels, or number the classes.",
            )
    origin = str(path) if arrays.images_name == "images" else f"{path}, {arrays.images_name!r}"
    return ImageSet(
        images=torch.from_numpy(np.array(images, order="C")),
        labels=None if labels is None else torch.from_numpy(whole_numbers(labels)),
        names=names,
        origin=origin + (f", {said}" if said else ""),
    )


def _flat(labels: Any) -> Any:
    """n x 1 (or 1 x n) as n, one-hot rows as the class that they name, whole floats and bytes as numbers and words."""
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    if labels.ndim == 2 and 1 in labels.shape:
        labels = labels.reshape(-1)
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "iufb":
        ones = labels == 1
        if bool((ones | (labels == 0)).all()) and bool((ones.sum(1) == 1).all()):
            return ones.argmax(1)
    if labels.dtype.kind == "b":
        return labels.astype(np.int64)
    if labels.dtype.kind == "f" and bool((np.isfinite(labels) & (labels == np.round(labels))).all()):
        return whole_numbers(labels)
    return labels


def channels_first(images: Any, name: str, path: Path) -> Any:
    """n c h w. Raises DataError on a shape that is none of images."""
    if images.ndim == 2 and (side := round(images.shape[1] ** 0.5)) ** 2 == images.shape[1] > 1:
        images = images.reshape(len(images), side, side)
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] < images.shape[1]:
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] > MAX_CHANNELS:
        raise DataError(
            f"{name!r} in {path} have the shape {images.shape}: n h w, n h w c or n c h w is needed, "
            f"with at most {MAX_CHANNELS} channels.",
            cure="Reshape them: rows of colour images do not say whether the channels come first or last.",
        )
    return images


def as_bytes(images: Any, arrays: Arrays, path: Path) -> tuple[Any, str]:
    """The pixels as uint8, and in words what they were. Raises DataError where their range would be a guess."""
    if images.dtype.kind in "biu" and images.size and images.max() == 1 and images.min() >= 0:
        return images.astype(np.uint8) * int(PIXEL_MAX), "black and white"
    if images.dtype in (np.uint8, np.bool_):
        return images.astype(np.uint8, copy=False), ""
    what = f"{arrays.images_name!r} in {path} are {images.dtype}"
    if images.dtype.kind not in "iuf" or images.size == 0:
        raise DataError(f"{what}: pixels (0-255) are needed: no range is guessed.", cure=CONVERT)
    low, high = float(images.min()), float(images.max())  # NaN where there is one
    if not np.isfinite([low, high]).all():
        raise DataError(f"{what} and hold NaN or Inf.", cure="Check what loads or transforms them.")
    for form, at_least, at_most, to_bytes in _FORMS if images.dtype.kind == "f" else _FORMS[:1]:
        if at_least <= low and at_most[0] < high <= at_most[1]:
            found = _all_bytes(images, to_bytes, exactly=form != UNIT)
            if found is not None:
                return found, f"{images.dtype} {form}"
    raise DataError(
        f"{what} from {low:g} to {high:g}: neither 0-255 nor [0, 1], and no range is guessed.",
        cure=UNDO if low < 0 else CONVERT,
    )


UNIT = "in [0, 1]"
# Name, lowest value, bounds of the highest, and the map to bytes. A highest value of 1 of 255 would be black images.
_FORMS: tuple[tuple[str, float, tuple[float, float], Callable[[Any], Any]], ...] = (
    ("taken as 0-255", 0.0, (SURELY_BYTES, PIXEL_MAX), lambda values: values),
    (UNIT, 0.0, (1.5 / PIXEL_MAX, 1.0), lambda values: values * PIXEL_MAX),
    ("in [-1, 1]", -1.0, (0.0, 1.0), lambda values: (values + 1) * (PIXEL_MAX / 2)),
)


def _all_bytes(images: Any, to_bytes: Callable[[Any], Any], *, exactly: bool) -> Any:
    """The pixels rounded to bytes; None where too many are no whole bytes, so that the map cannot be right."""
    made, whole = np.empty(images.shape, np.uint8), 0
    within = NEARLY_WHOLE.get(images.dtype.itemsize, 0.02) if images.dtype.kind == "f" else 0.0
    for row in range(len(images)):  # one at a time: no second copy in double precision
        values = to_bytes(images[row].astype(np.float64))
        rounded = np.round(values)
        whole += int((np.abs(values - rounded) <= within).sum())
        made[row] = rounded
    return made if not exactly or whole >= MOST * images.size else None
