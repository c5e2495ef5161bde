"""A ScanResult as one self-contained HTML page: no script, no request, every name escaped."""

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from neural_cleanse.report import charts, content, tables
from neural_cleanse.report.pictures import data_uri, trigger_pictures
from neural_cleanse.report.tables import pair_table
from neural_cleanse.report.templates import render
from neural_cleanse.report.text import (
    HEADLINE,
    Titles,
    asr_text,
    bars,
    found_at,
    mark,
    number,
    p_text,
    paper_sentence,
    sentence,
)
from neural_cleanse.results.records import ScanResult
from neural_cleanse.results.repair import RepairResult, RepairStatus, TracePoint
from neural_cleanse.results.storage import to_json

SOURCES_SHOWN = 50  # classes with the lowest success; a model may have a thousand
ROWS_OPEN = 50  # labels; a longer table is folded


def html(result: ScanResult, repair: RepairResult | None = None) -> str:
    """The page; with `repair`, what was done stands first and the scan is the one of the model as it is now."""
    titles = Titles(result)
    drawn = bars(result)
    return render(
        "report.html",
        result=result,
        repair=None if repair is None else _repair(repair),
        headline=HEADLINE[result.verdict],
        sentence=sentence(result),
        content=content,
        flagged_pairs=[_flagged(result, finding, titles) for finding in content.findings(result)],
        chart=charts.sizes(result),
        bars=drawn,
        without_size=sum(bar.row.size is None for bar in drawn),
        rows_open=ROWS_OPEN,
        refined=any(bar.row.refined is not None for bar in drawn),
        paper=paper_sentence(result),
        pairs=Markup(pair_table(result).html()) if result.pair_rows else None,
        provenance=_flat(to_json(result)["provenance"]),
        titles=titles,
        number=number,
        p_text=p_text,
        found_at=found_at,
        asr_text=asr_text,
        mark=mark,
    )


def _repair(repair: RepairResult) -> dict[str, Any]:
    """What the page shows of a repair. Tables and curves escape what they hold."""
    return {
        "headline": tables.REPAIR_HEADLINE[repair.status],
        "good": repair.status is RepairStatus.REPAIRED,
        "sentence": tables.repair_sentence(repair),
        "accuracy": tables.accuracy_sentence(repair),
        "tried": bool(repair.rounds),
        "caution": tables.caution(repair),
        "triggers": Markup(tables.trigger_table(repair).html()),
        "classes": Markup(tables.class_table(repair).html()),
        "tries": Markup(tables.try_table(repair).html()),
        "curves": [charts.pruning(points, name) for name, points in _prunings(repair)],
        "notes": repair.provenance.notes,
        "command": repair.provenance.command,
    }


def _prunings(repair: RepairResult) -> list[tuple[str, Sequence[TracePoint]]]:
    """The tries of each pruning, under the name of its round and method."""
    return [
        (f"round {done.number}, {method}", [point for point in done.trace if point.method == method])
        for done in repair.rounds
        for method in dict.fromkeys(point.method for point in done.trace if point.method.startswith("pruning"))
    ]


def _flagged(result: ScanResult, finding: content.FlaggedLabel, titles: Titles) -> dict[str, Any]:
    """What the page shows of one flagged label."""
    evidence, sources = finding.evidence, sorted(finding.sources, key=lambda source: (source.share, -source.trials))
    examples = zip(evidence.before, evidence.after, evidence.answers_before, evidence.answers_after, strict=True)
    trigger = trigger_pictures(dict(result.triggers[finding.pair]))
    return {
        "finding": finding,
        "trigger": {name: data_uri(image) for name, image in trigger.items()},
        "examples": [
            {
                "before": data_uri(before),
                "after": data_uri(after),
                "was": titles.label(was),
                "becomes": titles.label(becomes),
            }
            for before, after, was, becomes in examples
        ],
        "sources": sources[:SOURCES_SHOWN],
        "more_sources": sources[SOURCES_SHOWN:],
    }


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, value if isinstance(value, str) else json.dumps(value)))
    return rows
