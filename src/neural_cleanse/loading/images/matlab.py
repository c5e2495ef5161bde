"""MATLAB files of images (version 5), as SVHN is handed out: X of height x width x channels x images, and y."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.cures import AS_NPZ, PICTURES_AGAIN
from neural_cleanse.loading.images.arrays import Arrays, image_set
from neural_cleanse.loading.memory_limit import allowance, at_most, physical_memory

MARK = b"MATLAB 5.0"
TEN = 10  # SVHN's label of the digit 0


def read_matlab(path: Path, *, ignore_labels: bool = False) -> ImageSet:
    """The images X and labels y of a .mat file. Raises DataError where it has none, or is damaged."""
    num_bytes = path.stat().st_size
    if num_bytes > physical_memory() // 2:
        raise DataError(f"{path} is too large: {num_bytes:,} bytes.", cure="Give a part of the images.")
    try:
        with at_most(allowance(num_bytes)):
            held = _loaded(path)
    except MemoryError as error:
        raise DataError(
            f"{path} asks for more memory than {num_bytes:,} bytes can need.", cure=PICTURES_AGAIN
        ) from error
    images = held.get("X")
    if not isinstance(images, np.ndarray) or images.ndim != 4 or images.dtype.kind not in "iuf":
        raise DataError(
            f"{path} has no array X of height x width x channels x images, as SVHN's files have.", cure=AS_NPZ
        )
    labels = held.get("y")
    if ignore_labels or not isinstance(labels, np.ndarray):
        return image_set(Arrays(images.transpose(3, 2, 0, 1)), path)
    flat = labels.reshape(-1)
    digits = bool(np.isin(flat, range(1, TEN + 1)).all())  # counted from 1, the digit 0 last
    found = image_set(Arrays(images.transpose(3, 2, 0, 1), np.where(flat == TEN, 0, flat) if digits else flat), path)
    said = ", label 10 taken as the digit 0" if digits else ""
    return ImageSet(found.images, found.labels, found.names, found.origin + said)


def _loaded(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        held: dict[str, Any] = loadmat(path, variable_names=["X", "y"])
    except MemoryError:
        raise
    except (OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, OverflowError, zlib.error,
            SystemError, AttributeError) as error:  # fmt: skip
        raise DataError(f"{path} cannot be read as a MATLAB file: {str(error)[:200]}.", cure=AS_NPZ) from error
    return held
