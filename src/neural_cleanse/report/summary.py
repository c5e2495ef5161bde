"""The first screen of a report, for somebody who has never heard of backdoors: one plain sentence and a few facts.

The first sentence is of the trigger shown. Where that was searched further than the other labels, the second one says
what was compared.
"""

import math
import statistics
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from neural_cleanse.report.content import FEW_TO_COMPARE
from neural_cleanse.report.text import Flagged, Titles, flagged
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import LabelResult, ScanResult, Verdict
from neural_cleanse.results.thresholds import LOW_ACCURACY
from neural_cleanse.text import by

LABELS_NAMED = 3  # flagged labels in the sentence
RARE = 1e-6  # chances below are not counted out: nothing that small was ever measured
COMMON = 0.5
WHOLE = 3.0  # times as large, from where on no decimals are said
IF = ", if their trigger sizes spread as the test assumes (normally, on a log scale)"
ANY_CHANGE = "A change that is the same for all images, and no small patch,"
SIMILAR = "networks that learnt the same classes from it: a sign of a backdoor, whatever its trigger."
MISSED = (
    "Also some that were looked for: triggers for one class only, natural-looking changes of the whole image, and what "
    "an attacker builds against such scans."
)
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
    found, titles = flagged(result), Titles(result)
    single = [one for one in found if not one.is_map]
    parts = [_sends_all(one, result) for one in found if one.is_map]
    parts += [_sends(titles, one, result) for one in single[:LABELS_NAMED]]
    more = f" {len(single) - LABELS_NAMED} more labels were flagged." if len(single) > LABELS_NAMED else ""
    sizes = [row.size for row in result.label_rows if row.size is not None]
    in_pixels = [one.row for one in found if one.row.size is not None and not one.by_margin]
    maps = [test.usual_size for test in result.tests if test.kind is Kind.ALL_TO_ALL and test.usual_size]
    usual = ""
    if maps:
        usual = f" For labels drawn at random that takes {maps[0]:.0f} px."
    elif len(sizes) > 1 and in_pixels:
        usual = f" {_usual(in_pixels[0], statistics.median(sizes))}"
    return " ".join(parts) + more + usual


def _usual(row: LabelResult, middle: float) -> str:
    """What a flagged label is compared with. Sizes of fewer steps are a ratio: one label has one size here."""
    if row.refined is None:
        return f"A typical label of this model needs {middle:.0f} px."
    times = middle / row.size if row.size else math.inf
    return f"A typical label of this model needs one {times:.{0 if times >= WHOLE else 1}f} times as large."


def _sends(titles: Titles, one: Flagged, result: ScanResult) -> str:
    row = one.row
    if one.by_margin:
        found = row.shown.size
        shown = "" if found is None else f" The smallest patch found for it takes {_size(found, result)}."
        return f"Inputs can make this model far surer of label {one.title} than {SIMILAR}{shown}"
    whose = "images of any class" if row.source is None else f"images of class {titles.label(row.source)}"
    size = row.shown.size
    trigger = ANY_CHANGE if size is None else f"A small patch ({_size(size, result)})"
    what = f"{trigger} makes this model answer label {titles.label(row.target)}"
    share = "" if row.shown.asr is None else f": it works on {row.shown.asr:.1%} of test images"
    return f"{what} for {whose}{share}."


def _sends_all(one: Flagged, result: ScanResult) -> str:
    """One trigger for all classes, each to a label of its own."""
    row = one.row
    trigger = ANY_CHANGE if row.size is None else f"One small patch ({_size(row.size, result)})"
    share = "" if row.asr is None else f": it works on {row.asr:.1%} of test images"
    return f"{trigger} sends images of {len(one.pairs)} classes each to another label ({one.title}){share}."


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
    return f"a backdoor whose smallest trigger has {_size(result.detection_limit, result)}, or more. {MISSED}"


def doubts(result: ScanResult) -> tuple[str, ...]:
    """Where a verdict of clean is weak, in sentences."""
    if result.verdict is not Verdict.CLEAN:
        return ()
    data, found = result.provenance.data, []
    share, used = data.get("clean_accuracy"), data.get("images_used")
    if not isinstance(share, float):
        found.append("The images have no labels: whether they reach the model in the right form was not measured.")
    elif share < LOW_ACCURACY:
        found.append(f"The model answers only {share:.1%} of the images rightly: they may be in the wrong form.")
    if isinstance(used, int) and used < FEW_IMAGES:
        found.append(f"Only {used:,} images were used: a trigger that needs others was not looked for.")
    area = result.image_shape[1] * result.image_shape[2]
    if result.detection_limit is not None and result.detection_limit < LOW_LIMIT * area:
        found.append(f"Only a patch below {result.detection_limit / area:.1%} of the image would have been seen.")
    sized = sum(row.size is not None for row in result.labels)
    if sized < FEW_TO_COMPARE:
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
