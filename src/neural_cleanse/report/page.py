"""A ScanResult as one self-contained HTML page: no script, no request, every name escaped."""

import base64
import json
from importlib.resources import files
from typing import Any

import jinja2
from jaxtyping import UInt8
from markupsafe import Markup
from torch import Tensor

from neural_cleanse.records import Evidence, LabelPair, RepairResult, RepairStatus, ScanResult
from neural_cleanse.report import repair_words, wording
from neural_cleanse.report.curve import curve
from neural_cleanse.report.pair_table import pair_table
from neural_cleanse.report.pictures import enlargement, png, trigger_pictures
from neural_cleanse.storage import to_json


def html(result: ScanResult, repair: RepairResult | None = None) -> str:
    """The page; with `repair`, what was done stands first and the scan is the one of the model as it is now."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_visible
    )
    template = environment.from_string(files("neural_cleanse.report").joinpath("report.html").read_text("utf-8"))
    names = {row.target: row.name for row in result.labels}
    return template.render(
        result=result,
        repair=None if repair is None else _repair(repair),
        headline=wording.HEADLINE[result.verdict],
        sentence=wording.sentence(result),
        paper=wording.paper_sentence(result),
        bars=wording.bars(result),
        pairs=Markup(pair_table(result).html()) if result.pair_rows else None,
        limit_share=_limit_share(result),
        accused=[_accused(result, evidence, names) for evidence in result.evidence],
        provenance=_flat(to_json(result)["provenance"]),
        title=lambda row: wording.label_title(row.target, row.name),
        number=wording.number,
        p_text=wording.p_text,
        asr_text=wording.asr_text,
        mark=wording.mark,
    )


def _repair(repair: RepairResult) -> dict[str, Any]:
    """What the page shows of a repair. Tables and curve escape what they hold."""
    pruned = [
        [point for point in done.trace if point.method == method]
        for done in repair.rounds
        for method in dict.fromkeys(point.method for point in done.trace if point.method.startswith("pruning"))
    ]
    return {
        "headline": repair_words.HEADLINE[repair.status],
        "good": repair.status is RepairStatus.REPAIRED,
        "sentence": repair_words.sentence(repair),
        "accuracy": repair_words.accuracy_sentence(repair),
        "caution": repair_words.CAUTION,
        "triggers": Markup(repair_words.trigger_table(repair).html()),
        "classes": Markup(repair_words.class_table(repair).html()),
        "tries": Markup(repair_words.try_table(repair).html()),
        "curves": [Markup(curve(points)) for points in pruned],
        "notes": repair.provenance.notes,
        "command": repair.provenance.command,
    }


def _visible(value: object) -> object:
    """Paths and notes may hold what names may: nothing on the page hides or turns the text around it."""
    if isinstance(value, Markup):  # tables and curves of ours, in lines
        return Markup("\n".join(map(wording.visible, value.split("\n"))))
    return wording.visible(value) if isinstance(value, str) else value


def _limit_share(result: ScanResult) -> float | None:
    largest = max((row.size for row in result.label_rows if row.size is not None), default=None)
    if largest is None or result.detection_limit is None or result.detection_limit > largest:
        return None
    return result.detection_limit / largest


def _accused(result: ScanResult, evidence: Evidence, names: dict[int, str | None]) -> dict[str, Any]:
    """What the page shows of one flagged label."""

    def title(label: int) -> str:
        return wording.label_title(label, names.get(label))

    trigger = trigger_pictures(dict(result.triggers[evidence.pair]))
    examples = zip(evidence.before, evidence.after, evidence.answers_before, evidence.answers_after, strict=True)
    return {
        "title": title(evidence.target) + ("" if evidence.source is None else f" from {title(evidence.source)}"),
        "row": next(row for row in result.labels if LabelPair(row.target, row.source) == evidence.pair),
        "trigger": {name: _data_uri(image) for name, image in trigger.items()},
        "examples": [
            {"before": _data_uri(before), "after": _data_uri(after), "was": title(was), "becomes": title(becomes)}
            for before, after, was, becomes in examples
        ],
        "sources": [
            {"title": title(rate.source), "hits": rate.hits, "trials": rate.trials, "share": rate.hits / rate.trials}
            for rate in evidence.by_source
        ],
    }


def _data_uri(image: UInt8[Tensor, "c h w"]) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image, enlargement(image.shape[1]))).decode()


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, value if isinstance(value, str) else json.dumps(value)))
    return rows
