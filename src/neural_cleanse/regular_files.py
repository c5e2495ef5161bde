"""Read files that lie beside models and images: no pipe, no device, no more than is meant. Loads nothing heavy."""

import errno
import os
import stat
from pathlib import Path

MOST_READ = 2**30  # bytes of a file that lies beside models and images


class NotRegular(OSError):
    """A pipe, a device or a directory."""


class TooLarge(OSError):
    """More bytes than are meant."""


def read_regular(path: Path, most: int = MOST_READ) -> bytes:
    """The content of a file of up to `most` bytes.

    Raises NotRegular on a pipe or a device, which might never end, TooLarge, and other kinds of OSError.
    """
    with open(path, "rb", opener=without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise NotRegular(errno.EINVAL, "it is no regular file", str(path))
        size = status.st_size
        content = file.read(size + 1) if size <= most else None
        if content is not None and len(content) > size:  # it has grown, or a file of the system says no size
            content += file.read(most - size)
    if content is None or len(content) > most:
        raise TooLarge(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return content


def without_waiting(path: str, flags: int) -> int:
    """Open without waiting for whoever writes into a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
