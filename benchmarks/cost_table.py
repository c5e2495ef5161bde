"""What the parts of a scan cost, from the rows of scans for every kind of trigger."""

from collections.abc import Mapping, Sequence
from typing import Any

from neural_cleanse.evaluation.rates import median_of
from neural_cleanse.report.tables import Table
from neural_cleanse.results.kind import Kind

COLUMNS = (
    "data", "labels", "models", "patches, students' too", "shifts", "one class", "all-to-all", "students' training",
    "in all", "seconds",
)  # fmt: skip


def costs(rows: Sequence[Mapping[str, Any]]) -> str:
    """Median image passes a label of each part, by data set, without and with students."""
    lines = []
    done = [row for row in rows if row.get("tests") and "error" not in row]
    for dataset in sorted({row["truth"]["dataset"] for row in done}):
        for asked in (False, True):
            group = [row for row in done if row["truth"]["dataset"] == dataset and (_training(row) > 0) is asked]
            if group:
                lines.append(_line(dataset, group, asked=asked))
    return Table("", COLUMNS, lines, frozenset(COLUMNS[1:])).markdown()


def _line(dataset: str, group: Sequence[Mapping[str, Any]], *, asked: bool) -> list[str]:
    """One line: rows of one data set, with or without students."""

    def of(*kinds: Kind) -> str:
        names = {kind.value for kind in kinds}
        return _a_label(group, lambda row: sum(one["image_passes"] for one in row["tests"] if one["kind"] in names))

    return [
        f"{dataset}, {'with' if asked else 'no'} students",
        f"{median_of(group, lambda row: len(row['labels'])):,.0f}",
        str(len(group)),
        of(Kind.PATCH),
        of(Kind.FEATURE),
        of(Kind.PAIRS),
        of(Kind.ALL_TO_ALL, Kind.FEATURE_ALL_TO_ALL),
        _a_label(group, _training),
        _a_label(group, lambda row: row["image_passes"]),
        f"{median_of(group, lambda row: row['wall_s']):.0f}",
    ]


def _training(row: Mapping[str, Any]) -> float:
    """Image passes of no test: those that students were taught with."""
    return float(row["image_passes"] - sum(one["image_passes"] for one in row["tests"]))


def _a_label(group: Sequence[Mapping[str, Any]], count: Any) -> str:
    return f"{median_of(group, lambda row: count(row) / max(1, len(row['labels']))):,.0f}"
