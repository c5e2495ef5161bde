"""An image folder: class subfolders, or flat and unlabelled."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from neural_cleanse.errors import DataError
from neural_cleanse.loading.images.decode import Picture

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
MAX_NUMBERED = 100_000  # a larger number is a name (of a synset, say), no class index


@dataclass(frozen=True)
class FolderSource:
    """The pictures of a folder, found and labelled, not yet read."""

    files: tuple[Path, ...]
    labels: torch.Tensor | None
    names: tuple[str, ...] | None

    def pictures(self, rows: list[int]) -> Iterator[Picture]:
        """The pictures at `rows`."""
        for row in rows:
            path = self.files[row]
            try:
                picture = Picture(str(path), path.read_bytes())
            except OSError as error:  # it went away since it was listed, or cannot be read: as a damaged picture
                picture = Picture(str(path), b"", fault=error.strerror or str(error))
            yield picture


def open_folder(path: Path) -> FolderSource:
    """Find the pictures under `path`. Class subfolders are ordered by name; one named by a number is that class."""
    classes = sorted((entry for entry in path.iterdir() if entry.is_dir() and _pictures(entry)), key=_natural)
    loose = _pictures(path)
    if classes and loose:
        raise DataError(
            f"{path} holds both pictures ({loose[0].name}) and class folders ({classes[0].name}).",
            cure="Give a folder of class folders, or a flat folder of unlabelled pictures.",
        )
    if loose:
        return FolderSource(tuple(loose), None, None)
    if not classes:
        raise DataError(
            f"{path} holds no pictures.",
            cure=f"Expected pictures ({', '.join(sorted(SUFFIXES))}), class folders of them, or parquet files.",
        )
    if len(classes) == 1:  # one folder of everything is no labelling
        return FolderSource(tuple(_pictures(classes[0])), None, None)
    names = [folder.name for folder in classes]
    index = list(range(len(classes)))
    if all(name.isdecimal() and int(name) < MAX_NUMBERED for name in names):
        # A folder 7 without a folder 6 before it is class 7 all the same, under its own spelling.
        index = [int(name) for name in names]
        spelled = dict(zip(index, names, strict=True))
        names = [spelled.get(label, str(label)) for label in range(max(index) + 1)]
    files = [(file, label) for label, folder in zip(index, classes, strict=True) for file in _pictures(folder)]
    labels = torch.tensor([label for _, label in files])
    return FolderSource(tuple(file for file, _ in files), labels, tuple(names))


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        (entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file()), key=_natural
    )


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
