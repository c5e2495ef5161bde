"""The binary batches of CIFAR-10 and CIFAR-100: one or two bytes of labels, then 3,072 of pixels, again and again.

They have no mark: the file's size and the bounds of all labels tell them.
"""

from pathlib import Path
from typing import Any

import numpy as np

from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images.arrays import Arrays, content_of, image_set
from neural_cleanse.regular_files import read_regular

PIXELS = 3 * 32 * 32
CIFAR_10, CIFAR_100 = (10,), (20, 100)  # classes by label byte; CIFAR-100's coarse label comes first
NAMES = {CIFAR_10: "batches.meta.txt", CIFAR_100: "fine_label_names.txt"}
MAX_NAMES = 10_000  # bytes of a file of names


def could_be(num_bytes: int) -> bool:
    """Whether a file of this size is whole records of either."""
    return num_bytes > 0 and any(num_bytes % (PIXELS + len(kind)) == 0 for kind in NAMES)


def read_cifar_binary(path: Path, *, ignore_labels: bool = False) -> ImageSet:
    """The images of a batch. Raises DataError when its labels are not those of CIFAR-10 or CIFAR-100."""
    content = content_of(path)
    for kind, file in NAMES.items():
        width = PIXELS + len(kind)
        if len(content) % width:
            continue
        rows = np.frombuffer(content, np.uint8).reshape(-1, width)
        if all(int(rows[:, place].max()) < classes for place, classes in enumerate(kind)):
            images: Any = rows[:, len(kind) :].reshape(-1, 3, 32, 32)
            if ignore_labels:
                return image_set(Arrays(images), path)
            return image_set(Arrays(images, rows[:, len(kind) - 1], _names(path.with_name(file), kind[-1])), path)
    raise DataError(
        f"{path} has the size of CIFAR records, and labels that are none of CIFAR-10's or CIFAR-100's.",
        cure="Give a folder or a zip of images, an .npz file or a parquet file.",
    )


def _names(path: Path, count: int) -> tuple[str, ...] | None:
    """The names in the file beside the batch, where it has one for each class."""
    try:
        text = read_regular(path, MAX_NAMES).decode("utf-8", "replace")
    except OSError:
        return None
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    return names if len(names) == count else None
