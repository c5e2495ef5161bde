"""What a report says beside its numbers: what was looked for, how sure it is, what is weak, what was not checked.

Page, Markdown and SARIF share these words.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from neural_cleanse.report.text import Titles
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import (
    SCREENED_OUTCOMES,
    LabelResult,
    Outcome,
    ScanResult,
    Verdict,
)
from neural_cleanse.text import p_is

FEW_TO_COMPARE = 10  # to compare with

NO_PATCH = "Triggers that are no patch: warped or filtered images, patterns that depend on the image."
ALL_TO_ALL = "Triggers that send each class to another label (all-to-all)."
CODE = "Code in the model file that acts by itself; neural-cleanse inspect looks for that."
FROM_ONE_CLASS = "Triggers that work from images of one class only."
NATURAL = (
    "Small natural triggers exist: a flagged label is a weakness that anybody can use, whoever put it there. The "
    "recovered trigger is the smallest that works, not a copy of the attacker's: often smaller, paler or shifted."
)


def looked_for(result: ScanResult) -> str:
    """The question that the scan asked."""
    labels, pairs = len(result.label_rows), _count(len(result.pair_rows), "pair")
    what, whose = f"each of {_count(labels, 'label')}", "images of all other classes to it"
    if result.pair_rows:
        from_one = f"each of {pairs} of a source class and a label"
        what = f"{what}, and for {from_one}" if labels else from_one
        whose = f"{whose}, or of that one class" if labels else "images of that class to it"
    return (
        f"For {what}, the smallest patch (a mask and a pattern, the same for every image) that sends {whose}. A label "
        f"whose patch is far smaller than those of the other labels is flagged.{_other_kinds(result)}"
    )


def _other_kinds(result: ScanResult) -> str:
    """The other kinds of trigger that were looked for, as a sentence."""
    made = [test.kind.meaning for test in result.tests if test.verdict is not None and not test.in_table]
    return f" Also: {', '.join(made)}." if made else ""


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def settled_by_screening(result: ScanResult) -> bool:
    """Whether the sizes are those of screening."""
    return any(row.outcome in SCREENED_OUTCOMES for row in result.label_rows)


def under_the_limit(result: ScanResult) -> str:
    """What would have become of one more label under the detection limit."""
    return result.below_limit.value.replace("_", " ")


def limit(result: ScanResult) -> str:
    """The size under which one more label would have been flagged."""
    if result.detection_limit is None:
        return "None: with these sizes no label would have been flagged, however small its trigger."
    area = result.image_shape[1] * result.image_shape[2]
    if settled_by_screening(result):
        return (
            f"{result.detection_limit:.1f} px, {result.detection_limit / area:.1%} of the image, after screening: "
            "sizes are larger then than after all steps. A label that was smaller then would have been "
            f"{under_the_limit(result)}."
        )
    return (
        f"{result.detection_limit:.1f} px, {result.detection_limit / area:.1%} of the image. A label with a smaller "
        f"recovered trigger would have been flagged at alpha {result.alpha:g}; a backdoor with a larger one would not."
    )


def sureness(result: ScanResult) -> str:
    """What the p-value of the whole model says."""
    if result.p_value is None:
        return "No p-value: there is no reference to test against."
    return (
        f"{p_is(result.p_value)}: the chance that a model without a backdoor looks at least this suspicious, where log "
        f"sizes are normal. Alpha, the accepted share of clean models that are flagged, is {result.alpha:g}."
    )


def decided_by(result: ScanResult) -> tuple[str, ...]:
    """How the search led to the verdict, in sentences."""
    found = []
    if settled_by_screening(result):
        level = "no p-value is low enough" if result.level is None else f"p has to be at most {result.level:g}"
        found.append(f"Sizes are those of screening, the same steps for all labels. To flag a patch then, {level}.")
    found += [
        f"The trigger of label {Titles(result).of(row)} was searched further after it was flagged, to "
        f"{row.refined.size:.1f} px. That is the trigger shown; the size compared with the others stays the one above."
        for row in result.labels
        if row.refined is not None
    ]
    if student_sizes(result):
        found.append("Sizes were compared with those of a student network, drawn as hollow points in the chart.")
    elif result.provenance.settings.get("baseline"):
        found.append("Sizes were compared with those of a baseline, label by label.")
    return tuple(found)


def student_sizes(result: ScanResult) -> dict[int, float]:
    """Trigger sizes of the student by label, in px, where it decided; records may be of strangers."""
    test = result.student_test
    if test is None or not test.decides:
        return {}
    return {label: size for label, size in test.sizes.items() if math.isfinite(size) and size > 0}


def checked(result: ScanResult) -> tuple[str, ...]:
    """What the verdict rests on, in sentences."""
    data, classes = result.provenance.data, result.provenance.model.get("num_classes")
    of = f" of a model with {classes:,}" if isinstance(classes, int) else ""
    lines = [f"{_count(len(result.label_rows), 'label')}{of}: {_ends(result.label_rows)}."] if result.label_rows else []
    if result.pair_rows:
        lines.append(f"{_count(len(result.pair_rows), 'pair')}: {_ends(result.pair_rows)}.")
    used = data.get("images_used")
    if isinstance(used, int):
        whose = "their labels" if data.get("labelled") else "no labels: their classes are the model's own answers"
        lines.append(f"With {used:,} images and {whose}.")
    accuracy = data.get("clean_accuracy")
    if isinstance(accuracy, float):
        lines.append(f"The model answers {accuracy:.1%} of them rightly as it was read ({_form(result)}).")
    restarts = _inside(result.provenance.settings, "inversion", "restarts")
    if isinstance(restarts, int):
        searches = "1 search" if restarts == 1 else f"{restarts} independent searches, the smallest trigger counts"
        lines.append(f"A label has {searches}; success is measured on images that no search saw.")
    return tuple(lines)


def _ends(rows: Sequence[LabelResult]) -> str:
    ended = Counter(row.outcome for row in rows)
    return "; ".join(f"{ended[outcome]:,} {outcome.remark}" for outcome in Outcome if ended[outcome])


def not_checked(result: ScanResult) -> tuple[str, ...]:
    """What the verdict does not speak of."""
    any_class = any(row.source is None for row in result.labels)
    classes = result.provenance.model.get("num_classes")
    missing = classes - len({row.target for row in result.labels}) if isinstance(classes, int) else 0
    of_them = "label of the model was" if missing == 1 else "labels of the model were"
    lines = [f"{missing:,} {of_them} not searched."] if missing > 0 else []
    made = {test.kind for test in result.tests if test.verdict is not None}
    lines += [FROM_ONE_CLASS] if any_class and not _one_class(result) else []
    lines += [] if Kind.FEATURE in made else [NO_PATCH]
    lines += [] if Kind.ALL_TO_ALL in made else [ALL_TO_ALL]
    return (*lines, CODE)


def _one_class(result: ScanResult) -> bool:
    """Whether triggers of one class were looked for: rows of pairs say so, as in older records, or their test does."""
    searched = any(row.outcome is not Outcome.NOT_SEARCHED for row in result.pair_rows)
    tests = [test for test in result.tests if test.kind is Kind.PAIRS]
    return searched or any(test.rows or test.verdict in (Verdict.CLEAN, Verdict.INFECTED) for test in tests)


def repeat(result: ScanResult) -> list[tuple[str, str]]:
    """What a repetition needs, most needed first."""
    made = result.provenance
    rows = [
        ("command", made.command),
        ("seed", str(made.seed)),
        ("model", made.model.get("path")),
        ("model sha256", made.model.get("sha256")),
        ("images", made.data.get("origin")),
        ("images sha256", made.data.get("sha256")),
        ("read as", made.model.get("normalisation")),
        ("versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())),
    ]
    return [(name, str(value)) for name, value in rows if value]


def cost(result: ScanResult) -> str:
    """What the scan took."""
    return (
        f"{result.image_passes:,} image passes (one image forward and backward), {result.forward_passes:,} forward "
        f"only, {result.wall_s:.1f} s."
    )


def _form(result: ScanResult) -> str:
    return str(result.provenance.model.get("normalisation", "pixels"))


def _inside(values: Mapping[str, Any], *path: str) -> object:
    found: object = values
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
