"""An .npz archive: `images` uint8 (n h w, n h w c or n c h w), optional `labels` and `names`. Never unpickles."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet


def read_npz(path: Path, *, ignore_labels: bool = False) -> ImageSet:
    """The images of an .npz file. Raises DataError when the arrays are not images and labels."""
    wanted = ("images",) if ignore_labels else ("images", "labels", "names")
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):  # another file since it was looked at
                raise ValueError("it is one array, no archive")
            arrays: dict[str, Any] = {key: archive[key] for key in wanted if key in archive}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise DataError(f"{path} cannot be read as an .npz archive: {error}") from error
    if "images" not in arrays:
        raise DataError(f"{path} has no array 'images'.", cure="Save it with np.savez(file, images=..., labels=...).")
    images, labels = _channels_first(arrays["images"], path), arrays.get("labels")
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
        raise DataError(
            f"'labels' in {path} are {labels.dtype} of shape {labels.shape}: "
            f"a whole number for each of the {len(images)} images is needed.",
            cure="Pass --ignore-labels, or number the classes.",
        )
    return ImageSet(
        images=torch.from_numpy(images),
        labels=None if labels is None else torch.from_numpy(labels.astype(np.int64)),
        names=tuple(str(name) for name in arrays["names"].reshape(-1)) if "names" in arrays else None,
        origin=str(path),
    )


def _channels_first(images: Any, path: Path) -> Any:
    if images.dtype != np.uint8:
        raise DataError(
            f"'images' in {path} are {images.dtype}: uint8 pixels (0-255) are needed: no range is guessed.",
            cure="Convert them, for example (images * 255).round().astype('uint8').",
        )
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"'images' in {path} have the shape {images.shape}: n h w, n h w c or n c h w is needed, c 1 or 3."
        )
    return np.ascontiguousarray(images)
