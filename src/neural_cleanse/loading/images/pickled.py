"""Pickled dictionaries of images: CIFAR-10 and CIFAR-100 for Python, and any other with arrays under usual names.

Read as plain values alone (`plain_pickle`): a pickle that names anything but arrays is refused.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.array_names import pair_of
from neural_cleanse.loading.cures import AS_NPZ, PICTURES_AGAIN
from neural_cleanse.loading.images.arrays import Arrays, content_of, image_set
from neural_cleanse.loading.memory_limit import allowance, at_most
from neural_cleanse.loading.plain_pickle import load_plain

CIFAR_ROW = 3 * 32 * 32  # red, then green, then blue, each row by row
CIFAR_KEYS = ("batch_label", "fine_labels", "coarse_labels", "filenames")
CIFAR_LABELS = ("labels", "fine_labels", "coarse_labels")
NAMES_FILES = {"labels": ("batches.meta", "label_names"), "fine_labels": ("meta", "fine_label_names")}


def read_pickled(path: Path, *, ignore_labels: bool = False) -> ImageSet:
    """The images of a pickled dictionary (or pair) of arrays. Raises DataError when it holds anything else."""
    return of_values(_plain(path), path, ignore_labels=ignore_labels)


def of_values(held: Any, path: Path, *, ignore_labels: bool) -> ImageSet:
    """The images of a dictionary or pair of arrays. Raises DataError when it is anything else."""
    if isinstance(held, list | tuple) and len(held) == 2:
        held = dict(zip(("images", "labels"), held, strict=True))
    if not isinstance(held, dict):
        raise DataError(f"{path} is a pickle of a {type(held).__name__}: no dictionary of images.", cure=AS_NPZ)
    named = {key: part for key, part in held.items() if isinstance(key, str)}
    if _is_cifar(named):
        arrays = _cifar(named, path)
    else:
        pair = pair_of(list(named))
        if pair is None or named[pair[0]] is None:
            raise DataError(
                f"{path} has no array 'images'; it has {', '.join(list(named)[:8]) or 'none'}.", cure=AS_NPZ
            )
        arrays = Arrays(named[pair[0]], named.get(pair[1] or ""), None, pair[0], pair[1] or "labels")
    if ignore_labels:
        arrays = Arrays(arrays.images, images_name=arrays.images_name)
    return image_set(arrays, path)


def _plain(path: Path) -> Any:
    content = content_of(path)
    try:
        with at_most(allowance(len(content))):
            return load_plain(content)
    except MemoryError as error:
        raise DataError(
            f"{path} asks for more memory than {len(content):,} bytes can need.", cure=PICTURES_AGAIN
        ) from error
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} is a pickle that cannot be read as plain arrays: {error}. Nothing of it was run.", cure=AS_NPZ
        ) from error


def _is_cifar(held: dict[str, Any]) -> bool:
    data = held.get("data")
    return getattr(data, "shape", (0,))[1:] == (CIFAR_ROW,) and any(key in held for key in CIFAR_KEYS)


def _cifar(held: dict[str, Any], path: Path) -> Arrays:
    key = next((name for name in CIFAR_LABELS if name in held), None)
    names = None
    if key in NAMES_FILES:
        file, listed = NAMES_FILES[key]
        beside = path.parent / file
        meta = _plain(beside) if beside.is_file() else {}
        found = meta.get(listed) if isinstance(meta, dict) else None
        if isinstance(found, list) and all(isinstance(name, str | bytes) for name in found):
            names = tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in found)
    labels = None if key is None else np.asarray(held[key])
    return Arrays(held["data"].reshape(-1, 3, 32, 32), labels, names, labels_name=key or "labels")
