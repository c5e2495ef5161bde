"""A ScanResult in the terminal: the verdict in one plain sentence, a table with size bars, then the notes."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from neural_cleanse.report import summary, tables
from neural_cleanse.report.advice import what_now
from neural_cleanse.report.tables import Table as PlainTable
from neural_cleanse.report.tables import pair_table
from neural_cleanse.report.text import HEADLINE, Titles, bars, mark, number, paper_sentence, sentence
from neural_cleanse.results.records import ScanResult, Verdict
from neural_cleanse.results.repair import RepairResult, RepairStatus
from neural_cleanse.text import escape, p_text

WIDE = 100  # columns, from where on bars are long and names whole
BAR_WIDTH = {True: 16, False: 8}
NAME_WIDTH = {True: 48, False: 17}
ROWS_SHOWN = 20  # of many labels only the smallest are shown; the files hold all
COLOUR = {Verdict.INFECTED: "bold red", Verdict.CLEAN: "bold green", Verdict.INCONCLUSIVE: "bold yellow"}


def show(result: ScanResult, console: Console, directory: Path | None = None) -> None:
    """Print the result: the verdict first. With the `directory` of its files, the command to go on with is the end."""
    console.print(Text(HEADLINE[result.verdict], style=COLOUR[result.verdict]))
    inconclusive = result.verdict is Verdict.INCONCLUSIVE
    _print(console, sentence(result) if inconclusive else summary.plain(result))
    console.print()
    _show_sizes(result, console)
    console.print()
    if result.pair_rows:
        show_table(pair_table(result), console)
        console.print()
    if not inconclusive:
        _print(console, sentence(result), "dim")
    _print(console, paper_sentence(result), "dim")
    for note in result.provenance.notes:
        _print(console, f"note: {note}", "yellow")
    _print(
        console,
        f"{result.image_passes:,} image passes, {result.forward_passes:,} forward only, {result.wall_s:.1f} s; "
        f"input {result.provenance.model['normalisation']}",
        "dim",
    )
    commands = [] if directory is None else [step for step in what_now(result, directory) if step.command]
    for step in commands[:1]:
        _print(console, f"next: {step.what}")
        console.print(f"  {escape(step.command or '')}", markup=False, highlight=False, soft_wrap=True)


def _show_sizes(result: ScanResult, console: Console) -> None:
    """One line a label, smallest trigger first."""
    chart, titles, wide = bars(result), Titles(result), console.width >= WIDE
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for heading, side in (("label", "left"), ("size px", "right"), ("", "left"), ("index", "right"), ("p", "right")):
        table.add_column(heading, justify="right" if side == "right" else "left", no_wrap=True)
    table.add_column("success", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for bar in chart[:ROWS_SHOWN]:
        row = bar.row
        style = COLOUR[Verdict.INFECTED] if bar.flagged else ""
        length = max(1, round(bar.share * BAR_WIDTH[wide])) if row.size is not None else 0
        table.add_row(
            Text(titles.short(row, NAME_WIDTH[wide]), style=style),
            Text(number(row.size), style=style),
            Text("█" * length, style=style),
            number(row.anomaly_index, 2),
            p_text(row.p_value),
            "–" if row.asr is None else f"{row.asr:.1%}",
            mark(bar),
        )
    console.print(table)
    if len(chart) > ROWS_SHOWN:
        console.print(f"... and {len(chart) - ROWS_SHOWN} labels with larger triggers or no size")


def _print(console: Console, text: str, style: str = "") -> None:
    """A line that no name in it steers."""
    console.print(escape(text), style=style, markup=False, highlight=False)


REPAIR_COLOUR = {
    RepairStatus.REPAIRED: "bold green",
    RepairStatus.FAILED: "bold red",
    RepairStatus.NOTHING_TO_REPAIR: "bold yellow",
}


def show_repair(result: RepairResult, console: Console, after: ScanResult) -> None:
    """Print what a repair did, of which model; `after` is the last scan."""
    console.print(Text(tables.REPAIR_HEADLINE[result.status], style=REPAIR_COLOUR[result.status]))
    for line in (tables.repair_sentence(result), tables.accuracy_sentence(result)):
        _print(console, line)
    for name, value in tables.repaired_files(result, after):
        console.print(escape(f"{name}: {value}"), style="dim", markup=False, highlight=False, soft_wrap=True)
    if result.triggers or result.verified:
        console.print()
        show_table(tables.trigger_table(result), console)
        console.print()
    if caution := tables.caution(result):
        _print(console, caution, "dim")
    for note in result.provenance.notes:
        _print(console, f"note: {note}", "yellow")


def show_table(plain: PlainTable, console: Console) -> None:
    """Print a table that is a value; nothing where it has no rows."""
    if not plain.rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in plain.columns:
        table.add_column(column, justify="right" if column in plain.numbers else "left")
    for row in plain.rows:
        table.add_row(*map(Text, row))
    console.print(table)
