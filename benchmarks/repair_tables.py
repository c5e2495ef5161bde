"""The tables of docs/repair.md, from the rows in benchmarks/results; a test fails when they are stale.

Repairs are in repairs.jsonl and repairs_triggers.jsonl, guards (repairs.py --guard-alone) in guards.jsonl.

python benchmarks/repair_tables.py
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from neural_cleanse.report.tables import Table
from pages import filled
from resumable import rows_in

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "benchmarks" / "results" / "repairs.jsonl"
NO_PATCH = ROOT / "benchmarks" / "results" / "repairs_triggers.jsonl"
GUARDS = ROOT / "benchmarks" / "results" / "guards.jsonl"
PAGE = ROOT / "docs" / "repair.md"
ARMS = ("repair", "one epoch", "original trigger", "clean images", "pruning")
BEFORE = "earlier repair"  # of rows made before a repair searched for other triggers than the scan's

OUR_NETWORKS = ("mnist_cnn", "gtsrb_cnn_half")

Row = dict[str, Any]


def no_patch() -> str:
    """One line a model whose trigger is no patch for all images."""
    columns = ("data", "attack", "repair", "success before, %", "after, %", "accuracy lost, points", "answer")
    lines = []
    for row in sorted(rows_in(NO_PATCH), key=lambda row: (row["dataset"], str(row["attack"])), reverse=True):
        arm = next((arm for arm in (ARMS[0], BEFORE) if arm in row["arms"]), None)
        if arm is not None:
            rates = (max(row["before"]["asr"]), asr_after(row, arm) or 0.0)
            cells = [f"{100 * rate:.1f}" for rate in rates]
            done = row["arms"][arm]["status"].replace("failed", "not repaired")
            lines.append((row["dataset"], row["attack"], arm, *cells, f"{100 * (drop(row, arm) or 0.0):.2f}", done))
    return Table("", columns, lines).markdown()


def images(row: Row) -> str:
    """How many the repair was given."""
    share, _, rest = str(row["budget"]).partition(" ")
    return f"{float(share):.0%}" if rest.endswith("training images") else share


def data(row: Row) -> str:
    """The data set; of models that others published with their network."""
    published = "" if row["architecture"] in OUR_NETWORKS else f" ({row['architecture']})"
    return f"{row['dataset']}{published}"


def kind(row: Row) -> tuple[str, str, str]:
    """Rows that share a line of a table."""
    return images(row), data(row), row["attack"]


def grouped(
    found: Sequence[Row], key: Callable[[Row], tuple[str, ...]] = kind
) -> list[tuple[tuple[str, ...], list[Row]]]:
    """Rows by kind, in the order of the kinds."""
    return [(name, [row for row in found if key(row) == name]) for name in sorted({key(row) for row in found})]


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median and, in brackets, worst, in per cent or points."""
    if not values:
        return "–"
    middle, worst = 100 * statistics.median(values), 100 * max(values)
    return f"{middle:.{digits}f} ({worst:.{digits}f})" if len(values) > 1 else f"{middle:.{digits}f}"


def asr_after(row: Row, arm: str) -> float | None:
    """The highest success of an original trigger after that arm; that of before where it was rolled back."""
    done = row["arms"].get(arm)
    if done is None:
        return None
    return float(max(done.get("asr", row["before"]["asr"])))


def drop(row: Row, arm: str) -> float | None:
    """Clean accuracy lost."""
    done = row["arms"].get(arm)
    return None if done is None else float(row["before"]["accuracy"] - done.get("accuracy", row["before"]["accuracy"]))


def known(found: Sequence[Row], value: Callable[[Row], float | None]) -> list[float]:
    """The values that there are."""
    return [number for row in found if (number := value(row)) is not None]


def asr_table(found: Sequence[Row]) -> str:
    """Success of the original trigger before, and after every arm."""
    infected = [row for row in found if row["targets"]]
    lines = []
    for (budget, where, attack), group in grouped(infected):
        cells = [spread(known(group, partial(asr_after, arm=arm))) for arm in ARMS]
        before = spread([min(row["before"]["asr"]) for row in group])
        lines.append((where, attack, budget, str(_count(group)), before, *cells))
    columns = ("data", "attack", "images", "models", "before", *ARMS)
    return Table("", columns, lines, frozenset({"models"})).markdown()


def drop_table(found: Sequence[Row]) -> str:
    """Points of clean accuracy that every arm costs, over all attacks; a negative number is a gain."""
    lines = []
    for (budget, where, which), group in grouped(found, lambda row: (images(row), data(row), _infected(row))):
        cells = [spread(known(group, partial(drop, arm=arm)), 2) for arm in ARMS]
        lines.append((where, which, budget, str(_count(group)), *cells))
    return Table("", ("data", "models that are", "images", "models", *ARMS), lines, frozenset({"models"})).markdown()


def _count(found: Sequence[Row]) -> int:
    """How many models; a row has some of the arms of one."""
    return len({row["model"] for row in found})


def _infected(row: Row) -> str:
    return "infected" if row["targets"] else "clean"


def guard_table() -> str:
    """Triggered images that pass and get the target, clean ones rejected; our guard, the one before, the paper's."""
    lines = []
    for (where, attack), group in grouped(rows_in(GUARDS), lambda row: (data(row), row["attack"])):
        guards = [row["guard"] for row in group if not isinstance(row["guard"], str)]  # why none could be fitted
        refused = f" and {len(group) - len(guards)} refused" if len(guards) < len(group) else ""
        cells = [
            spread([max(guard["ours"]["passed"]) for guard in guards]),
            spread([max(guard["ours"]["label_fpr"]) for guard in guards]),
            spread([guard["ours"]["fpr"] for guard in guards]),
        ]
        for name in ("fisher", "paper"):
            cells.append(spread([max(guard[name]["passed"]) for guard in guards]))
            cells.append(spread([guard[name]["label_fpr"] for guard in guards]))
        extra = spread([guard["extra_time"] for guard in guards])
        lines.append((where, attack, f"{len(guards)}{refused}", *cells, extra))
    columns = (
        "data",
        "attack",
        "models",
        "passed",
        "rejected of the label",
        "of all",
        "features alone: passed",
        "rejected of the label ",
        "paper's: passed",
        "rejected of the label  ",
        "extra time",
    )
    return Table("", columns, lines, frozenset({"models"})).markdown()


def targets(found: Sequence[Row]) -> str:
    """What all models with one trigger came to, against what was aimed at."""
    single = [row for row in found if row["targets"] and row["attack"] not in ("nine-triggers", "many-labels")]
    tried = [row for row in single if "repair" in row["arms"] and row["budget"].endswith("training images")]
    lines = []
    for (dataset,), group in grouped(tried, lambda row: (row["dataset"],)):
        after, lost = (known(group, partial(value, arm="repair")) for value in (asr_after, drop))
        answers = sum(row["arms"]["repair"]["status"] == "repaired" for row in group)
        lines.append((dataset, str(len(group)), str(answers), spread(after), spread(lost, 2)))
    columns = ("data", "models", "repaired", "success after, %", "accuracy lost, points")
    return Table("", columns, lines, frozenset({"models", "repaired"})).markdown()


def few(found: Sequence[Row]) -> str:
    """What a number of images reaches, in place of a share of the training images."""
    numbered = [row for row in found if "repair" in row["arms"] and row["budget"].split()[1] == "images"]
    lines = []
    for dataset, count in sorted({(row["dataset"], row["images"]) for row in numbered}):
        group = [row for row in numbered if (row["dataset"], row["images"]) == (dataset, count)]
        after, lost = (known(group, partial(value, arm="repair")) for value in (asr_after, drop))
        answers = sum(row["arms"]["repair"]["status"] == "repaired" for row in group)
        lines.append((dataset, f"{count:,}", str(len(group)), str(answers), spread(after), spread(lost, 2)))
    columns = ("data", "images", "models", "repaired", "success after, %", "accuracy lost, points")
    return Table("", columns, lines, frozenset({"images", "models", "repaired"})).markdown()


def alone(row: Row) -> bool:
    """Whether nothing but the repair was tried, with a number of images: it stands in the table of few images."""
    return list(row["arms"]) == ["repair"] and not row["budget"].endswith("training images")


def page() -> str:
    """docs/repair.md: its own prose, and the tables between their marks."""
    found = rows_in(ROWS)
    compared = [row for row in found if not alone(row)]
    tables = {"success": asr_table, "accuracy": drop_table}
    places = {name: table(compared) for name, table in tables.items()}
    places |= {"targets": targets(found), "few": few(found), "triggers": no_patch(), "filter": guard_table()}
    return filled(PAGE.read_text(encoding="utf-8"), places)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(page(), encoding="utf-8")
