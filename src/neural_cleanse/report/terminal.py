"""A ScanResult in the terminal: a table with size bars and one plain sentence."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from neural_cleanse.report import tables
from neural_cleanse.report.tables import Table as PlainTable
from neural_cleanse.report.tables import pair_table
from neural_cleanse.report.text import HEADLINE, Titles, bars, mark, number, p_text, paper_sentence, sentence
from neural_cleanse.results.records import ScanResult, Verdict
from neural_cleanse.results.repair import RepairResult, RepairStatus
from neural_cleanse.text import escape

BAR_WIDTH = 16
ROWS_SHOWN = 20  # of many labels only the smallest are shown; the files hold all
COLOUR = {Verdict.INFECTED: "bold red", Verdict.CLEAN: "bold green", Verdict.INCONCLUSIVE: "bold yellow"}


def show(result: ScanResult, console: Console) -> None:
    """Print the result."""
    chart, titles = bars(result), Titles(result)
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for heading, side in (("label", "left"), ("size px", "right"), ("", "left"), ("index", "right"), ("p", "right")):
        table.add_column(heading, justify="right" if side == "right" else "left", no_wrap=True)
    table.add_column("success", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for bar in chart[:ROWS_SHOWN]:
        row = bar.row
        style = COLOUR[Verdict.INFECTED] if bar.flagged else ""
        table.add_row(
            Text(titles.of(row), style=style),
            Text(number(row.size), style=style),
            Text("█" * max(1, round(bar.share * BAR_WIDTH)) if row.size is not None else "", style=style),
            number(row.anomaly_index, 2),
            p_text(row.p_value),
            "–" if row.asr is None else f"{row.asr:.1%}",
            mark(bar),
        )
    console.print(table)
    if len(chart) > ROWS_SHOWN:
        console.print(f"... and {len(chart) - ROWS_SHOWN} labels with larger triggers or no size")
    console.print()
    if result.pair_rows:
        show_table(pair_table(result), console)
        console.print()
    console.print(Text(HEADLINE[result.verdict], style=COLOUR[result.verdict]))
    console.print(escape(sentence(result)), markup=False, highlight=False)
    console.print(paper_sentence(result), style="dim", markup=False, highlight=False)
    for note in result.provenance.notes:
        console.print(escape(f"note: {note}"), style="yellow", markup=False, highlight=False)
    console.print(
        f"{result.image_passes:,} image passes, {result.forward_passes:,} forward only, {result.wall_s:.1f} s; "
        f"input {escape(str(result.provenance.model['normalisation']))}",
        style="dim",
        markup=False,
        highlight=False,
    )


REPAIR_COLOUR = {
    RepairStatus.REPAIRED: "bold green",
    RepairStatus.FAILED: "bold red",
    RepairStatus.NOTHING_TO_REPAIR: "bold yellow",
}


def show_repair(result: RepairResult, console: Console) -> None:
    """Print what a repair did."""
    show_table(tables.trigger_table(result), console)
    console.print()
    console.print(Text(tables.REPAIR_HEADLINE[result.status], style=REPAIR_COLOUR[result.status]))
    for line in (tables.repair_sentence(result), tables.accuracy_sentence(result)):
        console.print(escape(line), markup=False, highlight=False)
    if caution := tables.caution(result):
        console.print(caution, style="dim", markup=False, highlight=False)
    for note in result.provenance.notes:
        console.print(escape(f"note: {note}"), style="yellow", markup=False, highlight=False)


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
