"""The IDX files of MNIST and its kin (`t10k-images-idx3-ubyte`, also .gz), with the labels' file beside them."""

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.cures import PICTURES, PICTURES_AGAIN
from neural_cleanse.loading.images.arrays import Arrays, content_of, image_set

GZIP = b"\x1f\x8b"
IMAGES = (b"\x00\x00\x08\x03", b"\x00\x00\x08\x04")  # bytes in 3 dimensions (n h w), or 4 (n h w c)
LABELS = b"\x00\x00\x08\x01"
HEADER = 4 + 4 * 4  # bytes at most
MAX_RATIO = 1100  # deflate makes at most 1,032 bytes of one


def read_idx(path: Path, *, ignore_labels: bool = False) -> ImageSet:
    """The images of an IDX file. Raises DataError when it is damaged, or its labels are."""
    labels = None
    if not ignore_labels and (beside := _labels_of(path)) is not None:
        labels = _array(beside, (LABELS,))
    return image_set(Arrays(_array(path, IMAGES), labels), path)


def starts_with(path: Path, wanted: tuple[bytes, ...]) -> bool:
    """Whether the file, unpacked where it is gzip, begins with one of these. Raises OSError."""
    with path.open("rb") as file:
        first = file.read(512)
    if first.startswith(GZIP):
        try:
            first = zlib.decompressobj(31).decompress(first, HEADER)
        except zlib.error:
            return False
    return first.startswith(wanted)


def _labels_of(path: Path) -> Path | None:
    """The file of labels that is named as MNIST's are; None where there is none."""
    name = path.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    plain = name.removesuffix(".gz")
    names = (name, plain, f"{plain}.gz")
    return next((path.with_name(one) for one in names if one != path.name and path.with_name(one).is_file()), None)


def _array(path: Path, magic: tuple[bytes, ...]) -> Any:
    content = content_of(path)
    if content.startswith(GZIP):
        content = _unpacked(content, path)
    if not content.startswith(magic):
        raise DataError(f"{path} is no IDX file of bytes in {magic[0][3]} dimensions.", cure=PICTURES)
    shape, start = _shape(content)
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{path} is damaged: its header says {shape}, it holds {len(content) - start:,} bytes.", cure=PICTURES_AGAIN
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _shape(content: bytes) -> tuple[tuple[int, ...], int]:
    start = 4 + 4 * content[3]
    return tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)), start


def _unpacked(content: bytes, path: Path) -> bytes:
    """As many bytes as the header inside asks for, and no more than the packed bytes can hold."""
    try:
        head = zlib.decompressobj(31).decompress(content, HEADER)
        if not head.startswith((*IMAGES, LABELS)) or len(head) < 8:
            raise DataError(f"{path} is a packed file, and what is in it is no IDX file.", cure="Unpack it first.")
        shape, start = _shape(head)
        size = start + math.prod(shape)
        if size > MAX_RATIO * len(content):
            raise DataError(
                f"{path} is damaged: its header says {shape}, more than {len(content):,} bytes can hold.",
                cure=PICTURES_AGAIN,
            )
        return zlib.decompressobj(31).decompress(content, size + 1)
    except (zlib.error, MemoryError) as error:
        raise DataError(f"{path} cannot be unpacked: {error}", cure=PICTURES_AGAIN) from error
