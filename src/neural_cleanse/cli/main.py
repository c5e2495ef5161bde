"""The command `neural-cleanse`: parses, calls, prints, exits. Faults of the user end with one message and code 2."""

import sys
import traceback
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

from neural_cleanse.allocator import keep_freed_memory
from neural_cleanse.cli import guard, streams, zoo
from neural_cleanse.cli.attack import attack
from neural_cleanse.cli.benchmark import benchmark
from neural_cleanse.cli.demo import demo
from neural_cleanse.cli.inspect import inspect
from neural_cleanse.cli.repair import repair
from neural_cleanse.cli.report import report
from neural_cleanse.cli.scan import scan
from neural_cleanse.errors import NeuralCleanseError
from neural_cleanse.report.text import escape

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
app.command()(inspect)
app.command()(repair)
app.add_typer(guard.app, name="guard")
app.command()(demo)
app.command()(attack)
app.add_typer(zoo.app, name="zoo")
app.command()(benchmark)


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"neural-cleanse {version('neural-cleanse')}")
        raise typer.Exit
    return wanted


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find backdoors in image classifiers (Neural Cleanse, Wang et al., IEEE S&P 2019)."""


def run() -> None:
    """Entry point."""
    keep_freed_memory()
    with streams.guarded():
        _run()


def _run() -> None:
    console = Console(stderr=True, soft_wrap=True)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except NeuralCleanseError as error:
        console.print("[bold red]error:[/] ", end="")
        # Files name tensors and classes as they like: no message steers the terminal.
        console.print("\n".join(map(escape, error.message.splitlines())), markup=False, highlight=False)
        if error.cure:
            console.print(f"  try: {escape(error.cure)}", markup=False, highlight=False)
        sys.exit(EXIT_ERROR)
    except BrokenPipeError:
        sys.exit(EXIT_ERROR)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # whoever read stdout went away; typer says 1 to that
            sys.exit(EXIT_ERROR)
        raise
    except Exception:  # Python's own exit code for a crash is 1, and 1 means infected
        traceback.print_exc()
        console.print("[bold red]error:[/] this is a fault of neural-cleanse, please report it.")
        sys.exit(EXIT_ERROR)
