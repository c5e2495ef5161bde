"""The table of docs/evaluation.md on how near the search comes to the smallest trigger, from the rows of search.py."""

import statistics
from pathlib import Path
from typing import Any

from resumable import rows_in

NEAR = 1.15  # times the best known size
ROWS = Path(__file__).parent / "results" / "search.jsonl"


def searched() -> str:
    """The panel of search.py: planted, best known and found sizes, and what a default scan says."""
    lines = [
        "| network | data | planted, px | best known | default | ratio | others, median: best / default "
        "| passes a label | verdict | p |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|--:|",
    ]
    ratios, rows = [], rows_in(ROWS)
    for row in rows:
        target, scanned = row["target"], row["scan"] or {}
        known = {int(label): found for label, found in row["labels"].items()}
        best = {label: min(_size(found, "best"), _size(found, "default")) for label, found in known.items()}
        others = [label for label in known if label != target]
        middle = [statistics.median(values[label] for label in others) for values in (best, _defaults(known))]
        if target is not None:
            ratios.append(_size(known[target], "default") / best[target])
        mine = "| | | " if target is None else _mine(best[target], _size(known[target], "default"))
        planted = "" if row["planted_size"] is None else f"{row['planted_size']:g}"
        lines.append(
            f"| {row['network']} | {row['dataset']} | {planted} {mine} | {middle[0]:.0f} / {middle[1]:.0f} "
            f"| {scanned.get('passes_a_label', 0):,} | {_said(target, scanned)} | {scanned.get('p_value', 1.0):.2g} |"
        )
    shares = [
        _size(row["labels"][str(row["target"])], "default") / row["planted_size"] for row in rows if row["planted_size"]
    ]
    said = f"{min(shares):.2f} to {max(shares):.2f} (median {statistics.median(shares):.2f})"
    near = sum(ratio <= NEAR for ratio in ratios)
    lines += [
        "",
        f"The default search recovered {said} of the planted size, in {len(shares)} infected networks; it ended within "
        f"{NEAR:g} times the best known size in {near} of {len(ratios)}, at {max(ratios):.2f} times at worst.",
    ]
    return "\n".join(lines)


def _size(found: dict[str, Any], way: str) -> float:
    """Of a label's trigger by one way; infinite where it has none."""
    value = found[way]["size"]
    return float("inf") if value is None else float(value)


def _defaults(known: dict[int, dict[str, Any]]) -> dict[int, float]:
    return {label: _size(found, "default") for label, found in known.items()}


def _mine(best: float, default: float) -> str:
    return f"| {best:.1f} | {default:.1f} | {default / best:.2f}"


def _said(target: int | None, scanned: dict[str, Any]) -> str:
    flagged = ", ".join(map(str, scanned.get("flagged", ())))
    wrong_label = " (wrong)" if flagged and flagged != str(target) else ""
    return f"{scanned.get('verdict', 'not scanned')}{f' {flagged}' if flagged else ''}{wrong_label}"
