"""A bound on the memory that a hostile file can take while it is read.

A few bytes of pickle or JSON can ask for any amount of memory, in more ways than a reader can look for. So readers work
under a limit of the operating system: an allocation beyond it fails, which is one more fault of the file.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

# What libraries and threads may take beside the file, and what a reader may make of every byte of it: the content, the
# tensors in their own and in single precision, the network and its copy.
BASE, EACH_CORE, GROWTH = 2 * 1024**3, 32 * 1024**2, 16
_DATA_PAGES = 5  # field of /proc/self/statm: private writable memory, what RLIMIT_DATA counts


def physical_memory() -> int:
    """Bytes of memory in this machine; 64 GB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 64 * 1024**3


def allowance(num_bytes: int) -> int:
    """Bytes that reading a file of that size may take."""
    return BASE + EACH_CORE * (os.cpu_count() or 1) + GROWTH * num_bytes


@contextlib.contextmanager
def at_most(num_bytes: int) -> Iterator[None]:
    """Within, this process can take so many bytes more than it has; beyond them allocations fail (Linux only)."""
    try:
        import resource  # not on Windows

        pages = int(Path("/proc/self/statm").read_text().split()[_DATA_PAGES])
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    except (ImportError, OSError, IndexError, ValueError):
        yield
        return
    wanted = pages * resource.getpagesize() + num_bytes
    if resource.RLIM_INFINITY not in (soft, hard):
        wanted = min(wanted, soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
