"""Arrays of pixels: an .npz archive with images and labels under their usual names, or one .npy. Never unpickles."""

import contextlib
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.array_names import PAIRS, are_weights, pair_of
from neural_cleanse.loading.cures import PICTURES_AGAIN
from neural_cleanse.loading.images.arrays import Arrays, image_set
from neural_cleanse.loading.memory_limit import allowance, at_most, physical_memory
from neural_cleanse.regular_files import without_waiting

SAVE_AS = "Save it with np.savez(file, images=..., labels=...)."
UNREADABLE = (
    OSError, ValueError, EOFError, RuntimeError, KeyError, zipfile.BadZipFile, zlib.error,
    NotImplementedError, tokenize.TokenError, OverflowError,
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
            present = [key for key in wanted if key is not None and key in archive.files]
            with _room(path, _unpacked(archive, present)):
                arrays: dict[str, Any] = {key: archive[key] for key in present}
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an .npz archive: {_plainly(error)}.", cure=SAVE_AS) from error
    names = tuple(str(name) for name in arrays["names"].reshape(-1)) if "names" in arrays else None
    labels = None if labels_name is None else arrays.get(labels_name)
    return image_set(Arrays(arrays[images_name], labels, names, images_name, labels_name or "labels"), path)


def read_npy(path: Path, *, ignore_labels: bool = False) -> ImageSet:
    """The images of one .npy array, with the labels of a file beside it that is named like it (x_test, y_test)."""
    lower = path.stem.lower()
    named = next((labels for images, labels in PAIRS if images == lower), None)
    beside = {other.stem.lower(): other for other in path.parent.glob("*.npy")}
    labels = _array(beside[named]) if named in beside and not ignore_labels else None
    return image_set(Arrays(_array(path), labels), path)


def _array(path: Path) -> Any:
    try:
        with open(path, "rb", opener=without_waiting) as file, _room(path, path.stat().st_size):
            return np.lib.format.read_array(file, allow_pickle=False)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an .npy array: {_plainly(error)}.", cure=SAVE_AS) from error


def _unpacked(archive: Any, names: list[str]) -> int:
    """The bytes that arrays of an archive say they unpack to."""
    held = [info.file_size for info in archive.zip.infolist() if info.filename.removesuffix(".npy") in names]
    return sum(held)


@contextlib.contextmanager
def _room(path: Path, num_bytes: int) -> Iterator[None]:
    """Within, arrays of so many bytes are read. Raises DataError where there is no memory for them, or they lie."""
    limit = physical_memory() // 2
    if num_bytes > limit:
        raise DataError(
            f"{path} holds {num_bytes:,} bytes of images: over half of this machine's memory.",
            cure="Give a part of the images.",
        )
    try:
        with at_most(allowance(num_bytes)):
            yield
    except MemoryError as error:
        raise DataError(
            f"{path} asks for more memory than {num_bytes:,} bytes can need.", cure=PICTURES_AGAIN
        ) from error


def _plainly(error: Exception) -> str:
    """What is wrong, without NumPy's advice to unpickle."""
    if "allow_pickle" in str(error):
        return "it holds Python objects, and nothing is unpickled"
    return str(error).rstrip(".") or type(error).__name__


def _names(files: list[str], path: Path) -> tuple[str, str | None]:
    """What images and labels are called in the archive."""
    found = pair_of(files)
    if found is None:
        raise DataError(
            f"{path} has no array 'images'; it has {', '.join(files[:8]) or 'none'}.",
            cure="These are a network's weights: give them as the model, and images with --data."
            if are_weights(files)
            else SAVE_AS,
        )
    return found
