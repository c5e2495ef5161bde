"""load_data: clean images from pictures, parquet files or files of arrays, told apart by content."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet, balanced
from neural_cleanse.loading.cures import PICTURES, RIGHTS
from neural_cleanse.loading.files import near
from neural_cleanse.loading.images.array_files import ZIP, Reader, array_file_in, reader_of
from neural_cleanse.loading.images.decode import Shape, decode, resized
from neural_cleanse.loading.images.folder import FolderSource, open_archive, open_folder, open_tar
from neural_cleanse.loading.images.parquet import ARROW_FILE, ARROW_STREAM, ParquetSource, open_parquet, parquet_files
from neural_cleanse.loading.images.tar import is_tar

# Without labels more images are read than asked for, so that the model's own answers can balance them.
UNLABELLED_RESERVE = 4
PARQUET, ARROW = b"PAR1", (ARROW_FILE[:4], ARROW_STREAM)


def load_data(
    path: str | Path,
    *,
    at_most: int | None = None,
    seed: int = 0,
    resize: tuple[int, int] | None = None,
    crop: Literal["roi"] | None = None,
    centre_crop: tuple[int, int] | None = None,
    ignore_labels: bool = False,
    skip_unreadable: bool = False,
) -> ImageSet:
    """Clean images as uint8, from an image folder, an .npz file, or a parquet file or folder.

    `at_most` images are read, drawn by `seed` and balanced by label; without labels four times as many, since a
    scan balances those by the model's own answers. `resize` is (height, width); `crop="roi"` keeps the region of
    interest where the data have one; `centre_crop=(256, 224)` brings the shorter side to 256 pixels and keeps the
    224x224 in the middle. Raises DataError with the file's name.
    """
    path = Path(path)
    shape = Shape(resize, crop == "roi", centre_crop)
    if not path.exists():
        raise DataError(f"There is no file or folder {path}.", cure=near(path))
    if not path.is_file() and not path.is_dir():
        raise DataError(f"{path} is neither a file nor a folder.", cure=PICTURES)
    found = _arrays_at(path)
    if found is not None:
        return _from_arrays(*found, shape, at_most, seed, ignore_labels)
    source = _open(path, ignore_labels)
    labels = None if ignore_labels else source.labels
    count = len(source.images) if isinstance(source, ParquetSource) else len(source.files)
    rows = _choose(count, labels, at_most, seed)
    images, kept, skipped = decode(source.pictures(rows.tolist()), shape, skip_unreadable=skip_unreadable)
    place = source.place if isinstance(source, FolderSource) else ""
    origin = f"{path}{place and '/' + place} ({count} images, {shape})" + (
        f", {len(skipped)} unreadable skipped" if skipped else ""
    )
    if labels is not None and isinstance(source, FolderSource) and source.labelled_by:
        origin += f", labels from {source.labelled_by}"
    if labels is None and isinstance(source, FolderSource) and source.unlabelled:
        origin += f", {source.unlabelled}"
    read = rows[torch.tensor(kept)]
    return ImageSet(
        images=images,
        labels=None if labels is None else labels[read],
        names=None if ignore_labels else source.names,
        origin=origin,
        files=_files(source, read.tolist()),
        orders=source.orders if isinstance(source, FolderSource) and labels is not None else (),
        unreadable=tuple(skipped),
    )


def _arrays_at(path: Path) -> tuple[Path, Reader] | None:
    """The file of arrays that `path` is or holds, with its reader; None where it is no such file or folder."""
    try:
        if path.is_dir():
            inside = None if parquet_files(path) else array_file_in(path)
            return None if inside is None else _arrays_at(inside)
        reader = reader_of(path)
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror}.", cure=RIGHTS) from error
    return None if reader is None else (path, reader)


def _files(source: FolderSource | ParquetSource, rows: list[int]) -> tuple[str, ...] | None:
    """The files that pictures were read from, where each has its own."""
    if isinstance(source, ParquetSource) or source.archive is not None:
        return None
    return tuple(str(source.files[row]) for row in rows)


def _open(path: Path, ignore_labels: bool) -> FolderSource | ParquetSource:
    try:
        if path.is_dir():
            files = parquet_files(path)
            return open_parquet(files, ignore_labels=ignore_labels) if files else open_folder(path)
    except OSError as error:  # a folder went away while it was listed, or cannot be
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror}.", cure=RIGHTS) from error
    magic = _magic(path)
    if magic == ZIP:
        return open_archive(path)
    if magic in (PARQUET, *ARROW):
        return open_parquet([path], ignore_labels=ignore_labels)
    if is_tar(path):
        return open_tar(path)
    what = "is empty" if not magic else "is no file of images that we know"
    raise DataError(f"{path} {what}.", cure=PICTURES)


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", cure=RIGHTS) from error


def _from_arrays(
    path: Path, reader: Reader, shape: Shape, at_most: int | None, seed: int, ignore_labels: bool
) -> ImageSet:
    if shape.crop_roi:
        raise DataError(f"{path} holds pixel arrays without a region of interest.", cure="Leave out --crop roi.")
    whole = reader(path, ignore_labels=ignore_labels)
    data = whole.take(_choose(len(whole), whole.labels, at_most, seed))
    as_stored = shape.size is None and shape.centre_crop is None
    images = data.images if as_stored else resized(data.images, shape)
    return replace(data, images=images, origin=f"{whole.origin} ({len(whole)} images, {shape})")


def _choose(count: int, labels: Int[Tensor, " n"] | None, at_most: int | None, seed: int) -> Int[Tensor, " m"]:
    if at_most is None or count <= at_most:
        return torch.arange(count)
    if labels is not None:
        return balanced(labels, at_most, seed)
    chosen = np.random.default_rng(seed).permutation(count)[: at_most * UNLABELLED_RESERVE]
    return torch.from_numpy(np.sort(chosen))
