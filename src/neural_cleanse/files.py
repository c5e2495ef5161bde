"""Make directories, and write a file whole or not at all."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from neural_cleanse.errors import OutputError

LONGEST_KEPT = 200  # bytes of a name that a partial file's own name repeats; file systems take 255
MOST_LINKS = 40  # as Linux follows
DEVICES, PROCESSES = Path("/dev"), Path("/proc")
ELSEWHERE = "Is the disk full, or the directory read-only? Free some space, or name another place."


def make_directory(path: Path, cure: str = "Name another --output.") -> None:
    """Make the directory and those above it, unless it is there. Raises OutputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be made: {error.strerror}.", cure=cure) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write, sync and rename, so that a reader sees the old file or the new one. Raises OutputError.

    A link at `path` is replaced, one at the place of the partial file removed: neither is written through.
    """
    with written_whole(path) as partial:
        partial.write_bytes(content)


def write_named(path: Path, content: bytes) -> None:
    """Write the file that a user named: whole, or into the device, pipe or open stream that is there."""
    if not is_stream(path):
        write_whole(path, content)
        return
    try:
        with path.open("ab") as stream:
            stream.write(content)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.", cure="Name a file.") from error


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Somewhere to write; when that is done it is synced and takes the place of `path`. Raises OutputError."""
    partial = partial_of(path)
    try:
        partial.unlink(missing_ok=True)
        partial.open("xb").close()
        mode = stat.S_IMODE(partial.stat().st_mode)
        yield partial
        partial.chmod(mode)  # safetensors makes a file of its own, which nobody else may read
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path} cannot be written: {reason}.", cure=ELSEWHERE) from error


def partial_of(path: Path) -> Path:
    """Where what becomes `path` is written, in the same directory; not longer than a name may be."""
    name = os.fsencode(path.name)
    kept = path.name if len(name) <= LONGEST_KEPT else hashlib.sha256(name).hexdigest()
    return path.with_name(f".{kept}.partial")


def is_stream(path: Path) -> bool:
    """Whether a device, a pipe or a link to an open stream is there: it is written into, never replaced."""
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind):
            return not stat.S_ISDIR(kind)
        for _ in range(MOST_LINKS):
            place = path.parent.resolve()
            if place == DEVICES or place.is_relative_to(PROCESSES):  # /dev/stdout, while it goes to a file
                return True
            if not path.is_symlink():
                return False
            path = path.parent / path.readlink()
    except OSError:  # nothing is there, or it cannot be told: writing says why
        pass
    return False


def _holds(read: Path, path: Path) -> bool:
    """Whether `path` is there, and is that file or in that directory."""
    if not path.is_file() or not read.exists():
        return False
    return path.resolve().is_relative_to(read.resolve()) or path.samefile(read)


def refuse_unwritable(path: Path, *, streams: bool = False, read: Iterable[Path] = ()) -> None:
    """Raise OutputError, before the work begins, where a file could not be written; nothing is left there.

    `streams`: a device or a pipe may be there, for `write_named`. What is `read`, files and what directories of them
    hold, is not written over.
    """
    reason = None
    try:
        if any(_holds(one, path) for one in read):
            reason = "it is what is read"
        elif path.is_dir():
            reason = "it is a directory"
        elif not path.parent.is_dir():
            reason = f"there is no directory {path.parent}"
        elif not is_stream(path):
            partial = partial_of(path)
            partial.unlink(missing_ok=True)
            partial.open("xb").close()
            partial.unlink()
        elif not streams:
            reason = "it is a device or a pipe"
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        raise OutputError(
            f"{path} cannot be written: {reason}.", cure="Name a file in a directory that you may write into."
        )
