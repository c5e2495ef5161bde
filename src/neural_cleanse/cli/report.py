"""`neural-cleanse report`: show a finished scan again, from its files alone."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from neural_cleanse import storage
from neural_cleanse.errors import OutputError
from neural_cleanse.report import directory, terminal


def report(
    scan_directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The directory that --output named.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Show a finished scan again.

    Prints the table and writes report.html anew, from the files of the scan alone; no model is run. Exit code: 0
    shown, 2 could not.
    """
    result, repair = storage.load_result(scan_directory), storage.load_repair(scan_directory)
    console = Console()
    try:
        if as_json:
            sys.stdout.write(storage.dumps(result))
        else:
            terminal.show(result, console)
            if repair is not None:
                terminal.show_repair(repair, console)
        path = directory.render(result, scan_directory, repair)
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise OutputError(
            f"The scan in {scan_directory} is damaged: its parts do not fit ({type(error).__name__}: {error})."
        ) from error
    if not as_json:
        console.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)
