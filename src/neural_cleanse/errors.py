"""Everything that neural-cleanse raises on purpose.

NeuralCleanseError
├── SettingsError            an option or argument that makes no sense
├── DataError                the clean images cannot be read or do not fit
├── ModelError               the model file cannot be used
│   ├── UnknownFormat        not a container that we read
│   ├── CodeExecutionRefused loading would run code that came with the file
│   ├── CheckpointMismatch   the weights do not fit the architecture
│   └── UnusableOutputs      the network runs, but its answers cannot be scanned
├── InputSanityError         the images reach the model in the wrong form (scale, order, labels)
├── OutputError              the result cannot be written or read back
└── WorkerLost               a process or machine that worked for us died
"""

import contextlib
import errno
from collections.abc import Iterator

# What the system says of a path that it will not open, list or write: no fault of ours.
OF_PATHS = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ENOSPC, errno.EROFS})
RIGHTS = "Check the path, and that you may read and write there."


class NeuralCleanseError(Exception):
    """A fault that a user can cause: says what, got and why, and in `cure` what to do about it."""

    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure

    def __str__(self) -> str:
        ends = "" if not self.cure or self.message.endswith((".", "!", "?", ":")) else "."
        return f"{self.message}{ends} {self.cure}".rstrip()


class SettingsError(NeuralCleanseError):
    """An option or argument that makes no sense."""


class DataError(NeuralCleanseError):
    """The clean images cannot be read, or do not fit the model."""


class ModelError(NeuralCleanseError):
    """The model file cannot be used."""


class UnknownFormat(ModelError):
    """The bytes are not a container that we read."""


class CodeExecutionRefused(ModelError):
    """Loading would run code that came with the file, and nobody allowed it."""


class CheckpointMismatch(ModelError):
    """The weights do not fit the architecture."""


class UnusableOutputs(ModelError):
    """The network runs, but its answers cannot be scanned: several heads, chance in them, NaN."""


class InputSanityError(NeuralCleanseError):
    """The images reach the model in the wrong form: a verdict on them would mean nothing."""


class OutputError(NeuralCleanseError):
    """The result cannot be written, or what was written cannot be read back."""


class WorkerLost(NeuralCleanseError):
    """A process or machine that worked for us died, with the job that it had."""


@contextlib.contextmanager
def path_errors() -> Iterator[None]:
    """Within it, a path that the system refuses (no permission, a name too long) is an error that says so."""
    try:
        yield
    except OSError as error:
        if error.filename is None or error.errno not in OF_PATHS:
            raise
        raise SettingsError(f"{error.filename} cannot be used: {error.strerror}.", cure=RIGHTS) from error
