"""A ScanResult as one self-contained HTML page: no script, no request, every name escaped."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from neural_cleanse.report import charts, content, findings, summary, tables
from neural_cleanse.report.advice import after_repair, what_now
from neural_cleanse.report.glossary import TERMS, anchor
from neural_cleanse.report.pictures import data_uri, on_grey, trigger_pictures
from neural_cleanse.report.tables import pair_table
from neural_cleanse.report.templates import render
from neural_cleanse.report.text import (
    HEADLINE,
    Titles,
    asr_text,
    bars,
    mark,
    number,
    paper_sentence,
    sentence,
    success_of,
)
from neural_cleanse.results.records import ScanResult
from neural_cleanse.results.repair import RepairResult, RepairStatus, TracePoint
from neural_cleanse.results.storage import to_json
from neural_cleanse.text import p_text

SOURCES_SHOWN = 50  # classes with the lowest success; a model may have a thousand
ROWS_OPEN = 50  # labels; a longer table is folded
SMALLEST_SHOWN = 3  # triggers, where nothing was flagged
FACT_TERMS = {"Clean accuracy": "clean accuracy", "How sure": "p-value, p", "Can be missed": "detection limit"}


def html(result: ScanResult, repair: RepairResult | None = None, directory: Path | None = None) -> str:
    """The page; with `repair`, what was done stands first and the scan is the one of the model as it is now.

    `directory` is where the scan's files are, for the commands that go on from them.
    """
    titles = Titles(result)
    drawn = bars(result)
    _, height, width = result.image_shape
    return render(
        "report.html",
        result=result,
        repair=None if repair is None else _repair(repair, result),
        headline=HEADLINE[result.verdict],
        sentence=sentence(result),
        plain=summary.plain(result),
        facts=summary.facts(result),
        fact_terms=FACT_TERMS,
        doubts=summary.doubts(result),
        file_facts=summary.file_facts(result.provenance.model),
        file_issues=summary.file_issues(result.provenance.model),
        steps=what_now(result, directory),
        scaled=f"Original size {width} × {height} pixels, enlarged without smoothing.",
        smallest=_smallest(result, titles),
        student=content.student_sizes(result),
        terms=TERMS,
        anchor=anchor,
        content=content,
        natural=content.NATURAL,
        no_weak_point=findings.NO_WEAK_POINT,
        flagged=[_flagged(result, finding, titles) for finding in findings.findings(result)],
        chart=charts.sizes(result),
        bars=drawn,
        marked=any(bar.flagged for bar in drawn),
        without_size=sum(bar.row.size is None for bar in drawn),
        rows_open=ROWS_OPEN,
        paper=paper_sentence(result),
        kinds=Markup(tables.kind_table(result).html()) if result.tests else None,
        pairs=Markup(pair_table(result).html()) if result.pair_rows else None,
        provenance=_flat(to_json(result)["provenance"]),
        titles=titles,
        number=number,
        p_text=p_text,
        success_of=success_of,
        asr_text=asr_text,
        mark=mark,
    )


def _repair(repair: RepairResult, result: ScanResult) -> dict[str, Any]:
    """What the page shows of a repair. Tables and curves escape what they hold."""
    classes = tables.class_table(repair)
    return {
        "headline": tables.REPAIR_HEADLINE[repair.status],
        "good": repair.status is RepairStatus.REPAIRED,
        "of": repair.provenance.model.get("path"),
        "files": tables.repaired_files(repair, result),
        "scan_heading": tables.scan_heading(repair),
        "sentence": tables.repair_sentence(repair),
        "accuracy": tables.accuracy_sentence(repair),
        "steps": after_repair(repair, result),
        "tried": bool(repair.rounds),
        "caution": tables.caution(repair),
        "triggers": Markup(tables.trigger_table(repair).html()),
        "classes": Markup(classes.html()) if classes.rows else None,
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


def _flagged(result: ScanResult, finding: findings.Finding, titles: Titles) -> dict[str, Any]:
    """What the page shows of one thing that was flagged."""
    evidence, sources = finding.evidence, sorted(finding.sources, key=lambda source: (source.share, -source.trials))
    seen = evidence.has_pictures and finding.pair in result.triggers
    after = evidence.after if len(evidence.after) else [None] * len(evidence.before)
    examples = zip(evidence.before, after, evidence.answers_before, evidence.answers_after, strict=True)
    trigger = trigger_pictures(dict(result.triggers[finding.pair])) if seen else {}
    return {
        "finding": finding,
        "large": data_uri(on_grey(dict(result.triggers[finding.pair]))) if seen else None,
        "trigger": {name: data_uri(image) for name, image in trigger.items()},
        "examples": [
            {
                "before": data_uri(before),
                "after": None if changed is None else data_uri(changed),
                "was": titles.label(was),
                "becomes": titles.label(becomes),
            }
            for before, changed, was, becomes in examples
        ],
        "sources": sources[:SOURCES_SHOWN],
        "more_sources": sources[SOURCES_SHOWN:],
    }


def _smallest(result: ScanResult, titles: Titles) -> list[dict[str, Any]]:
    """The smallest triggers where nothing was flagged: what a search finds in such a model."""
    rows = [bar.row for bar in bars(result) if bar.row.size is not None and bar.row.pair in result.triggers]
    return [
        {
            "title": titles.of(row),
            "size": row.size,
            "picture": data_uri(on_grey(dict(result.triggers[row.pair]))),
        }
        for row in rows[:SMALLEST_SHOWN]
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, value if isinstance(value, str) else json.dumps(value)))
    return rows
