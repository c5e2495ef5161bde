"""The standard streams when they cannot be written: a full disk, a reader who went away, a closed stream.

What is told on stderr on the way is then dropped, for nobody loses hours of work to a log; an answer that stdout does
not take is an error. Python's own exit codes for both (1 and 120) would be taken for a verdict, or for none.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neural_cleanse.errors import OutputError


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Within it both streams are there, take any text, and fail as said above."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without bars or dashes still gets its answer
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stderr(_Dropping(sys.stderr or nowhere)),
        contextlib.redirect_stdout(_Refusing(sys.stdout) if sys.stdout else _Closed()),
    ):
        yield


def begin(text: str, quiet: bool = False) -> None:
    """Say what is done, before anything heavy is loaded; on a terminal the next line of progress replaces it."""
    if not quiet:
        sys.stderr.write(f"\r\x1b[2K{text}" if sys.stderr.isatty() else f"{text}\n")
        sys.stderr.flush()


def clear() -> None:
    """Remove what `begin` said, where it can be."""
    if sys.stderr.isatty():
        begin("")


class _Guarded:
    """A stream whose `write` and `flush` are watched; all else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """All of the text, or what `failed` makes of it."""
        try:
            self._stream.write(text)
        except (OSError, ValueError) as error:
            self.failed(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self.failed(error)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def failed(self, error: Exception) -> None:
        """The first failure; later writes go nowhere, so that nothing fails again when the process ends."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


class _Dropping(_Guarded):
    """stderr."""


class _Refusing(_Guarded):
    """stdout. A reader who went away is told of as before: whoever calls knows what to do."""

    def failed(self, error: Exception) -> None:
        super().failed(error)
        if isinstance(error, BrokenPipeError):
            raise error
        raise OutputError(
            f"The answer cannot be written to standard output: {error}.",
            cure="Free space where the output goes, or send it elsewhere.",
        ) from error


class _Closed(io.TextIOBase):
    """In the place of a stdout that was closed before the command began."""

    def write(self, text: str) -> int:
        raise OutputError(
            "The answer cannot be written to standard output: it is closed.", cure="Leave standard output open."
        )
