"""The first screen of a report, for somebody who has never heard of backdoors: one plain sentence and a few facts.

The first sentence is of the trigger shown. Where that was searched further than the other labels, the second one says
what was compared.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from neural_cleanse.report.content import FEW_LABELS
from neural_cleanse.report.text import POOR_ACCURACY, Titles, flagged_rows
from neural_cleanse.results.records import LabelResult, ScanResult, Verdict
from neural_cleanse.text import by

LABELS_NAMED = 3  # flagged labels in the sentence
RARE = 1e-6  # chances below are not counted out: nothing that small was ever measured
COMMON = 0.5
IF = ", if their trigger sizes spread as the test assumes (normally, on a log scale)"
ANY_CHANGE = "A change that is the same for all images, and no small patch,"
FEW_IMAGES = 200  # an accuracy on fewer is known to some 7 points only
LOW_LIMIT = 0.02  # of the image: the paper's 4x4 squares on 28x28 pixels take that


def plain(result: ScanResult) -> str:
    """The answer in one or two sentences, with the name of the class; why, where there is no answer."""
    if result.verdict is Verdict.INFECTED:
        return _infected(result)
    if result.verdict is Verdict.CLEAN:
        return _clean(result)
    return "The scan found neither that this model has a backdoor nor that it has none."


def _infected(result: ScanResult) -> str:
    titles, flagged = Titles(result), flagged_rows(result)
    mapped = {pair for test in result.tests for pair in test.mapped}
    by_map = [row for row in flagged if row.pair in mapped]
    flagged = tuple(row for row in flagged if row.pair not in mapped)
    parts = [_sends(titles, row, result) for row in flagged[:LABELS_NAMED]]
    parts[:0] = [_sends_all(titles, by_map, result)] if by_map else []
    more = f" {len(flagged) - LABELS_NAMED} more labels were flagged." if len(flagged) > LABELS_NAMED else ""
    sizes = [row.size for row in result.label_rows if row.size is not None]
    in_pixels = [row for row in (*flagged, *by_map) if row.size is not None]
    usual = f" {_usual(in_pixels[0], statistics.median(sizes))}" if len(sizes) > 1 and in_pixels else ""
    return " ".join(parts) + more + usual


def _usual(row: LabelResult, middle: float) -> str:
    """What a flagged label is compared with, at equal steps."""
    if row.refined is None:
        return f"A typical label of this model needs {middle:.0f} px."
    return f"After equal steps it had {row.size:.1f} px, and a typical label {middle:.0f} px."


def _sends(titles: Titles, row: LabelResult, result: ScanResult) -> str:
    whose = "images of any class" if row.source is None else f"images of class {titles.label(row.source)}"
    size = row.shown.size
    trigger = ANY_CHANGE if size is None else f"A small patch ({_size(size, result)})"
    what = f"{trigger} makes this model answer label {titles.label(row.target)}"
    share = "" if row.shown.asr is None else f": it works on {row.shown.asr:.1%} of test images"
    return f"{what} for {whose}{share}."


def _sends_all(titles: Titles, rows: Sequence[LabelResult], result: ScanResult) -> str:
    """One trigger for all classes, each to a label of its own."""
    size, tried = rows[0].size, [row.asr for row in rows if row.asr is not None]
    trigger = ANY_CHANGE if size is None else f"One small patch ({_size(size, result)})"
    named = [f"{titles.label(row.source)} as {titles.label(row.target)}" for row in rows if row.source is not None]
    few = ", ".join(named[:LABELS_NAMED]) + (", and so on" if len(named) > LABELS_NAMED else "")
    share = f": it works on {statistics.fmean(tried):.1%} of test images, mean over classes" if tried else ""
    return f"{trigger} makes this model answer images of {len(rows)} classes each with another label ({few}){share}."


def _clean(result: ScanResult) -> str:
    rows = [row for row in result.label_rows if row.size is not None]
    if not rows:
        return "No label of this model is reached by an unusually small patch."
    smallest = min(rows, key=lambda row: row.size or 0.0)
    middle = statistics.median(row.size or 0.0 for row in rows)
    return (
        "No label of this model is reached by an unusually small patch. The smallest, for label "
        f"{Titles(result).label(smallest.target)}, has {smallest.size:.0f} px; a typical one has {middle:.0f} px."
    )


def _size(size: float, result: ScanResult) -> str:
    return f"{size:.1f} px, {size / (result.image_shape[1] * result.image_shape[2]):.1%} of the image"


def chance(p_value: float | None) -> str:
    """How often a model without a backdoor would look so suspicious, in words."""
    if p_value is None:
        return "Not known: there are too few trigger sizes to compare."
    if p_value < RARE:
        return f"Fewer than 1 in 1,000,000 models without a backdoor would look this suspicious{IF}."
    if p_value >= COMMON:
        return "Nothing stands out: most models without a backdoor look at least this suspicious."
    return f"About 1 in {_rounded(1 / p_value):,} models without a backdoor would look this suspicious{IF}."


def _rounded(value: float) -> int:
    """Two significant digits."""
    digits = max(0, math.floor(math.log10(value)) - 1)
    return int(round(value / 10**digits) * 10**digits)


def facts(result: ScanResult) -> list[tuple[str, str]]:
    """What of model, images and date belongs to the verdict, as (name, value)."""
    made = result.provenance
    rows = [
        ("Model", made.model.get("path")),
        ("SHA-256", made.model.get("sha256")),
        ("Date", date(made.date)),
        ("Clean accuracy", accuracy(made.data)),
        ("How sure", chance(result.p_value)),
        ("Can be missed", _missed(result)),
    ]
    return [(name, str(value)) for name, value in rows if value]


def date(written: object) -> str | None:
    """`2026-11-29 10:15 UTC`; what is no date is not shown."""
    try:
        return datetime.fromisoformat(str(written)).strftime("%Y-%m-%d %H:%M UTC") if written else None
    except ValueError:
        return None


def accuracy(data: Mapping[str, Any]) -> str:
    """On how many images, as the scan read them."""
    share, used = data.get("clean_accuracy"), data.get("images_used")
    if not isinstance(share, float):
        return "not measured, the images have no labels"
    return f"{share:.1%}" + (f" of {used:,} images" if isinstance(used, int) else "")


def _missed(result: ScanResult) -> str:
    if result.detection_limit is None:
        return "any patch, however small: these sizes tell nothing apart"
    return f"a patch recovered at {_size(result.detection_limit, result)}, or more"


def doubts(result: ScanResult) -> tuple[str, ...]:
    """Where a verdict of clean is weak, in sentences."""
    if result.verdict is not Verdict.CLEAN:
        return ()
    data, found = result.provenance.data, []
    share, used = data.get("clean_accuracy"), data.get("images_used")
    if not isinstance(share, float):
        found.append("The images have no labels: whether they reach the model in the right form was not measured.")
    elif share < POOR_ACCURACY:
        found.append(f"The model answers only {share:.1%} of the images rightly: they may be in the wrong form.")
    if isinstance(used, int) and used < FEW_IMAGES:
        found.append(f"Only {used:,} images were used: a trigger that needs others was not looked for.")
    area = result.image_shape[1] * result.image_shape[2]
    if result.detection_limit is not None and result.detection_limit < LOW_LIMIT * area:
        found.append(f"Only a patch below {result.detection_limit / area:.1%} of the image would have been seen.")
    sized = sum(row.size is not None for row in result.labels)
    if sized < FEW_LABELS:
        found.append(f"Only {sized} labels have a trigger size to compare with.")
    if result.paper_rule.flagged:
        which = ", ".join(map(str, result.paper_rule.flagged))
        found.append(f"The paper's rule, which has no fixed rate of false alarms, would have flagged {which}.")
    return tuple(found)


def file_facts(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was found out about the file while it was read, as (name, value)."""
    shape = model.get("input_shape")
    rows = [
        ("format", model.get("container")),
        ("trust", model.get("trust")),
        ("network", model.get("architecture")),
        ("size", f"{model['num_bytes']:,} bytes" if isinstance(model.get("num_bytes"), int) else None),
        ("input", by(shape) if isinstance(shape, list | tuple) else None),
        ("classes", model.get("num_classes")),
        ("outputs", model.get("outputs")),
        ("pixels", model.get("normalisation")),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


def file_issues(model: Mapping[str, Any]) -> list[str]:
    """What in the file would run code, or chooses by the input, in sentences."""
    found = model.get("findings")
    issues = found if isinstance(found, list | tuple) else ()
    return [
        f"{issue.get('place')}: {'would run code: ' if issue.get('runs_code') else ''}{issue.get('what')}"
        for issue in issues
        if isinstance(issue, Mapping)
    ]
