"""scan: clean images and a classifier in, a verdict with evidence out. Reads top to bottom as the method does."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import torch

from neural_cleanse.classifier import Classifier
from neural_cleanse.data import ImageSet, balanced
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.errors import SettingsError
from neural_cleanse.evidence import gather
from neural_cleanse.inversion import Inversion
from neural_cleanse.metrics import answers
from neural_cleanse.pair_verdict import NUM_TESTS
from neural_cleanse.pairs import PairPlan, check_pairs, scan_pairs
from neural_cleanse.preprocessing import best_form
from neural_cleanse.presets import preset
from neural_cleanse.records import LabelPair, LabelResult, Provenance, Recovered, ScanResult, Verdict
from neural_cleanse.sampling import ScanImages
from neural_cleanse.sanity import InputCheck, check_input, check_labels, check_shape
from neural_cleanse.search import FullSweep, Search
from neural_cleanse.verdict import Judgement, judge


@dataclass(frozen=True)
class ScanSettings:
    """How to scan. `labels` None stands for all; `restarts` None for the preset's own number.

    `pairs` also searches triggers that work from one class alone, once the labels themselves have been searched.
    """

    labels: tuple[int, ...] | None = None
    samples: int = 1000
    preset: str = "default"
    loss: str = "ce"
    restarts: int | None = None
    alpha: float = 0.01
    seed: int = 0
    force: bool = False
    pairs: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise SettingsError(f"alpha must lie between 0 and 1, got {self.alpha}.")
        if self.samples < 1:
            raise SettingsError(f"samples must be at least 1, got {self.samples}.")
        if self.seed < 0:
            raise SettingsError(f"seed must not be negative, got {self.seed}.")


@dataclass(frozen=True)
class Progress:
    """How far a scan is: image passes done of all, and the labels finished so far."""

    passes_done: int
    passes_planned: int
    finished: tuple[Recovered, ...]
    num_labels: int


@dataclass(frozen=True)
class Surroundings:
    """What the caller knows of where model and data come from; it goes into the report as it is."""

    model: Mapping[str, Any] = field(default_factory=dict)
    label_names: tuple[str, ...] | None = None
    command: str | None = None
    notes: tuple[str, ...] = ()


def scan(
    classifier: Classifier,
    data: ImageSet,
    settings: ScanSettings = ScanSettings(),
    *,
    surroundings: Surroundings = Surroundings(),
    search: Search = FullSweep(),
    pair_plan: PairPlan = PairPlan(),
    baseline: ScanResult | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> ScanResult:
    """Look for a patch-like backdoor in `classifier` with clean images; labels are optional.

    `baseline` is the scan of a clean twin, a model known to be clean of the same classes: sizes are then held against
    its sizes, label by label, which removes what belongs to the classes and not to the model.

    Raises DataError when the images do not fit, InputSanityError when the model cannot read them (unless forced),
    SettingsError on labels that it does not have.
    """
    began = time.monotonic()
    check_shape(data, classifier.input_shape)
    check_labels(data, classifier.num_classes)
    pairs = _pairs(settings.labels, classifier.num_classes)
    if settings.pairs:
        check_pairs(classifier.num_classes, len(pairs))
    names = surroundings.label_names or data.names
    twin = None if baseline is None else _sizes_of(baseline, classifier, pairs, names)
    inversion = preset(settings.preset, len(pairs), settings.loss, settings.restarts)
    sampled, sampling = _sample(classifier, data, settings)
    images = ScanImages.of(classifier, sampled, settings.seed)
    checked = check_input(
        images.answers,
        images.labels,
        classifier.num_classes,
        force=settings.force,
        better=lambda: best_form(classifier, sampled.take(torch.cat(list(images.parts.values())))),
    )

    report = _Reporter(progress, inversion.passes, len(pairs))
    for recovered in search.run(inversion, classifier, images, pairs, report.tick):
        report.finish(recovered)
    found = tuple(sorted(report.finished, key=lambda recovered: recovered.pair))

    area = classifier.input_shape[1] * classifier.input_shape[2]
    num_tests = NUM_TESTS if settings.pairs else 1
    judgement = judge(found, settings.alpha, area, checked.doubt, classifier.num_classes, twin, num_tests)
    notes = (*surroundings.notes, *sampling, *checked.warnings, *_twin_notes(baseline, settings))
    provenance = _provenance(classifier, sampled, settings, inversion, surroundings, checked, notes)
    if settings.pairs:
        across = scan_pairs(
            classifier, images, judgement, [pair.target for pair in pairs], alpha=settings.alpha, doubt=checked.doubt,
            loss=settings.loss, plan=pair_plan, expect=lambda count, passes: _Reporter(progress, passes, count),
        )  # fmt: skip
        found, judgement = found + across.found, across.judgement
        provenance = provenance.joined({"pair_search": across.record}, across.notes)
    return ScanResult(
        verdict=judgement.verdict,
        reason=judgement.reason,
        flagged=judgement.flagged,
        p_value=judgement.p_value,
        alpha=settings.alpha,
        detection_limit=judgement.detection_limit,
        image_passes=sum(recovered.image_passes for recovered in found),
        forward_passes=sum(recovered.forward_passes for recovered in found) + len(images.answers),
        wall_s=time.monotonic() - began,
        image_shape=classifier.input_shape,
        labels=_rows(found, judgement, names),
        paper_rule=judgement.paper_rule,
        provenance=provenance,
        evidence=gather(classifier, images, [recovered for recovered in found if recovered.pair in judgement.accused]),
        triggers={
            recovered.pair: {name: tensor.detach().cpu() for name, tensor in recovered.trigger.tensors().items()}
            for recovered in found
            if recovered.trigger is not None
        },
    )


def _sizes_of(
    baseline: ScanResult, classifier: Classifier, pairs: Sequence[LabelPair], names: tuple[str, ...] | None
) -> dict[LabelPair, float]:
    """Sizes by label pair. Raises SettingsError when the baseline is of other classes or images, or not clean."""
    if baseline.image_shape != classifier.input_shape:
        raise SettingsError(f"The baseline is of images {baseline.image_shape}, the model of {classifier.input_shape}.")
    if baseline.verdict is Verdict.INFECTED:
        raise SettingsError("The baseline was found infected: it is no clean twin.")
    theirs = {LabelPair(row.target): row for row in baseline.label_rows}
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


def _twin_notes(baseline: ScanResult | None, settings: ScanSettings) -> tuple[str, ...]:
    if baseline is None:
        return ()
    model = baseline.provenance.model
    said = f"sizes were held against those of a clean twin, {model.get('path', 'unnamed')}"
    known = f"sha256 {str(model.get('sha256', 'unknown'))[:12]}, its own scan: {baseline.verdict.value}"
    notes = [f"{said} ({known}); that it is clean, and of the same classes where they have no names, was not checked"]
    theirs, ours = baseline.provenance.settings, asdict(settings)
    differing = [key for key in ("preset", "loss", "samples") if key in theirs and theirs[key] != ours[key]]
    if differing:
        notes.append(f"the twin was scanned with other settings ({', '.join(differing)})")
    return tuple(notes)


def _pairs(labels: Sequence[int] | None, num_classes: int) -> tuple[LabelPair, ...]:
    if labels is None:
        return tuple(LabelPair(target) for target in range(num_classes))
    outside = sorted({label for label in labels if not 0 <= label < num_classes})
    if outside or not labels:
        raise SettingsError(f"The model has the labels 0 to {num_classes - 1}, not {outside or 'none'}.")
    return tuple(LabelPair(target) for target in sorted(set(labels)))


def _sample(classifier: Classifier, data: ImageSet, settings: ScanSettings) -> tuple[ImageSet, tuple[str, ...]]:
    """At most `samples` different images, balanced by label or by the model's own answers; what was done, in words."""
    different, notes = data.distinct(), []
    if len(different) < len(data):
        # The same image in two parts would let it vouch for what it chose.
        notes.append(f"{len(data) - len(different)} images are repetitions of others and were left out")
    if different.labels is None:
        notes.append("the images have no labels: they were balanced by the model's own answers")
        classes = answers(classifier, different.images)
    else:
        classes = different.labels
    return different.take(balanced(classes, settings.samples, settings.seed)), tuple(notes)


class _Reporter:
    """Collects what the search yields and passes it on to the caller's progress function."""

    def __init__(self, progress: Callable[[Progress], None], passes_a_label: int, num_labels: int) -> None:
        self.finished: list[Recovered] = []
        self._progress, self._passes_a_label, self._num_labels, self._done = progress, passes_a_label, num_labels, 0

    def tick(self, image_passes: int) -> None:
        self._done += image_passes
        self._progress(Progress(self._done, self._planned(), tuple(self.finished), self._num_labels))

    def _planned(self) -> int:
        """Labels that are finished, and as much for each of the others as those took: a search may stop early."""
        spent = [recovered.image_passes for recovered in self.finished]
        a_label = sum(spent) / len(spent) if spent else self._passes_a_label
        return max(self._done, sum(spent) + round(a_label * (self._num_labels - len(spent))))

    def finish(self, recovered: Recovered) -> None:
        self.finished.append(recovered)
        self.tick(0)


def _rows(found: Sequence[Recovered], judgement: Judgement, names: tuple[str, ...] | None) -> tuple[LabelResult, ...]:
    return tuple(
        LabelResult(
            target=recovered.pair.target,
            source=recovered.pair.source,
            name=names[recovered.pair.target] if names and recovered.pair.target < len(names) else None,
            size=recovered.size,
            log_size_sd=recovered.log_size_sd,
            anomaly_index=judgement.anomaly_index.get(recovered.pair),
            p_value=judgement.p_values.get(recovered.pair),
            asr=recovered.asr,
            asr_interval=clopper_pearson(recovered.hits, recovered.trials) if recovered.trials else None,
            outcome=recovered.outcome,
            image_passes=recovered.image_passes,
        )
        for recovered in found
    )


def _provenance(
    classifier: Classifier,
    data: ImageSet,
    settings: ScanSettings,
    inversion: Inversion,
    surroundings: Surroundings,
    checked: InputCheck,
    notes: tuple[str, ...],
) -> Provenance:
    model = {
        **surroundings.model,
        "input_shape": classifier.input_shape,
        "num_classes": classifier.num_classes,
        "pixel_range": [0.0, 1.0],
        "normalisation": str(classifier.normalize),
        "outputs": classifier.outputs.value,
        "device": str(classifier.device),
    }
    return Provenance(
        settings=asdict(settings) | {"inversion": inversion.describe()},
        seed=settings.seed,
        versions={
            "neural-cleanse": version("neural-cleanse"),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": str(torch.get_num_threads()),
        },
        model=model,
        data={
            "origin": data.origin,
            "sha256": data.sha256(),
            "images_used": len(data),
            "labelled": data.labels is not None,
            "clean_accuracy": checked.accuracy,
        },
        notes=notes,
        command=surroundings.command,
    )
