"""Arrays of pixels: an .npz archive with images and labels under their usual names, or one .npy array. Never unpickles.

Images are uint8 (n h w, n h w c or n c h w), or n x (h w) of a square; labels whole numbers, n, n x 1 or one-hot.
"""

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images.names import numbered

# Names of images and of their labels, images that a model was not trained on first; case does not count.
PAIRS = (
    ("images", "labels"), ("x_test", "y_test"), ("test_images", "test_labels"), ("test_x", "test_y"),
    ("x_val", "y_val"), ("val_images", "val_labels"), ("x_valid", "y_valid"), ("image", "label"), ("imgs", "labels"),
    ("x", "y"), ("data", "labels"), ("data", "target"), ("x_train", "y_train"), ("train_images", "train_labels"),
    ("arr_0", "arr_1"),
)  # fmt: skip
OTHER_LABELS = ("label", "labels", "y", "target", "targets")
ANY_LABELS = ("images", "image", "imgs", "data", "x")  # names of images that say nothing of their labels' name
MAX_CHANNELS = 64
SAVE_AS = "Save it with np.savez(file, images=..., labels=...)."
UNREADABLE = (
    OSError, ValueError, EOFError, RuntimeError, KeyError, zipfile.BadZipFile, zlib.error, MemoryError,
    NotImplementedError, tokenize.TokenError,
)  # fmt: skip


def read_npz(path: Path, *, ignore_labels: bool = False) -> ImageSet:
    """The images of an .npz file. Raises DataError when the arrays are not images and labels."""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):  # another file since it was looked at
                raise ValueError("it is one array, no archive")
            images_name, labels_name = _names(archive.files, path)
            wanted = [images_name] if ignore_labels else [images_name, labels_name, "names"]
            arrays: dict[str, Any] = {key: archive[key] for key in wanted if key is not None and key in archive.files}
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an .npz archive: {error}") from error
    return _image_set(arrays, images_name, labels_name, path)


def read_npy(path: Path, *, ignore_labels: bool = False) -> ImageSet:
    """The images of one .npy array, with the labels of a file beside it that is named like it (x_test, y_test)."""
    arrays: dict[str, Any] = {"images": _array(path)}
    lower = path.stem.lower()
    named = next((labels for images, labels in PAIRS if images == lower), None)
    beside = {other.stem.lower(): other for other in path.parent.glob("*.npy")}
    if named in beside and not ignore_labels:
        arrays["labels"] = _array(beside[named])
    return _image_set(arrays, "images", "labels", path)


def _array(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an .npy array: {error}") from error


def _names(files: list[str], path: Path) -> tuple[str, str | None]:
    """What images and labels are called in the archive."""
    lower = {name.lower(): name for name in files}
    for images, labels in PAIRS:
        if images in lower:
            found = [lower[name] for name in (labels, *(OTHER_LABELS if images in ANY_LABELS else ())) if name in lower]
            return lower[images], found[0] if found else None
    raise DataError(f"{path} has no array 'images'; it has {', '.join(files[:8]) or 'none'}.", cure=SAVE_AS)


def _image_set(arrays: dict[str, Any], images_name: str, labels_name: str | None, path: Path) -> ImageSet:
    images = _channels_first(arrays[images_name], images_name, path)
    labels = arrays.get(labels_name) if labels_name is not None else None
    names = tuple(str(name) for name in arrays["names"].reshape(-1)) if "names" in arrays else None
    if labels is not None:
        labels = _flat(labels)
        if labels.dtype.kind == "U" and labels.ndim == 1:
            numbers, names = numbered(labels.tolist(), names)
            labels = np.array(numbers, dtype=np.int64)
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise DataError(
                f"{labels_name!r} in {path} are {labels.dtype} of shape {labels.shape}: "
                f"a whole number for each of the {len(images)} images is needed.",
                cure="Pass --ignore-labels, or number the classes.",
            )
    return ImageSet(
        images=torch.from_numpy(images),
        labels=None if labels is None else torch.from_numpy(labels.astype(np.int64)),
        names=names,
        origin=str(path) if images_name == "images" else f"{path}, {images_name!r}",
    )


def _flat(labels: Any) -> Any:
    """n x 1 as n, and one-hot rows as the class that they name."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "iufb":
        ones = labels == 1
        if bool((ones | (labels == 0)).all()) and bool((ones.sum(1) == 1).all()):
            return ones.argmax(1)
    return labels


def _channels_first(images: Any, name: str, path: Path) -> Any:
    if images.dtype != np.uint8:
        raise DataError(
            f"{name!r} in {path} are {images.dtype}: uint8 pixels (0-255) are needed: no range is guessed.",
            cure="Convert them, for example (images * 255).round().astype('uint8').",
        )
    if images.ndim == 2 and (side := round(images.shape[1] ** 0.5)) ** 2 == images.shape[1] > 1:
        images = images.reshape(len(images), side, side)
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] < images.shape[1]:
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] > MAX_CHANNELS:
        raise DataError(
            f"{name!r} in {path} have the shape {images.shape}: n h w, n h w c or n c h w is needed, "
            f"with at most {MAX_CHANNELS} channels."
        )
    return np.ascontiguousarray(images)
