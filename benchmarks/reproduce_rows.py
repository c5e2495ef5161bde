"""Rows of the reproduction of the paper: how they are read, and the figures that two runs are compared by."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from neural_cleanse.report.tables import Table
from neural_cleanse.report.text import number

Row = dict[str, Any]


def figures(row: Mapping[str, Any]) -> dict[str, str]:
    """The figures of a row that another run is compared by."""
    found = row["scan"]
    target = row["targets"][0] if row["targets"] else None
    shown = {
        "accuracy, %": f"{100 * row['accuracy']:.2f}",
        "attack success, %": ", ".join(f"{100 * rate:.2f}" for rate in row["attack_success"]),
        "verdict": f"{found['verdict']} {' '.join(map(str, found['flagged']))}".strip(),
        "anomaly index": number(found["paper_index"], 2),
        "size of the target, px": number(size_of(row, target), 1),
        "median of the others, px": number(quartiles(row)[1], 1),
    }
    if "activations" in row:
        shown["activation, recovered / clean"] = ratio(row["activations"], "recovered")
        shown |= {
            f"filter passes at {one['wanted']:.0%}, {one['direction']}, %": f"{100 * one['fnr']:.2f}"
            for one in row["filter"]
        }
    return shown


def comparison(here: Sequence[Row], committed: Sequence[Row]) -> Table:
    """Figure by figure, what a run gave and what the recorded row of the same model and way says."""
    known = {(row["model"], row["way"]): row for row in committed}
    lines = []
    for row in here:
        other = known.get((row["model"], row["way"]))
        theirs = figures(other) if other else {}
        for name, value in figures(row).items():
            recorded = theirs.get(name, "no row")
            lines.append((row["model"], row["way"], name, value, recorded, "" if value == recorded else "differs"))
    return Table("", ("model", "way", "figure", "here", "recorded", ""), lines)


def size_of(row: Mapping[str, Any], label: int | None) -> float | None:
    """The size of a label's trigger in px; None where it has none."""
    sizes = dict(zip(row["scan"]["labels"], row["scan"]["sizes"], strict=True))
    return None if label is None else sizes.get(label)


def quartiles(row: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    """First quartile, median and third quartile of the sizes of all labels that are no target, in px."""
    found = row["scan"]
    sizes = [
        size
        for label, size in zip(found["labels"], found["sizes"], strict=True)
        if size is not None and label not in row["targets"]
    ]
    if len(sizes) < 2:
        return (None, sizes[0] if sizes else None, None)
    low, middle, high = statistics.quantiles(sizes, n=4, method="inclusive")
    return low, middle, high


def ratio(values: Mapping[str, float], name: str) -> str:
    """How many times the clean activation it is."""
    return f"{values[name] / values['clean']:.1f}" if values["clean"] else "–"
