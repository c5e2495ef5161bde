"""The command `neural-cleanse`: parses, calls, prints, exits. Faults of the user end with one message and code 2."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

from neural_cleanse.cli.demo import demo
from neural_cleanse.cli.report import report
from neural_cleanse.cli.scan import scan
from neural_cleanse.errors import NeuralCleanseError

EXIT_ERROR = 2

app = typer.Typer(
    name="neural-cleanse",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Does this image classifier hide a backdoor, for which label, and what does the trigger look like?",
    epilog="Start with: neural-cleanse demo",
)
app.command()(scan)
app.command()(report)
app.command()(demo)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"neural-cleanse {version('neural-cleanse')}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find backdoors in image classifiers (Neural Cleanse, Wang et al., IEEE S&P 2019)."""


def run() -> None:
    """Entry point."""
    console = Console(stderr=True, soft_wrap=True)
    try:
        app()
    except NeuralCleanseError as error:
        console.print("[bold red]error:[/] ", end="")
        console.print(error.message, markup=False, highlight=False)
        if error.cure:
            console.print(f"  try: {error.cure}", markup=False, highlight=False)
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        console.print("interrupted: nothing was written")
        sys.exit(130)
