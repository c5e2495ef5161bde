"""Runs a command that runs somebody else's code: in bubblewrap, or, on request, in a child process alone.

Inside bubblewrap (github.com/containers/bubblewrap) there is no network, no other process, and of the files only the
Python installation and what is named, read-only; one file can be written. Everywhere: no environment variables of
ours, a limit on time, memory and the size of a file, and the whole process group ends with the command.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neural_cleanse.errors import ModelError
from neural_cleanse.text import escape

SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
SCRATCH = 2**30  # bytes of the sandbox's own /tmp, which is memory
MAX_LOG = 20_000  # bytes of what the command said that are looked at
# Sets the limits, then becomes the command: the command's own code never runs without them.
LAUNCH = """
import os, resource, sys
def limit(kind, value):
    try:
        resource.setrlimit(kind, (value, value))
    except (OSError, ValueError):
        pass
limit(resource.RLIMIT_CORE, 0)
limit(resource.RLIMIT_FSIZE, int(sys.argv[2]))
limit(resource.RLIMIT_AS, int(sys.argv[1]))
os.execv(sys.argv[3], sys.argv[3:])
"""


@dataclass(frozen=True)
class Limits:
    """What a command may use: seconds of time, bytes of address space, bytes of one file."""

    seconds: float = 600.0
    memory: int = 32 * 2**30
    file_bytes: int = 2**30


class NoSandbox(Exception):
    """Bubblewrap cannot confine the command; the message says why."""


@dataclass(frozen=True)
class Ran:
    """How a command ended. `log` is the end of what it said: text from a stranger, made printable."""

    isolated: bool
    timed_out: bool
    status: int
    log: str


def run(
    command: Sequence[str], *, readable: Sequence[Path], writable: Path, limits: Limits, no_sandbox: bool = False
) -> Ran:
    """Run `command` (an absolute path and arguments) so that it reads `readable` and writes the file `writable`.

    `writable` must exist; the directory it lies in is the command's home. Raises NoSandbox, before anything is run,
    where bubblewrap does not work, unless `no_sandbox`; ModelError where no command can be run with limits (Windows).
    """
    if sys.platform == "win32":
        raise ModelError("Programs are run on Linux and macOS only.", cure="Ask the model's author for ONNX.")
    limited = [sys.executable, "-I", "-c", LAUNCH, str(limits.memory), str(limits.file_bytes), *command]
    isolation = _bubblewrap(readable, writable)
    if not isolation and not no_sandbox:
        missing = shutil.which("bwrap") is None
        raise NoSandbox("is not installed" if missing else "is not allowed to make its namespaces here")
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*isolation, *limited],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(writable.parent),
            cwd=writable.parent,
            start_new_session=True,
        )
        try:
            process.wait(limits.seconds)
            timed_out = False
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            _end(process)
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - MAX_LOG))
        said = log.read(MAX_LOG).decode(errors="replace")
    return Ran(bool(isolation), timed_out, process.returncode, "\n".join(map(escape, said.splitlines())))


def _environment(home: Path) -> dict[str, str]:
    return {
        "HOME": str(home),
        "TMPDIR": str(home),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(_packages()),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "KERAS_BACKEND": "torch",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and all that it started in its group; with bubblewrap that is everything."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _bubblewrap(readable: Sequence[Path], writable: Path) -> list[str]:
    """The beginning of a command line, empty where bubblewrap is missing or not allowed to make its namespaces."""
    found = shutil.which("bwrap")
    if found is None:
        return []
    binds: list[str] = []
    for place in (*SYSTEM, *_python()):
        binds += ["--ro-bind-try", place, place]
    home = str(writable.parent)
    sandbox = [found, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    for name, value in _environment(writable.parent).items():
        sandbox += ["--setenv", name, value]
    sandbox += ["--proc", "/proc", "--dev", "/dev", "--size", str(SCRATCH), "--tmpfs", "/tmp", *binds]
    sandbox += ["--size", str(SCRATCH), "--tmpfs", home]
    for path in readable:
        sandbox += ["--ro-bind", str(path), str(path)]
    sandbox += ["--bind", str(writable), str(writable), "--chdir", home, "--remount-ro", "/"]
    works = subprocess.run([*sandbox, sys.executable, "-I", "-c", ""], capture_output=True, timeout=60, check=False)
    return sandbox if works.returncode == 0 else []


def _python() -> list[str]:
    """Where this Python and its packages lie, outermost first."""
    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, *_packages()}
    places.add(str(Path(sys.executable).resolve().parent.parent))
    return sorted(place for place in places if place != "/")


def _packages() -> list[str]:
    return [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
