"""Have the C library keep what torch frees, instead of handing it back to the system and asking for it again.

A forward and backward pass allocates and frees some hundred megabytes. glibc maps such blocks afresh each time, and the
system zeroes every page of them: up to a quarter of a scan's time on a CPU went there (docs/scale.md).
"""

import contextlib
import ctypes
import sys

# Parameters of mallopt(3), from glibc's malloc.h, and the values to give them.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_MIB = 1 << 20
_SETTINGS = {
    _M_MMAP_THRESHOLD: 1024 * _MIB,  # blocks below this come from the heap, which is kept
    _M_TRIM_THRESHOLD: 2**31 - 1,  # free memory at the heap's end that is kept: the most that mallopt's int can say
    _M_TOP_PAD: 256 * _MIB,  # the heap grows by this much more than was asked
}


def keep_freed_memory() -> bool:
    """Tell glibc to keep up to 2 GiB of freed memory for this process; says whether it was told.

    The command line and its worker processes call this at their start; a program of your own may, before its first
    scan. Elsewhere than on Linux with glibc nothing happens. Results do not depend on it.
    """
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):  # another C library, or none that can be asked
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - musl has a mallopt of no effect, but not this
        return all(library.mallopt(name, value) == 1 for name, value in _SETTINGS.items())
    return False
