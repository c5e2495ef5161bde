"""Pictures in folders, or in a zip or tar archive: class subfolders, or flat and unlabelled.

The classes of a folder count as torchvision's ImageFolder and Keras count them: plain order of the names, a class
without pictures keeps its number, pictures may lie deeper. Other usual orders are kept beside, for whoever has a model.
"""

import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from neural_cleanse.errors import DataError
from neural_cleanse.images import ClassOrder
from neural_cleanse.loading.cures import PICTURES_AGAIN
from neural_cleanse.loading.images.decode import MAX_PICTURE, Picture
from neural_cleanse.loading.images.listing import labels_beside
from neural_cleanse.loading.images.names import is_number
from neural_cleanse.loading.images.tar import entries_of, pictures_of

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
MAX_NAME = 255  # bytes that file systems allow; archives have longer ones, for no good
NO_CLASSES = frozenset({"__macosx", "__pycache__", "@eadir"})  # what systems leave beside the data, and hidden folders
# Parts of a data set by the names of their folders: images that a model was not trained on come first.
SPLITS = ("test", "testing", "val", "valid", "validation", "dev", "train", "training")
MAX_LISTED = 20  # folders that are looked through for a list of labels
Parts = tuple[str, ...]


@dataclass(frozen=True)
class FolderSource:
    """The pictures of a folder or archive, found and labelled, not yet read; `place` is the folder that was taken."""

    files: tuple[Path, ...]
    labels: torch.Tensor | None
    names: tuple[str, ...] | None
    orders: tuple[ClassOrder, ...] = ()
    place: str = ""
    archive: Path | None = None
    is_tar: bool = False
    labelled_by: str = ""  # the file beside the pictures that says their labels
    unlabelled: str = ""  # why the one that is there does not

    def pictures(self, rows: list[int]) -> Iterator[Picture]:
        """The pictures at `rows`."""
        if self.archive is not None:
            names = [self.files[row].as_posix() for row in rows]
            yield from pictures_of(self.archive, names) if self.is_tar else self._from_zip(names, self.archive)
            return
        for row in rows:
            path = self.files[row]
            try:
                picture = Picture(str(path), path.read_bytes())
            except OSError as error:  # it went away since it was listed, or cannot be read: as a damaged picture
                picture = Picture(str(path), b"", fault=error.strerror or str(error))
            yield picture

    def _from_zip(self, names: list[str], path: Path) -> Iterator[Picture]:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                try:
                    with archive.open(name) as stream:
                        content = stream.read(MAX_PICTURE + 1)
                    fault = "it is too large" if len(content) > MAX_PICTURE else ""
                    yield Picture(f"{path}/{name}", b"" if fault else content, fault=fault)
                except (OSError, RuntimeError, ValueError, EOFError, KeyError, NotImplementedError,
                        zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
                    yield Picture(f"{path}/{name}", b"", fault=str(error))


def open_folder(path: Path) -> FolderSource:
    """Find the pictures under `path` and label them by its class folders. Raises DataError where there are none."""
    files: list[Parts] = []
    folders: set[Parts] = set()
    for place, inner, names in os.walk(path):
        inner[:] = [name for name in inner if _is_class(name)]
        above = Path(place).relative_to(path).parts
        # os.walk follows no links, so that a loop ends; a class folder itself may be one
        folders |= {(*above, name) for name in inner}
        files += [(*above, name) for name in names if is_picture(name)]
        for name in inner:
            linked = Path(place) / name
            if linked.is_symlink() and linked.is_dir():
                files += [(*above, name, file.name) for file in linked.iterdir() if is_picture(file.name)]
    source = _arranged([one for one in files if path.joinpath(*one).is_file()], folders, path, path)
    listed = None
    if source.labels is None:
        listed = labels_beside(source.files, _folders(source.files, path)[:MAX_LISTED])
    if listed is None:
        return source
    if isinstance(listed, str):
        return replace(source, unlabelled=listed)
    labels, classes, said_by = listed
    return replace(source, labels=torch.tensor(labels), names=classes, labelled_by=said_by)


def _folders(files: Sequence[Path], path: Path) -> list[Path]:
    """`path`, the folders of the pictures, and those between."""
    inside = {file.parent for file in files}
    between = {above for folder in inside for above in folder.parents if above.is_relative_to(path)}
    return sorted({path} | inside | between)


def open_archive(path: Path) -> FolderSource:
    """The pictures of a zip archive, as if it were unpacked. Raises DataError where there are none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as a zip archive: {error}", cure=PICTURES_AGAIN) from error
    return _from_names(names, path)


def open_tar(path: Path) -> FolderSource:
    """The pictures of a tar archive, packed or not, as if it were unpacked. Raises DataError where there are none."""
    names = [name + "/" * is_folder for name, is_folder in entries_of(path)]
    return replace(_from_names(names, path), is_tar=True)


def _from_names(names: list[str], path: Path) -> FolderSource:
    """The pictures of an archive with entries of these names; those of folders end in a slash."""
    split = [tuple(part for part in name.split("/") if part) for name in names]
    seen = [
        (name, parts) for name, parts in zip(names, split, strict=True)
        if parts and all(_is_class(part) for part in parts)
    ]  # fmt: skip
    folders = {parts[:depth] for _, parts in seen for depth in range(1, len(parts))}
    folders |= {parts for name, parts in seen if name.endswith("/")}
    files = [parts for name, parts in seen if not name.endswith("/") and is_picture(parts[-1])]
    return _arranged(files, folders, path, None)


def holds_pictures(path: Path) -> bool:
    """Whether a zip archive has an entry that is named like a picture."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(is_picture(name.rpartition("/")[2]) for name in archive.namelist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False


def _arranged(files: list[Parts], folders: set[Parts], path: Path, base: Path | None) -> FolderSource:
    """Labels from the class folders among `folders`, once the folder that holds them is found."""
    archive = None if base is not None else path
    base = base or Path()
    root = _root(files, folders)
    below = [one for one in files if one[: len(root)] == root]
    place = "/".join(root)
    loose = sorted((one for one in below if len(one) == len(root) + 1), key=lambda one: _natural(one[-1]))
    classes = sorted({one[len(root)] for one in folders if one[: len(root)] == root and len(one) > len(root)})
    filled = {one[len(root)] for one in below if len(one) > len(root) + 1}
    if loose and filled:
        raise DataError(
            f"{path} holds both pictures ({loose[0][-1]}) and class folders ({min(filled)}).",
            cure="Give a folder of class folders, or a flat folder of unlabelled pictures.",
        )
    if not below:
        raise DataError(
            f"{path} holds no pictures.",
            cure=f"Expected pictures ({', '.join(sorted(SUFFIXES))}), class folders of them, or parquet files.",
        )
    if loose or len(classes) == 1:  # one folder of everything is no labelling
        ordered = sorted(below, key=lambda one: [_natural(part) for part in one])
        return FolderSource(
            files=tuple(base.joinpath(*one) for one in ordered),
            labels=None,
            names=None,
            orders=(),
            place=place,
            archive=archive,
        )
    names, index, orders = _numbered(classes, filled)
    found = sorted(below, key=lambda one: (index[one[len(root)]], [_natural(part) for part in one]))
    labels = torch.tensor([index[one[len(root)]] for one in found])
    return FolderSource(
        files=tuple(base.joinpath(*one) for one in found),
        labels=labels,
        names=names,
        orders=orders,
        place=place,
        archive=archive,
    )


def _root(files: list[Parts], folders: set[Parts]) -> Parts:
    """The folder that holds class folders or loose pictures: down through a single folder, and into a split."""
    root: Parts = ()
    while True:
        depth = len(root)
        below = [one for one in files if one[:depth] == root]
        inner = {one[depth] for one in below if len(one) > depth + 1}
        children = {one[depth] for one in folders if one[:depth] == root and len(one) > depth}
        if not inner or any(len(one) == depth + 1 for one in below):
            return root
        splits = {name.lower(): name for name in inner}
        if children and {name.lower() for name in children} <= set(SPLITS):
            root = (*root, next(splits[name] for name in SPLITS if name in splits))
        elif len(children) == 1 and any(len(one) > depth + 2 for one in below):
            root = (*root, *inner)
        else:
            return root


def _numbered(classes: list[str], filled: set[str]) -> tuple[tuple[str, ...], dict[str, int], tuple[ClassOrder, ...]]:
    """Names by class, the class of each folder, and the other orders that somebody may have trained with."""
    plain = tuple(classes)
    natural = tuple(sorted(classes, key=_natural))
    alternatives: list[tuple[str, tuple[str, ...]]] = []
    numbered = all(map(is_number, classes))
    if numbered and len({int(name) for name in classes}) == len(classes):
        # A folder 7 without a folder 6 before it is class 7 all the same, under its own spelling.
        spelled = {int(name): name for name in classes}
        names = tuple(spelled.get(label, str(label)) for label in range(max(spelled) + 1))
        alternatives.append(("by number, counted from the first folder", natural))
    else:
        names = plain
        alternatives.append(("natural order of the folders' names", natural))
    alternatives.append(("plain order of the folders' names", plain))
    kept = tuple(name for name in plain if name in filled)
    if len(kept) < len(plain):
        alternatives.append(("plain order without the folders that hold no picture", kept))
    orders, seen = [], {names}
    for what, order in alternatives:
        if order not in seen:
            seen.add(order)
            place = {name: label for label, name in enumerate(order)}
            orders.append(ClassOrder(what, tuple(place.get(name, 0) for name in names), order))
    return names, {name: label for label, name in enumerate(names)}, tuple(orders)


def is_picture(name: str) -> bool:
    """Whether a file is named like a picture, and not hidden."""
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _is_class(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in NO_CLASSES and len(name) <= MAX_NAME


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
