"""A batch of models for people: one row a model, in the terminal and as a page that links every report."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from neural_cleanse.report import terminal
from neural_cleanse.report.output_dir import REPORT_FILE
from neural_cleanse.report.pictures import data_uri, on_grey, reduced
from neural_cleanse.report.tables import Table
from neural_cleanse.report.templates import render
from neural_cleanse.report.text import HEADLINE, Flagged, bars, flagged, label_title, number
from neural_cleanse.results.records import LabelResult, ScanResult, Verdict
from neural_cleanse.text import escape, p_text

MAX_TEXT = 200  # characters of an error that a table shows; summary.json holds all
LABELS_SHOWN = 3
THUMBNAIL = 56  # pixels, at most


@dataclass(frozen=True)
class BatchRow:
    """One model of a batch: what a scan of it says, or why there is none (`verdict` None, `error` set).

    `name` is its own under the batch and that of its result directory; `kept` says that the answer is an earlier run's.
    `maps` are the all-to-all triggers in words; `picture` is the smallest trigger as the address of a small picture.
    Both are for people alone.
    """

    name: str
    model: str
    verdict: Verdict | None = None
    flagged: tuple[LabelResult, ...] = ()
    p_value: float | None = None
    reason: str | None = None
    error: str | None = None
    sha256: str | None = None
    wall_s: float | None = None
    kept: bool = False
    maps: tuple[str, ...] = ()
    picture: str | None = None

    @classmethod
    def of(cls, name: str, model: str, result: ScanResult, *, kept: bool = False) -> "BatchRow":
        """What a result says."""
        return cls(
            name=name,
            model=model,
            verdict=result.verdict,
            flagged=tuple(row for row in result.labels if row.target in result.flagged),
            p_value=result.p_value,
            reason=result.reason,
            sha256=result.provenance.model.get("sha256"),
            wall_s=result.wall_s,
            kept=kept,
            maps=tuple(_map_text(one) for one in flagged(result) if one.is_map),
            picture=_picture(result),
        )

    @property
    def answer(self) -> str:
        """The verdict, or `error`: the word that summary.json says."""
        return "error" if self.verdict is None else self.verdict.value

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        labels = [
            {"target": row.target, "name": row.name, "size": row.size, "shown_size": row.shown.size}
            for row in self.flagged
        ]
        values = asdict(self) | {"verdict": self.answer, "flagged": labels}
        del values["picture"], values["maps"]
        return values


def _picture(result: ScanResult) -> str | None:
    """Of the flagged label, else of the smallest trigger."""
    kept = [bar.row.pair for bar in bars(result) if bar.row.size is not None and bar.row.pair in result.triggers]
    pairs = [pair for pair in result.flagged_pairs if pair in result.triggers] or kept
    return data_uri(reduced(on_grey(dict(result.triggers[pairs[0]])), THUMBNAIL)) if pairs else None


# In the order in which they decide about the batch, and in which people read them.
ORDER = ("infected", "error", "inconclusive", "clean")
COLOUR = {"error": "bold red"} | {verdict.value: colour for verdict, colour in terminal.COLOUR.items()}
WORDS = {"error": "Could not scan"} | {verdict.value: headline for verdict, headline in HEADLINE.items()}


def ordered(rows: Sequence[BatchRow]) -> list[BatchRow]:
    """The worst first, then by p-value and name."""
    return sorted(
        rows, key=lambda row: (ORDER.index(row.answer), 1.0 if row.p_value is None else row.p_value, row.name)
    )


def counts(rows: Sequence[BatchRow]) -> dict[str, int]:
    """How many rows of each answer, the worst first."""
    found = Counter(row.answer for row in rows)
    return {answer: found[answer] for answer in ORDER}


def worst(rows: Sequence[BatchRow]) -> str:
    """The answer that decides about the batch."""
    return next(answer for answer, count in counts(rows).items() if count)


def sentence(rows: Sequence[BatchRow]) -> str:
    """`8 models: 2 infected, 1 error, 5 clean`."""
    parts = ", ".join(f"{count} {answer}" for answer, count in counts(rows).items() if count)
    return f"{len(rows)} model{'' if len(rows) == 1 else 's'}: {parts}"


def _map_text(one: Flagged) -> str:
    return one.heading if one.row.size is None else f"{one.heading} ({number(one.row.size)} px)"


def labels_text(row: BatchRow) -> str:
    """The flagged labels with their sizes; of many the first. One trigger for all of them is said as that."""
    if row.maps:
        return "; ".join(row.maps)
    shown = [f"{label_title(one.target, one.name)} ({number(one.size)} px)" for one in row.flagged[:LABELS_SHOWN]]
    more = len(row.flagged) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def said(row: BatchRow) -> str:
    """Labels of an infected model, the reason where there is no answer, nothing of a clean one."""
    if row.answer == "infected":
        return labels_text(row)
    text = escape(row.error or row.reason or "") if row.answer in ("error", "inconclusive") else ""
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def show(rows: Sequence[BatchRow], console: Console) -> None:
    """Print how many there are of each answer, and the table."""
    console.print(Text(sentence(rows), style=COLOUR[worst(rows)]))
    console.print()
    table = Table(
        "",
        ("model", "answer", "p", ""),
        [[escape(row.name), row.answer, p_text(row.p_value), said(row)] for row in ordered(rows)],
        frozenset({"p"}),
    )
    terminal.show_table(table, console)


def html(rows: Sequence[BatchRow], command: str | None) -> str:
    """The page: no script, no request, every name escaped; links lead to the reports in the directories beside it."""
    worst_first = ordered(rows)
    by_name = {row.name: place for place, row in enumerate(sorted(rows, key=lambda row: row.name))}
    by_time = {row.name: place for place, row in enumerate(sorted(rows, key=lambda row: -(row.wall_s or 0.0)))}
    return render(
        "batch.html",
        rows=worst_first,
        places=[(place, by_name[row.name], by_time[row.name]) for place, row in enumerate(worst_first)],
        sentence=sentence(rows),
        words=WORDS,
        said=said,
        p_text=p_text,
        number=number,
        report=REPORT_FILE,
        command=command,
    )
