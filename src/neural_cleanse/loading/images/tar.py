"""Tar archives, packed or not, read once from front to back. Nothing is unpacked to disk."""

import contextlib
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from neural_cleanse.errors import DataError
from neural_cleanse.loading.cures import PICTURES_AGAIN
from neural_cleanse.loading.images.decode import MAX_PICTURE, Picture
from neural_cleanse.loading.memory_limit import physical_memory

# Pictures are packed already: an archive that grows more is a bomb, and is read no further.
MAX_GROWTH, ALWAYS_ALLOWED = 20, 1024**3
MAX_ENTRIES = 10_000_000
DAMAGE = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, tarfile.TarError, OverflowError, RecursionError)


def is_tar(path: Path) -> bool:
    """Whether the file begins like a tar archive."""
    try:
        return tarfile.is_tarfile(path)
    except DAMAGE:
        return False


def entries_of(path: Path) -> list[tuple[str, bool]]:
    """Name of every file and folder, and whether it is a folder. Raises DataError on a damaged archive."""
    with _opened(path) as archive:
        return [
            (_plain(member.name), member.isdir())
            for member in _members(archive, path)
            if member.isdir() or _is_file(member)
        ]


def pictures_of(path: Path, names: list[str]) -> Iterator[Picture]:
    """The pictures of these names, in their order. What cannot be read has a fault in the place of its content."""
    wanted, found, held = set(names), dict[str, bytes](), 0
    fault = "it is not in the archive"
    with _opened(path) as archive:
        for member in _members(archive, path):
            name = _plain(member.name)
            if name not in wanted or not _is_file(member) or member.size > MAX_PICTURE:
                continue
            stream = archive.extractfile(member)
            held += member.size
            if stream is None or held > physical_memory() // 4:
                continue
            found[name] = stream.read(MAX_PICTURE)
    for name in names:
        yield Picture(f"{path}/{name}", found.get(name, b""), fault="" if name in found else fault)


def _plain(name: str) -> str:
    """Without the ./ that archives of a current folder begin their names with."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _is_file(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.issparse()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """The archive; what a damaged one raises becomes a DataError."""
    try:
        with tarfile.open(path) as archive:
            yield archive
    except DAMAGE as error:
        raise DataError(f"{path} cannot be read as a tar archive: {error}", cure=PICTURES_AGAIN) from error


def _members(archive: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    most = max(ALWAYS_ALLOWED, MAX_GROWTH * path.stat().st_size)
    for count, member in enumerate(archive):
        if member.offset_data + member.size > most or count > MAX_ENTRIES:
            raise DataError(f"{path} unpacks to more than {most:,} bytes.", cure="Unpack it and give the folder.")
        yield member
