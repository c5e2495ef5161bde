"""Read files that lie beside models and images: no pipe, no device, no more than is meant. Loads nothing heavy."""

import errno
import os
import stat
from pathlib import Path

MOST_READ = 2**30  # bytes of a file that lies beside models and images


def read_regular(path: Path, most: int = MOST_READ) -> bytes:
    """The content of a file of up to `most` bytes. Raises OSError on a pipe or a device, which might never end."""
    with open(path, "rb", opener=without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        content = file.read(min(status.st_size, most) + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return content


def without_waiting(path: str, flags: int) -> int:
    """Open without waiting for whoever writes into a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
