"""Tables as values, for terminal, Markdown and HTML: pairs of labels, and a repair with its words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.report.text import asr_text, label_title, number, remark
from neural_cleanse.results.records import ScanResult
from neural_cleanse.results.repair import RepairResult, RepairStatus, TriggerChange
from neural_cleanse.text import p_text

PAIRS_SHOWN = 5  # pairs beside those flagged; scan.json holds all
REPAIR_HEADLINE = {
    RepairStatus.REPAIRED: "Repaired",
    RepairStatus.FAILED: "Not repaired",
    RepairStatus.NOTHING_TO_REPAIR: "Nothing to repair",
}
KINDS = "The tests share alpha: each p is already divided by its test's share, so compare it with alpha."
CLASSES_SHOWN = 10  # those that lost most
TRIGGERS = "How often each trigger works, on images that decided nothing."
CLASSES = "Clean accuracy of the classes that changed most, on the same images; classes as before are left out."
TRIES = "Every try, on images that decide and are not learned from: a learning rate, or the share of neurons pruned."
CAUTION = (
    "A recovered trigger is the smallest patch that works, not a copy of the attacker's. That it no longer works does "
    "not prove that the attacker's own fails"
)
MEASURE_OWN = "; --verify-trigger measures that one, if you have it"
OWN_GIVEN = ": that is the row of the trigger that was given"


@dataclass(frozen=True)
class Table:
    """A heading, column names, and rows of text; columns named in `numbers` are set flush right."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[str] = frozenset()
    caption: str = ""

    def markdown(self) -> str:
        """A pipe table under its heading; without a heading the table alone."""
        lines = [_pipes(self.columns), _pipes("--:" if name in self.numbers else "---" for name in self.columns)]
        lines += [_pipes(row) for row in self.rows]
        return "".join(f"{line}\n" for line in ([f"### {self.heading}", ""] if self.heading else []) + lines)

    def html(self) -> str:
        """A table element with its heading and caption, a header cell to every row; everything in it escaped."""
        flush = [' class="number"' if name in self.numbers else "" for name in self.columns]
        head = "".join(
            f'<th scope="col"{right}>{escape(name)}</th>' for name, right in zip(self.columns, flush, strict=True)
        )
        body = "".join(
            f'<tr><th scope="row"{flush[0]}>{escape(row[0])}</th>'
            + "".join(f"<td{right}>{escape(cell)}</td>" for cell, right in zip(row[1:], flush[1:], strict=True))
            + "</tr>\n"
            for row in self.rows
        )
        heading = f"<h2>{escape(self.heading)}</h2>\n" if self.heading else ""
        caption = f"<caption>{escape(self.caption)}</caption>\n" if self.caption else ""
        return f"{heading}<table>\n{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def pair_table(result: ScanResult) -> Table:
    """Flagged pairs first, then by p-value and size."""
    names = {row.target: row.name for row in result.label_rows}
    flagged_pairs = set(result.flagged_pairs)

    def title(label: int | None) -> str:
        return "any" if label is None else label_title(label, names.get(label))

    rows = sorted(
        (row for row in result.pair_rows if row.size is not None),
        key=lambda row: (
            row.pair not in flagged_pairs,
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
                remark(row, flagged=row.pair in flagged_pairs),
            )
            for row in rows[: flagged + PAIRS_SHOWN]
        ],
        frozenset({"size px", "p"}),
        "p: the chance that a model without a backdoor has a pair so far under what source and target explain.",
    )


def kind_table(result: ScanResult) -> Table:
    """What the test of each kind of trigger said; nothing in records that have one test alone."""
    rows = [
        (
            test.kind.meaning,
            "not made" if test.verdict is None else test.verdict.value,
            p_text(test.p_value),
            test.reason,
        )
        for test in result.tests
    ]
    return Table("", ("looked for", "answer", "p", "why"), rows, frozenset({"p"}), KINDS)


def caution(result: RepairResult) -> str:
    """What a repair does not prove; nothing where none was made. The attacker's own trigger may have been given."""
    if result.status is RepairStatus.NOTHING_TO_REPAIR:
        return ""
    if result.verified:
        return f"{CAUTION}{OWN_GIVEN}."
    return f"{CAUTION}{'' if result.provenance.command is None else MEASURE_OWN}."


def repair_sentence(result: RepairResult) -> str:
    """Why it ended as it did."""
    return result.reason[0].upper() + result.reason[1:] + "."


def repaired_files(repair: RepairResult, result: ScanResult) -> list[tuple[str, str]]:
    """Which model was repaired, and what was written, as (name, value); `result` is the last scan."""
    known = repair.provenance.model
    rows = [("Model that was repaired", known.get("path")), ("Its SHA-256", known.get("sha256"))]
    if repair.status is RepairStatus.REPAIRED:
        after = result.provenance.model
        rows += [("Repaired model", after.get("path")), ("SHA-256 of that", after.get("sha256"))]
    return [(name, str(value)) for name, value in rows if value]


def scan_heading(repair: RepairResult) -> str:
    """What the scan beside a repair is of."""
    return "The scan of the repaired model" if repair.status is RepairStatus.REPAIRED else "The last scan"


def accuracy_sentence(result: RepairResult) -> str:
    """Clean accuracy before and after, and on how many images."""
    before, after = result.accuracy
    return (
        f"Clean accuracy {before:.1%} before, {after:.1%} after ({100 * (after - before):+.2f} points), on "
        f"{result.num_images['report']} images that were neither learned from nor decided anything."
    )


def trigger_table(result: RepairResult) -> Table:
    """Every trigger's success before and after, the latter with its interval of Clopper and Pearson."""
    rows = [_trigger_row(change) for change in (*result.triggers, *result.verified)]
    columns = ("label", "trigger", "px", "success before", "after (95 % interval)")
    return Table("", columns, rows, frozenset({"px"}), TRIGGERS)


def _trigger_row(change: TriggerChange) -> tuple[str, ...]:
    which = "given, the attacker's own" if change.found_in == 0 else f"recovered, scan {change.found_in}"
    if change.shift:
        which = f"{which}, a shift of activations"
    size = "" if change.shift else f"{change.size:.1f}"
    source = "" if change.source is None else f" from {change.source}"
    rates = (
        ("no images", "no images")
        if not change.trials
        else (f"{change.hits_before / change.trials:.1%}", _after(change))
    )
    return (label_title(change.target, change.name) + source, which, size, *rates)


def _after(change: TriggerChange) -> str:
    """The success after, with what so many images can tell of it."""
    low, high = clopper_pearson(change.hits_after, change.trials)
    share = f"{change.hits_after / change.trials:.1%}"
    return f"{share} ({low:.1%} to {high:.1%}, {change.hits_after} of {change.trials})"


def class_table(result: RepairResult) -> Table:
    """Accuracy of the classes that lost most; nothing of those as before."""
    changed = [change for change in result.classes if change.right_after != change.right_before]
    worst = sorted(changed, key=lambda change: (change.right_after - change.right_before) / change.trials)
    rows = [
        (
            label_title(change.label, change.name),
            f"{change.right_before / change.trials:.1%}",
            f"{change.right_after / change.trials:.1%}",
            str(change.trials),
        )
        for change in worst[:CLASSES_SHOWN]
    ]
    return Table("", ("class", "accuracy before", "after", "images"), rows, frozenset({"images"}), CLASSES)


def try_table(result: RepairResult) -> Table:
    """Every try of every round, on the images that decide."""
    rows = [
        (
            str(done.number),
            point.method,
            f"{point.amount:.3g}",
            f"{point.accuracy:.1%}",
            f"{point.worst_asr:.1%}",
            point.outcome,
        )
        for done in result.rounds
        for point in done.trace
    ]
    columns = ("round", "method", "rate or share", "clean accuracy", "highest success", "outcome")
    return Table("", columns, rows, caption=TRIES)
