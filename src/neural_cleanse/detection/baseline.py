"""A baseline: the scan of a model that is known to be clean, of the same classes, that sizes are compared with."""

from collections.abc import Mapping, Sequence
from typing import Any

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import SettingsError
from neural_cleanse.results.records import SCREENED_OUTCOMES, LabelPair, Outcome, ScanResult, Verdict


def sizes_of(
    baseline: ScanResult,
    classifier: Classifier,
    pairs: Sequence[LabelPair],
    names: tuple[str, ...] | None,
    model_sha256: object = None,
) -> dict[LabelPair, float]:
    """Sizes by label pair; the caller says that the baseline is clean, whatever its own scan says.

    Raises SettingsError when it is of other classes or images, or of the model itself, whose file has `model_sha256`.
    """
    if model_sha256 is not None and baseline.provenance.model.get("sha256") == model_sha256:
        raise SettingsError(
            "The baseline is a scan of the same model file; it must be a different model.",
            cure="Scan another model of the same classes, one that is known to be clean.",
        )
    if baseline.image_shape != classifier.input_shape:
        raise SettingsError(
            f"The baseline is of images {baseline.image_shape}, the model of {classifier.input_shape}.",
            cure="Scan a clean model with the same input size as the baseline.",
        )
    if any(row.outcome in (*SCREENED_OUTCOMES, Outcome.FIRST_PASS) for row in baseline.labels):
        raise SettingsError(
            "The baseline stopped after screening: its sizes cannot be compared with those of a full search.",
            cure="Scan the baseline with --plan full.",
        )
    theirs = {row.pair: row for row in baseline.labels}
    lacking = [str(pair.target) for pair in pairs if pair not in theirs]
    if lacking or max(pair.target for pair in theirs) >= classifier.num_classes:
        raise SettingsError(
            f"The baseline has {len(theirs)} labels, the model {classifier.num_classes}"
            + (f"; not in the baseline: {', '.join(lacking[:10])}." if lacking else "."),
            cure="Scan all labels of a clean model of the same classes.",
        )
    for pair in pairs:
        name = theirs[pair].name
        if names is not None and name is not None and name != names[pair.target]:
            raise SettingsError(
                f"Label {pair.target} is {name!r} in the baseline and {names[pair.target]!r} in the model.",
                cure="Scan a clean model of the same classes in the same order.",
            )
    return {pair: row.size for pair, row in theirs.items() if row.size}


def check_baseline(baseline: ScanResult, classifier: Classifier, names: tuple[str, ...] | None) -> None:
    """Raise SettingsError unless the scan of a baseline fits a scan of all labels of `classifier` that it searched.

    Outputs that it left out as unused are taken to be unused here too.
    """
    unused = baseline.provenance.settings.get("unused_outputs", ())
    labels = [label for label in range(classifier.num_classes) if label not in unused]
    sizes_of(baseline, classifier, [LabelPair(target) for target in labels], names)


def baseline_record(baseline: ScanResult) -> dict[str, Any]:
    """Which baseline a scan was compared with, as its settings tell."""
    return {key: baseline.provenance.model.get(key) for key in ("path", "sha256")}


def baseline_entry(baseline: ScanResult | None, settings: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the record and the report say of a baseline, if there is one."""
    if baseline is None:
        return {}, ()
    return {"baseline": baseline_record(baseline)}, baseline_notes(baseline, settings)


def baseline_notes(baseline: ScanResult, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What a report says of it; `settings` are those of the scan at hand."""
    model = baseline.provenance.model
    said = f"sizes were compared with those of a baseline, {model.get('path', 'unnamed')}"
    known = f"sha256 {str(model.get('sha256', 'unknown'))[:12]}, its own scan: {baseline.verdict.value}"
    notes = [f"{said} ({known}); that it is clean, and of the same classes where they have no names, was not checked"]
    if baseline.verdict is Verdict.INFECTED:
        which = ", ".join(map(str, baseline.flagged))
        notes.append(
            f"the baseline's own scan flagged label {which}: it was taken as clean all the same, as whoever gives a "
            "baseline says that it is; a backdoor that both have would not be seen"
        )
    theirs = baseline.provenance.settings
    differing = [key for key in ("preset", "loss", "samples") if key in theirs and theirs[key] != settings[key]]
    if differing:
        notes.append(f"the baseline was scanned with other settings ({', '.join(differing)})")
    return tuple(notes)
