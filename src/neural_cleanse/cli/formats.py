"""`--format NAME` and `--format NAME=FILE`, any number of times: which documents are written, and where."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neural_cleanse.choices import DOCUMENT_NAMES
from neural_cleanse.errors import SettingsError

if TYPE_CHECKING:
    from neural_cleanse.results.records import ScanResult
    from neural_cleanse.results.repair import RepairResult

# As report/documents.py lists them (held by a test): help and completion load none of what writes them.
NAMES = ("html", "markdown", "json", "sarif", "junit", "cyclonedx", "in-toto", "model-card")
HELP = (
    "Write a document: NAME on stdout instead of the table, NAME=FILE into a file; may be given many times. Names: "
    + ", ".join(NAMES) + "."
)  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """One document, and its file; None is stdout."""

    name: str
    file: Path | None


def parsed(
    texts: list[str] | None, read: Iterable[Path], *, as_json: bool = False, output: Path | None = None
) -> tuple[Wanted, ...]:
    """What --format says, and --json. Raises SettingsError, and OutputError on a file that could not be written.

    Or that is `read`: a file, or one in a directory. The directory `output` will be made.
    """
    wanted = [_wanted(text) for text in (*(texts or ()), *(["json"] if as_json else ()))]
    on_stdout = dict.fromkeys(one.name for one in wanted if one.file is None)
    if len(on_stdout) > 1:
        raise SettingsError(
            f"stdout takes one document, not {', '.join(on_stdout)}.", cure="Give files: --format NAME=FILE."
        )
    files = [one.file for one in wanted if one.file is not None]
    if len(set(files)) < len(files):
        raise SettingsError("Two documents have the same file.", cure="Give each --format a file of its own.")
    from neural_cleanse.files import refuse_unwritable  # help and completion load nothing heavy

    for file in (one for one in files if output is None or one.parent != output or output.exists()):
        refuse_unwritable(file, streams=True, read=read)
    return tuple(dict.fromkeys(wanted))


def _wanted(text: str) -> Wanted:
    name, equals, file = text.partition("=")
    name = DOCUMENT_NAMES.get(name, name)
    if name not in NAMES or (equals and not file):
        raise SettingsError(f"--format {text} is no document.", cure=f"Write NAME or NAME=FILE: {', '.join(NAMES)}.")
    return Wanted(name, Path(file) if equals else None)


def on_stdout(wanted: tuple[Wanted, ...]) -> bool:
    """Whether a document takes the place of the table."""
    return any(one.file is None for one in wanted)


def write(
    wanted: tuple[Wanted, ...],
    result: "ScanResult",
    repair: "RepairResult | None",
    directory: Path | None,
    *,
    files: bool,
) -> None:
    """Write the documents with a file, or the one for stdout. Files are written whole or not at all."""
    from neural_cleanse.files import write_named
    from neural_cleanse.report.documents import DOCUMENTS

    for one in wanted:
        if (one.file is not None) is not files:
            continue
        text = DOCUMENTS[one.name](result, repair, directory)
        if one.file is not None:
            write_named(one.file, text.encode("utf-8", errors="replace"))
        else:
            sys.stdout.write(text)
            sys.stdout.flush()
