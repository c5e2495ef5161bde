"""The C library is told once; where there is none to tell, nothing happens and nothing fails."""

import ctypes
import subprocess
import sys

import pytest

from neural_cleanse.allocator import keep_freed_memory

SHRINKS = """
import ctypes
from neural_cleanse.allocator import keep_freed_memory

def kib():
    with open("/proc/self/statm") as file:
        return 4 * int(file.read().split()[1])

library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
told = keep_freed_memory() if {tell} else False
block = library.malloc(64 << 20)
ctypes.memset(block, 1, 64 << 20)
library.free(block)
print(told, kib() > 60 << 10)
"""


def _glibc() -> bool:
    return sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


@pytest.mark.skipif(not _glibc(), reason="needs Linux with glibc")
@pytest.mark.parametrize(("tell", "answer"), [(True, "True True"), (False, "False False")])
def test_freed_memory_stays_with_the_process_only_when_asked(tell: bool, answer: str) -> None:
    code = SHRINKS.format(tell=tell)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == answer


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        """A C library without glibc's names."""

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Other())
    assert keep_freed_memory() is False
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
