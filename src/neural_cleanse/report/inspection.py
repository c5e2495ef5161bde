"""An inspected model in the terminal. The record comes from a hostile file: every word of it is sanitized."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from neural_cleanse.report.tables import Table
from neural_cleanse.report.terminal import show_table
from neural_cleanse.text import by, escape, sanitize, truncate

ROWS_SHOWN = 40  # of many layers or tensors; --json prints all
NAMES_SHOWN = 10
LAYERS = "linear layers (the input of one may be the features: --features) and convolutions"
OF_ALL = "of the model with all of its files, so that it is that of none of them"
MAX_WIDTH = 120  # characters of a layer's name


def show(record: Mapping[str, Any], console: Console) -> None:
    """Print what is known, what is inside, and the findings last."""
    for name, value in _facts(record):
        console.print(Text(f"{name:14}", style="bold") + Text(escape(value)), soft_wrap=True)
    _show_rows(console, LAYERS, record["layers"], _layer)
    _show_rows(console, "tensors", record["tensors"], _tensor)
    console.print()
    if record["problem"]:
        _print(console, record["problem"], "yellow")
    for note in record["assumed"]:
        _print(console, f"assumed: {note}", "yellow")
    for finding in record["findings"]:
        runs = "would run code: " if finding["runs_code"] else ""
        _print(console, f"finding: {finding['place']}: {runs}{finding['what']}", "bold red")
    if not record["findings"]:
        _print(console, "No findings: nothing in it would run, and no control flow was seen.", "bold green")


def show_many(records: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print one row a model, and how many have findings or could not be read (`error` in the record)."""
    rows = [_row(record) for record in records]
    show_table(Table("", ("model", "format", "input", "classes", "findings"), rows, frozenset({"classes"})), console)
    flagged, failed = (sum(bool(record.get(key)) for record in records) for key in ("findings", "error"))
    console.print()
    _print(console, f"{len(records)} models: {flagged} with findings, {failed} could not be read.", "bold")
    if flagged:
        _print(console, "Inspect a model by itself for its findings.", "")


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    path = escape(record["path"])
    if "error" in record:
        return path, "could not be read", "", "", escape(truncate(record["error"], MAX_WIDTH))
    runs = sum(finding["runs_code"] for finding in record["findings"])
    found = f"{len(record['findings'])}, {runs} would run code" if record["findings"] else "none"
    shape = by(record["input_shape"] or ()) or "not said"
    classes = "not said" if record["num_classes"] is None else f"{record['num_classes']:,}"
    return path, escape(record["container"]), shape, classes, found


def _facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    shape, names, normalize = record["input_shape"], record["label_names"], record["normalize"]
    nested = record["nested_under"]
    facts = [
        ("file", record["path"]),
        ("container", record["container"] + (f", weights under {nested!r}" if nested else "")),
        ("trust", record["trust"]),
        ("size", f"{record['num_bytes']:,} bytes"),
        ("sha256", record["sha256"] + (f" ({OF_ALL})" if record["files"] else "")),
        *(("of one file", f"{file['sha256']}  {file['name']}") for file in record["files"]),
        ("network", record["architecture"] or "not said"),
        ("input", by(shape) + " (channels x height x width)" if shape else "not said"),
        ("classes", "not said" if record["num_classes"] is None else f"{record['num_classes']:,}"),
        ("normalisation", normalize["in_words"] if normalize else "not said"),
    ]
    if record["outputs"]:
        facts.append(("outputs", record["outputs"]))
    if names:
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        facts.append(("label names", ", ".join(sanitize(name) for name in names[:NAMES_SHOWN]) + more))
    return facts


def _layer(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["name"] or "the network itself", f"{row['kind']} {row['inputs']} -> {row['outputs']}"


def _tensor(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["name"], f"{row['dtype']} {'x'.join(map(str, row['shape'])) or 'scalar'}"


def _show_rows(console: Console, heading: str, rows: list[Mapping[str, Any]], cells: Any) -> None:
    if not rows:
        return
    console.print()
    console.print(Text(heading, style="bold"))
    shown = [cells(row) for row in rows[:ROWS_SHOWN]]
    width = max(len(escape(name[:MAX_WIDTH])) for name, _ in shown)
    for name, text in shown:
        console.print(Text(f"{escape(name[:MAX_WIDTH]):{width}}  {escape(text[:MAX_WIDTH])}"), soft_wrap=True)
    if len(rows) > ROWS_SHOWN:
        console.print(f"... and {len(rows) - ROWS_SHOWN} more; --json lists all", highlight=False)


def _print(console: Console, text: str, style: str) -> None:
    console.print(escape(text), style=style, markup=False, highlight=False, soft_wrap=True)
