"""A directory that one process at a time writes into.

The lock is the operating system's (flock, or its like on Windows), so that it ends with the process that held it,
however that ended; where a file system has none, filelock falls back to a marker that names its process.
"""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from neural_cleanse.errors import OutputError
from neural_cleanse.files import write_whole

LOCK_FILE, OWNER_FILE = ".lock", ".lock.json"
FILES = frozenset({LOCK_FILE, OWNER_FILE})


@contextlib.contextmanager
def held(directory: Path, option: str = "--output") -> Iterator[None]:
    """Hold the lock of a directory that is there. Raises OutputError, naming who holds it, when another process does.

    Both files are gone afterwards; what a killed process left of them is taken over.
    """
    path, owner = directory / LOCK_FILE, directory / OWNER_FILE
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"Another process writes into {directory}: {_owner(owner)}.", cure="Wait for it, or name another directory."
        ) from error
    except OSError as error:
        raise OutputError(
            f"The output directory {directory} cannot be used: {error.strerror}.",
            cure=f"Name another directory with {option}.",
        ) from error
    try:
        began = datetime.now(UTC).isoformat(timespec="seconds")
        write_whole(owner, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "began": began}).encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # while it is held: nobody else can hold what is removed
            path.unlink(missing_ok=True)
        lock.release()
        if os.name == "nt":  # Windows removes no open file, and none that the next one holds
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _owner(path: Path) -> str:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return f"process {said['pid']} on {said['host']}, since {said['began']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # it is being written, or not ours
        return "which one is not known"
