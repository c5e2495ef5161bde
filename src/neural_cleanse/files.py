"""Make directories, and write a file whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from neural_cleanse.errors import OutputError


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


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Somewhere to write; when that is done it is synced and takes the place of `path`. Raises OutputError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        partial.open("xb").close()
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"{path} cannot be written: {reason}.",
            cure="Is the disk full, or the directory read-only? Name another place.",
        ) from error
