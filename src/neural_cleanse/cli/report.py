"""`neural-cleanse report`: show a finished scan again, from its files alone."""

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from neural_cleanse.errors import OutputError, SettingsError
from neural_cleanse.files import write_whole
from neural_cleanse.report import output_dir, sarif, terminal
from neural_cleanse.report.markdown import markdown
from neural_cleanse.report.page import html
from neural_cleanse.results import storage
from neural_cleanse.results.records import ScanResult
from neural_cleanse.results.repair import RepairResult


class Format(StrEnum):
    """What a scan can be shown as."""

    terminal = "terminal"
    html = "html"
    markdown = "markdown"
    sarif = "sarif"
    json = "json"


DOCUMENTS: dict[Format, Callable[[ScanResult, RepairResult | None, Path], str]] = {
    Format.html: html,
    Format.markdown: lambda result, repair, directory: markdown(result, repair, directory=directory),
    Format.sarif: lambda result, *_: sarif.dumps(result),
    Format.json: lambda result, *_: storage.dumps(result),
}


def report(
    scan_directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The directory that --output named.", show_default=False)
    ],
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="terminal: a table here, and the pages in DIR anew; the others: one document on stdout.",
        ),
    ] = Format.terminal,
    output: Annotated[Path | None, typer.Option(help="File for the document, instead of stdout.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
) -> None:
    """Show a finished scan again.

    Prints the table and writes report.html and report.md anew, or writes one document: html (self-contained page),
    markdown (for a pull request), sarif (for a dashboard of findings) or json. Needs the files of the scan alone; no
    model is run. Exit code: 0 shown, 2 could not.

    Example: neural-cleanse report out/scan --format markdown
    """
    if as_json and form not in (Format.terminal, Format.json):
        raise SettingsError(f"--json and --format {form.value} are two documents.", cure="Ask for one of them.")
    form = Format.json if as_json else form
    if output is not None and form is Format.terminal:
        raise SettingsError(f"--output {output} names a file, but no document for it.", cure="Add --format.")
    result, repair = storage.load_result(scan_directory), storage.load_repair(scan_directory)
    try:
        if form is Format.terminal:
            _show(result, repair, scan_directory)
        else:
            _give(DOCUMENTS[form](result, repair, scan_directory), output)
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise OutputError(
            f"The scan in {scan_directory} is damaged: its parts do not fit ({type(error).__name__}: {error})."
        ) from error


def _show(result: ScanResult, repair: RepairResult | None, scan_directory: Path) -> None:
    console = Console()
    terminal.show(result, console, scan_directory)
    if repair is not None:
        terminal.show_repair(repair, console)
    path = output_dir.render(result, scan_directory, repair)
    console.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)


def _give(document: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(document)
    else:
        write_whole(output, document.encode())
