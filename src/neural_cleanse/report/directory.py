"""The output directory of a scan or repair: JSON, triggers, report.html, and a folder of PNGs a flagged label."""

import contextlib
import re
from pathlib import Path

from neural_cleanse import storage
from neural_cleanse.errors import OutputError
from neural_cleanse.records import LabelPair, RepairResult, ScanResult
from neural_cleanse.report.page import html
from neural_cleanse.report.pictures import enlargement, png, trigger_pictures

REPORT_FILE = "report.html"


def prepare(directory: Path, *, overwrite: bool) -> None:
    """Try the directory before the work begins, leaving no trace. Raises OutputError when it cannot be used."""
    missing: list[Path] = []
    try:
        missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        occupied = any(directory.iterdir())
        probe = directory / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"The output directory {directory} cannot be used: {error.strerror}.") from error
    finally:  # a run that fails or is interrupted leaves nothing behind; `write` makes the directory again
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()
    if occupied and not overwrite:
        raise OutputError(
            f"The output directory {directory} is not empty.", cure="Name another one, or pass --overwrite."
        )


def write(result: ScanResult, directory: Path, repair: RepairResult | None = None) -> None:
    """Write everything, scan.json last; an earlier scan's files are replaced, nothing else is touched."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for old_result in (storage.JSON_FILE, storage.REPAIR_FILE):
            (directory / old_result).unlink(missing_ok=True)
        for old in list(directory.iterdir()):
            if re.fullmatch(r"label_\d+(_from_\d+)?", old.name) and old.is_dir():
                _remove_pictures(old)
        for evidence in result.evidence:
            folder = directory / _folder(evidence.pair)
            folder.mkdir(exist_ok=True)
            grow = enlargement(evidence.before.shape[2])
            for name, image in trigger_pictures(dict(result.triggers[evidence.pair])).items():
                storage.write_whole(folder / f"{name}.png", png(image, grow))
            for number, (before, after) in enumerate(zip(evidence.before, evidence.after, strict=True)):
                storage.write_whole(folder / f"example_{number}_before.png", png(before, grow))
                storage.write_whole(folder / f"example_{number}_after.png", png(after, grow))
    except OSError as error:
        raise OutputError(f"{directory} cannot be written: {error.strerror}.") from error
    if repair is not None:
        storage.write_whole(directory / storage.REPAIR_FILE, storage.repair_dumps(repair).encode())
    render(result, directory, repair)
    storage.save_result(result, directory)


def _folder(pair: LabelPair) -> str:
    return f"label_{pair.target}" + ("" if pair.source is None else f"_from_{pair.source}")


def _remove_pictures(folder: Path) -> None:
    """Remove the pictures that a scan writes, and the folder if nothing else is in it."""
    for file in list(folder.iterdir()):
        if re.fullmatch(r"(mask|pattern|trigger|example_\d+_(before|after))\.png", file.name):
            file.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def render(result: ScanResult, directory: Path, repair: RepairResult | None = None) -> Path:
    """Write report.html alone."""
    path = directory / REPORT_FILE
    storage.write_whole(path, html(result, repair).encode("utf-8"))
    return path
