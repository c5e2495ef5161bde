"""The command `neural-cleanse`: parses, calls, prints, exits. Faults of the user end with one message and code 2.

A command's module is imported when the command is called: help, version and completion do not wait for torch.
"""

import importlib
import signal
import sys
import threading
import traceback
from importlib.metadata import version
from typing import Annotated, Any

import typer
import typer.core
import typer.main
from rich.console import Console

from neural_cleanse.allocator import keep_freed_memory
from neural_cleanse.cli import project_file, streams
from neural_cleanse.cli.command import Command, Group
from neural_cleanse.cli.exit_codes import ERROR
from neural_cleanse.errors import NeuralCleanseError, SettingsError, path_errors
from neural_cleanse.text import escape

# One line each: the first line of the command's own help (held by a test).
COMMANDS = {
    "scan": "Scan a model, or many of them, for backdoors with clean images.",
    "report": "Show a finished scan again.",
    "inspect": "Say what a model file is and holds, what in it would run, and what a scan could not see.",
    "repair": "Repair a model in which a scan flagged labels.",
    "guard": "Reject images that carry a trigger which a scan recovered.",
    "demo": "Scan two models that ship with us.",
    "attack": "Train an infected model with a known answer, to test a scan or a whole pipeline with.",
    "zoo": "Build many models with known answers, and show them.",
    "benchmark": "Scan a suite of models with known answers; count the errors.",
}


def load_command(name: str) -> Any:
    """The command of that name, as typer builds it from `cli/NAME.py`."""
    module = importlib.import_module(f"neural_cleanse.cli.{name}")
    single = typer.Typer(add_completion=False)
    if hasattr(module, "app"):
        single = module.app
    else:
        single.command(name, cls=Command)(getattr(module, name))
    command = typer.main.get_command(single)
    command.name = name
    return command


class LazyGroup(Group):
    """Lists commands by name and one line of help; loads the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """As typer does it, with the real command in place of its line of help, and the project's options."""
        _expect_none_empty(args)
        name, command, rest = super().resolve_command(ctx, args)
        if command is None or name is None:
            return name, None, rest
        loaded = load_command(name)
        if not ctx.resilient_parsing and not {"--help", "--help-all", "--show-completion"} & set(rest):
            ctx.default_map = {name: project_file.defaults(name, loaded, COMMANDS)}
        return name, loaded, rest


def _expect_none_empty(args: list[str]) -> None:
    """Raise SettingsError on an empty argument: an empty path would be the current directory."""
    if "" in args:
        before = args[args.index("") - 1] if args.index("") else ""
        after = f" after {before}" if before.startswith("-") else ""
        raise SettingsError(f"An argument{after} is empty.", cure="Is a variable of the shell not set?")


app = typer.Typer(
    name="neural-cleanse",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Does this image classifier hide a backdoor, for which label, and what does the trigger look like?",
    epilog="Start with: neural-cleanse demo",
)


def _line_of_help() -> None:
    """Stands for a command until it is loaded."""


for _name, _help in COMMANDS.items():
    app.command(_name, help=_help)(_line_of_help)


def whole_program() -> Any:
    """The program with every command loaded: for the reference page, and for tests."""
    program: Any = typer.main.get_command(app)
    program.commands |= {name: load_command(name) for name in COMMANDS}
    return program


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
    """Entry point. Whoever stops the process by SIGTERM, as containers do, is told what Ctrl-C tells."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    keep_freed_memory()
    with streams.guarded():
        _run()


def _run() -> None:
    console = Console(stderr=True, soft_wrap=True)
    try:
        try:
            with path_errors():
                app()
        finally:
            sys.stdout.flush()
    except NeuralCleanseError as error:
        streams.clear()
        console.print("[bold red]error:[/] ", end="")
        # Files name tensors and classes as they like: no message steers the terminal.
        console.print("\n".join(map(escape, error.message.splitlines())), markup=False, highlight=False)
        if error.cure:
            console.print(f"  try: {escape(error.cure)}", markup=False, highlight=False)
        sys.exit(ERROR)
    except BrokenPipeError:
        sys.exit(ERROR)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # whoever read stdout went away; typer says 1 to that
            sys.exit(ERROR)
        raise
    except Exception:  # Python's own exit code for a crash is 1, and 1 means infected
        traceback.print_exc()
        console.print("[bold red]error:[/] this is a fault of neural-cleanse, please report it.")
        sys.exit(ERROR)
