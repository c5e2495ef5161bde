"""The output directory of a scan or repair: JSON, triggers, the report, and a folder of PNGs a flagged label."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from neural_cleanse.errors import OutputError
from neural_cleanse.files import write_whole
from neural_cleanse.report import lock
from neural_cleanse.report.markdown import markdown
from neural_cleanse.report.page import html
from neural_cleanse.report.pictures import enlargement, png, trigger_pictures
from neural_cleanse.report.text import folder_name
from neural_cleanse.results import storage
from neural_cleanse.results.records import ScanResult
from neural_cleanse.results.repair import RepairResult

REPORT_FILE = "report.html"
MARKDOWN_FILE = "report.md"
PICTURES = r"label_\d+(_from_\d+)?"  # names of folders


@contextlib.contextmanager
def claimed(directory: Path | None, *, overwrite: bool, option: str = "--output") -> Iterator[None]:
    """Hold the directory for this process, from before the work begins until its result is written.

    A directory that was not there is made, and removed again when nothing was written. None claims nothing; `option`
    is where the directory was named.
    Raises OutputError when it cannot be used, when another process holds it, and when it is not empty.
    """
    if directory is None:
        yield
        return
    missing: list[Path] = []
    try:
        with _as_output_error(f"The output directory {directory} cannot be used", option):
            if directory.is_symlink() and not directory.exists():
                raise OutputError(
                    f"The output directory {directory} is a link that leads nowhere.",
                    cure=f"Remove the link, or name another directory with {option}.",
                )
            missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
            directory.mkdir(parents=True, exist_ok=True)
        with lock.held(directory, option):
            if not overwrite:
                refuse_occupied(directory)
            _refuse_in_the_way(directory)
            yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def refuse_occupied(directory: Path) -> None:
    """Raise OutputError on a directory that holds more than a lock."""
    if any(entry.name not in lock.FILES for entry in _entries(directory)):
        raise OutputError(
            f"The output directory {directory} is not empty.", cure="Name another one, or pass --overwrite."
        )


def _entries(directory: Path) -> list[Path]:
    with _as_output_error(f"The output directory {directory} cannot be used"):
        return list(directory.iterdir())


def _refuse_in_the_way(directory: Path) -> None:
    """Raise OutputError on what could not be replaced after hours of work: a folder for a file, a file for a folder."""
    written = (storage.JSON_FILE, storage.TENSOR_FILE, storage.REPAIR_FILE, REPORT_FILE, MARKDOWN_FILE)
    for entry in _entries(directory):
        is_folder = entry.is_dir() and not entry.is_symlink()
        if (entry.name in written and is_folder) or (re.fullmatch(PICTURES, entry.name) and entry.is_file()):
            raise OutputError(
                f"{entry} is in the way: a scan writes a {'file' if is_folder else 'folder'} of that name.",
                cure="Move it, or name another directory.",
            )


def prepare(directory: Path, *, overwrite: bool, option: str = "--output") -> None:
    """Try the directory before the work begins, leaving no trace. Raises OutputError when it cannot be used."""
    with claimed(directory, overwrite=overwrite, option=option):
        pass


@contextlib.contextmanager
def _as_output_error(message: str, option: str = "--output") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = "it is a file, a directory is needed" if isinstance(error, FileExistsError) else error.strerror
        raise OutputError(f"{message}: {why}.", cure=f"Name another directory with {option}.") from error


def write(result: ScanResult, directory: Path, repair: RepairResult | None = None) -> None:
    """Write everything, scan.json last; an earlier scan's files are replaced, nothing else is touched.

    A link that bears such a name is replaced, never followed.
    """
    with _as_output_error(f"{directory} cannot be written"):
        directory.mkdir(parents=True, exist_ok=True)
        for old_result in (storage.JSON_FILE, storage.REPAIR_FILE):
            (directory / old_result).unlink(missing_ok=True)
        for old in [entry for entry in directory.iterdir() if re.fullmatch(PICTURES, entry.name)]:
            if old.is_symlink():  # replaced like a file: what it leads to is somebody else's
                old.unlink()
            elif old.is_dir():
                _remove_pictures(old)
        for evidence in result.evidence:
            folder = directory / folder_name(evidence.pair)
            folder.mkdir(exist_ok=True)
            grow = enlargement(evidence.before.shape[2])
            if evidence.has_pictures and evidence.pair in result.triggers:
                for name, image in trigger_pictures(dict(result.triggers[evidence.pair])).items():
                    write_whole(folder / f"{name}.png", png(image, grow))
            for which, images in (("before", evidence.before), ("after", evidence.after)):
                for number, image in enumerate(images):
                    write_whole(folder / f"example_{number}_{which}.png", png(image, grow))
    if repair is not None:
        write_whole(directory / storage.REPAIR_FILE, storage.repair_dumps(repair).encode())
    render(result, directory, repair)
    storage.save_result(result, directory)


def _remove_pictures(folder: Path) -> None:
    """Remove the pictures that a scan writes, and the folder if nothing else is in it."""
    for file in list(folder.iterdir()):
        if re.fullmatch(r"(mask|pattern|trigger|example_\d+_(before|after))\.png", file.name):
            file.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def render(result: ScanResult, directory: Path, repair: RepairResult | None = None) -> Path:
    """Write report.html and report.md alone."""
    path = directory / REPORT_FILE
    words = markdown(result, repair, pictures=True, directory=directory)
    write_whole(directory / MARKDOWN_FILE, words.encode("utf-8", errors="replace"))
    write_whole(path, html(result, repair, directory).encode("utf-8", errors="replace"))
    return path
