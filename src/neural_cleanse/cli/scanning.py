"""What `neural-cleanse scan` does around the scan itself: the checkpoint, the answer, the files, how to go on."""

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import typer
from rich.console import Console

from neural_cleanse.cli import exit_codes, formats, recorded
from neural_cleanse.cli.options import Inputs
from neural_cleanse.errors import OutputError, SettingsError
from neural_cleanse.inversion.checkpoint import Checkpoint
from neural_cleanse.report import output_dir, terminal
from neural_cleanse.results import storage
from neural_cleanse.results.records import ScanResult, Verdict

BUDGETS = ("--budget", "--max-passes")


def answer(result: ScanResult, output: Path | None, wanted: tuple[formats.Wanted, ...]) -> None:
    """The answer on stdout, as a table or as the document that is wanted there; its files will be in `output`."""
    if formats.on_stdout(wanted):
        formats.write(wanted, result, None, output, files=False)
    else:
        terminal.show(result, Console(), output)


def keep(
    result: ScanResult, output: Path | None, wanted: tuple[formats.Wanted, ...], inputs: Inputs, data: Path
) -> None:
    """The answer in files."""
    formats.write(wanted, result, None, output, files=True)
    if output is not None:
        output_dir.write(result, output)
        recorded.write(output, inputs, data)


def checkpoint_in(
    output: Path | None, baseline: Path | None = None, *, resume: bool, overwrite: bool
) -> Checkpoint | None:
    """Where finished labels are kept. Raises OutputError on what nobody said may be gone on with or overwritten."""
    if output is None:
        if resume:
            raise SettingsError("--resume goes on with the scan in a directory.", cure="Name it with --output.")
        return None
    if baseline is not None and output.resolve() == baseline.resolve():
        raise OutputError(f"The scan would write over its baseline, {baseline}.", cure="Name another --output.")
    checkpoint = Checkpoint.within(output)
    if checkpoint.exists() and not overwrite and not resume:
        raise OutputError(
            f"The output directory {output} holds an unfinished scan.",
            cure="Go on with it: --resume. Or start anew: --overwrite.",
        )
    if resume and checkpoint.exists():
        return checkpoint
    if resume and not overwrite and (output / storage.JSON_FILE).exists():
        raise OutputError(
            f"The output directory {output} holds a finished scan: there is nothing to go on with.",
            cure="Read it with `neural-cleanse report`. To scan anew, name another directory, or pass --overwrite.",
        )
    if not overwrite:
        output_dir.refuse_occupied(output)
    checkpoint.remove()
    return checkpoint


def say_how_to_go_on(why: str, *without: str) -> None:
    """The command that goes on with this scan, on stderr; without some options and their values."""
    words = iter(sys.argv[1:])
    command = []
    for word in words:
        if word in without:
            next(words, None)
        elif word not in ("--resume", "--overwrite") and not word.startswith(tuple(f"{name}=" for name in without)):
            command.append(word)
    console = Console(stderr=True, soft_wrap=True)
    console.print(why, highlight=False)
    console.print(f"  {shlex.join(['neural-cleanse', *command, '--resume'])}", markup=False, highlight=False)


def say_what_is_kept(result: ScanResult, output: Path | None, checkpoint: Checkpoint | None, *, alone: bool) -> None:
    """Where the report is, and how to go on with a search that its budget ended, unless the answer says so.

    `alone`: stdout holds a document and nothing else.
    """
    if output is not None and not alone:
        Console().print(f"report: {output / output_dir.REPORT_FILE}", markup=False, highlight=False, soft_wrap=True)
    said = result.verdict is Verdict.INCONCLUSIVE and not alone
    if checkpoint is not None and result.cut_off and not said:
        kept = "go on" if checkpoint.has_records() else "no label was finished, begin again"
        say_how_to_go_on(f"the budget ended the search; {kept}, with a larger one or none:", *BUDGETS)


@contextlib.contextmanager
def kept_in(checkpoint: Checkpoint | None) -> Iterator[None]:
    """Within, whoever interrupts the scan, and whose disk is full, is told what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if checkpoint is not None and checkpoint.exists():
            say_how_to_go_on("interrupted; go on with:")
        else:
            why = "with --output finished labels are" if checkpoint is None else "no label was finished"
            Console(stderr=True, soft_wrap=True).print(f"interrupted: nothing was kept ({why})", highlight=False)
        raise typer.Exit(exit_codes.INTERRUPTED) from interrupt
    except OutputError as error:
        if checkpoint is not None and checkpoint.has_records():
            error.cure = f"{error.cure} Finished labels are kept: the same command goes on with --resume.".lstrip()
        raise
