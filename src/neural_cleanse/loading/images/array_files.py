"""Files that hold images as numbers, told apart by their content, and where one lies in a folder without pictures."""

import os
from collections.abc import Callable
from pathlib import Path

from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images import cifar_binary, hdf5, idx, matlab, table
from neural_cleanse.loading.images.cifar_binary import read_cifar_binary
from neural_cleanse.loading.images.folder import SPLITS, holds_pictures, is_picture
from neural_cleanse.loading.images.hdf5 import read_hdf5
from neural_cleanse.loading.images.idx import read_idx
from neural_cleanse.loading.images.matlab import read_matlab
from neural_cleanse.loading.images.npz import read_npy, read_npz
from neural_cleanse.loading.images.pickled import read_pickled
from neural_cleanse.loading.images.table import read_table
from neural_cleanse.loading.images.tensors import is_saved_tensors, read_tensors

ZIP, NUMPY = b"PK\x03\x04", b"\x93NUM"
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
MAX_FILES, MAX_DEPTH = 2000, 4  # of a folder that is looked through
TEST_NAMES = ("t10k", "test", "x_test", *SPLITS)  # beginnings of names; images that were not trained on first
NOT_IMAGES = ("y_", "label", "meta", "batches.meta", "readme", ".")  # beginnings of names of what lies beside them


Reader = Callable[..., ImageSet]  # of (path, *, ignore_labels)


def reader_of(path: Path) -> Reader | None:
    """What reads this file of arrays; None where it holds pictures, or nothing that we know. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(ZIP):
        if is_saved_tensors(path):
            return read_tensors
        return None if holds_pictures(path) else read_npz
    marks: tuple[tuple[bytes | tuple[bytes, ...], Reader], ...] = (
        (NUMPY, read_npy), (hdf5.MARK, read_hdf5), (matlab.MARK, read_matlab), (PICKLES, read_pickled),
    )  # fmt: skip
    known = next((reader for mark, reader in marks if start.startswith(mark)), None)
    if known is not None:
        return known
    checks: tuple[tuple[Callable[[], bool], Reader], ...] = (
        (lambda: idx.starts_with(path, idx.IMAGES), read_idx),
        (lambda: path.suffix == ".bin" and cifar_binary.could_be(path.stat().st_size), read_cifar_binary),
        (lambda: table.is_table(table.first_line(path)), read_table),
    )
    return next((reader for fits, reader in checks if fits()), None)


def array_file_in(directory: Path) -> Path | None:
    """The one file of arrays in a folder without pictures, of several the one for testing; None where there is none.

    Raises DataError where several could be meant.
    """
    found: list[Path] = []
    seen = 0
    for place, inner, names in os.walk(directory):
        depth = len(Path(place).relative_to(directory).parts)
        inner[:] = sorted(name for name in inner if not name.startswith(".") and depth < MAX_DEPTH)
        seen += len(names)
        if seen > MAX_FILES or any(is_picture(name) for name in names):
            return None
        files = [Path(place) / name for name in sorted(names) if not name.lower().startswith(NOT_IMAGES)]
        found += [path for path in files if path.is_file() and _is_images(path)]
    found = _one_packed_and_unpacked(found)
    if len(found) <= 1:
        return found[0] if found else None
    for split in TEST_NAMES:
        chosen = [path for path in found if path.name.lower().startswith(split)]
        if len(chosen) == 1:
            return chosen[0]
    named = ", ".join(str(path.relative_to(directory)) for path in found[:5])
    raise DataError(f"{directory} holds {len(found)} files of images: {named}.", cure="Give one of them.")


def _is_images(path: Path) -> bool:
    """Whether a file in a folder holds images; one that only its words make a table (a README, a module) does not."""
    try:
        reader = reader_of(path)
        return reader is not None and (reader is not read_table or table.holds_numbers(path))
    except OSError:
        return False


def _one_packed_and_unpacked(paths: list[Path]) -> list[Path]:
    """Without packed files whose content lies beside them."""
    return [path for path in paths if path.suffix != ".gz" or path.with_suffix("") not in paths]
