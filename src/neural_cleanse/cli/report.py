"""`neural-cleanse report`: show a finished scan again, from its files alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from neural_cleanse.cli import formats
from neural_cleanse.errors import OutputError

if TYPE_CHECKING:
    from neural_cleanse.results.records import ScanResult
    from neural_cleanse.results.repair import RepairResult


def report(
    scan_directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The directory that --output named.", show_default=False)
    ],
    documents: Annotated[list[str] | None, typer.Option("--format", metavar="NAME[=FILE]", help=formats.HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
) -> None:
    """Show a finished scan again.

    Prints the table and writes report.html and report.md anew, or writes the documents that --format names, and
    changes nothing else. Needs the files of the scan alone; no model is run. Exit code: 0 shown, 2 could not.

    Example: neural-cleanse report out/scan --format sarif=found.sarif --format junit=junit.xml
    """
    from neural_cleanse.cli import recorded  # help loads nothing heavy
    from neural_cleanse.results import storage

    read = (storage.JSON_FILE, storage.TENSOR_FILE, storage.REPAIR_FILE, recorded.FILE)
    wanted = formats.parsed(documents, [scan_directory / name for name in read], as_json=as_json)
    result, repair = storage.load_result(scan_directory), storage.load_repair(scan_directory)
    try:
        if not wanted:
            _show(result, repair, scan_directory)
        for files in (True, False):
            formats.write(wanted, result, repair, scan_directory, files=files)
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise OutputError(
            f"The scan in {scan_directory} is damaged: its parts do not fit ({type(error).__name__}: {error}).",
            cure=storage.DAMAGED,
        ) from error


def _show(result: "ScanResult", repair: "RepairResult | None", scan_directory: Path) -> None:
    from neural_cleanse.report import output_dir, tables, terminal

    console = Console()
    if repair is not None:
        terminal.show_repair(repair, console, result)
        console.print(f"\n{tables.scan_heading(repair)}:", highlight=False)
    terminal.show(result, console, scan_directory)
    try:
        path = output_dir.render(result, scan_directory, repair)
    except OutputError as error:
        raise OutputError(
            error.message, cure="Free some space there, or write elsewhere: --format html=FILE."
        ) from error
    console.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)
