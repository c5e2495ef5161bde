"""Read a file that somebody else made, whole and once: no device, no pipe, nothing larger than memory."""

import difflib
from pathlib import Path

from neural_cleanse.errors import ModelError, UnknownFormat
from neural_cleanse.loading.memory_limit import physical_memory
from neural_cleanse.regular_files import NotRegular, TooLarge, read_regular

NEAR_NAMES, MAX_NAMES = 3, 10_000  # suggested, and looked through


def read_file(path: Path, *, at_most: int | None = None) -> bytes:
    """The content of a regular file of up to `at_most` bytes (by default half of this machine's memory).

    Raises ModelError when it is missing, too large or cannot be read, UnknownFormat when it is empty or no file.
    """
    if path.exists() and not path.is_file():
        raise UnknownFormat(f"{path} is no regular file.", cure="Give the model file itself.")
    limit = physical_memory() // 2 if at_most is None else at_most
    try:
        content = read_regular(path, limit)
    except FileNotFoundError as error:
        raise ModelError(f"There is no model file {path}.", cure=near(path)) from error
    except NotRegular as error:  # swapped for a pipe since it was looked at
        raise UnknownFormat(f"{path} is no regular file.", cure="Give the model file itself.") from error
    except TooLarge as error:
        raise ModelError(
            f"{path} is too large: over {limit:,} bytes.", cure="Scan it on a machine with more memory."
        ) from error
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}.", cure="Check the permissions of the file."
        ) from error
    except MemoryError as error:
        raise ModelError(f"{path} does not fit into memory.", cure="Scan it on a machine with more memory.") from error
    if not content:
        raise UnknownFormat(f"{path} is empty.", cure="Download or copy it again.")
    return content


def near(path: Path) -> str:
    """What may have been meant: a file beside it of a similar name, or the directory that is there."""
    there = next((folder for folder in path.parents if folder.is_dir()), None)
    if there != path.parent:
        return f"Check the path: there is no directory {path.parent}."
    try:
        beside = sorted(there.iterdir())[:MAX_NAMES]
    except OSError:
        beside = []
    stems = {entry.stem.lower() for entry in beside}  # endings are alike, and count for nothing
    close = difflib.get_close_matches(path.stem.lower(), stems, n=NEAR_NAMES)
    near = [str(entry) for stem in close for entry in beside if entry.stem.lower() == stem][:NEAR_NAMES]
    return f"Do you mean {' or '.join(near)}?" if near else "Check the path."
