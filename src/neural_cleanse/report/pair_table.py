"""The pairs of labels that a scan searched, as a table: those flagged, and the few that come nearest."""

from neural_cleanse.report.table import Table
from neural_cleanse.report.text import MARK, asr_text, label_title, number, p_text
from neural_cleanse.results.records import LabelPair, ScanResult

SHOWN = 5  # pairs beside those flagged; scan.json holds all


def pair_table(result: ScanResult) -> Table:
    """Flagged pairs first, then by p-value and size."""
    names = {row.target: row.name for row in result.label_rows}
    flagged_pairs = set(result.flagged_pairs)

    def title(label: int | None) -> str:
        return "any" if label is None else label_title(label, names.get(label))

    rows = sorted(
        (row for row in result.pair_rows if row.size is not None),
        key=lambda row: (
            LabelPair(row.target, row.source) not in flagged_pairs,
            1.0 if row.p_value is None else row.p_value,
            row.size or 0.0,
        ),
    )
    flagged = sum(pair.source is not None for pair in flagged_pairs)
    return Table(
        f"Pairs of labels: {len(rows)} with a trigger, those nearest to a backdoor",
        ("from", "to", "size px", "p", "success", "remark"),
        [
            (
                title(row.source),
                title(row.target),
                number(row.size),
                p_text(row.p_value),
                asr_text(row),
                "flagged" if LabelPair(row.target, row.source) in flagged_pairs else MARK[row.outcome],
            )
            for row in rows[: flagged + SHOWN]
        ],
        frozenset({"size px", "p"}),
        "p: the chance that a model without a backdoor has a pair so far under what source and target explain.",
    )
