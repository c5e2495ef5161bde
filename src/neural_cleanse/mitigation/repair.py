"""repair: disarm what a scan found, and prove it on images that decided nothing. Reads top to bottom.

    split the images in three: to learn from, to decide on, to report on
    repeat at most `rounds` times:
        mitigate all triggers known so far, starting from the model as it came
        recover other triggers from the model as it came, on the images that decide; those that still work join
        scan again on the images that decide; new triggers of flagged and of lingering labels join
    measure before and after on the images that report

A model is never made worse: a mitigation that breaks the accuracy floor is rolled back, which leaves it as it came.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from neural_cleanse.checks import expect_fields, expect_seed
from neural_cleanse.choices import Labels, Method, Plan
from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.baseline import check_baseline
from neural_cleanse.detection.input_check import check_labels, check_shape
from neural_cleanse.detection.progress import Progress
from neural_cleanse.detection.provenance import RunInfo, now
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings, asked_for
from neural_cleanse.errors import DataError, SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import eligible_rows, predict
from neural_cleanse.mitigation.base import Backdoor, Mitigation, RepairLimits, measure
from neural_cleanse.mitigation.evaluation import (
    KnownTriggers,
    Splits,
    certainty,
    check_eligible,
    class_changes,
    split,
    trigger_changes,
)
from neural_cleanse.mitigation.family import fresh_triggers
from neural_cleanse.mitigation.loop import RepairOutcome, RepairPlan, run_rounds
from neural_cleanse.mitigation.notes import (
    baseline_notes,
    check_chosen,
    expect_triggers,
    few_images,
    how,
    nothing_to_repair,
    of_labels,
)
from neural_cleanse.mitigation.pruning import Pruning
from neural_cleanse.mitigation.shifts import backdoors_of
from neural_cleanse.mitigation.unlearning import Unlearning
from neural_cleanse.results.provenance import Provenance
from neural_cleanse.results.records import ScanResult
from neural_cleanse.results.repair import RepairResult, RepairStatus

ROUNDING = 1e-6  # shares are float32: what is just at a bound keeps it
METHODS: Mapping[str, tuple[Mitigation, ...]] = {
    Method.UNLEARN: (Unlearning(),),
    Method.PRUNE: (Pruning(),),
    Method.AUTO: (Unlearning(), Pruning()),
}


@dataclass(frozen=True)
class RepairSettings:
    """How to repair. `labels` is "flagged", "all", or numbers of labels; `max_drop` and `max_asr` are bounds in [0, 1].

    `with_triggers` None stands for the recovered ones, as a user has them; others serve comparison: the attacker's own,
    or none at all, which is plain fine-tuning.
    """

    method: str = Method.AUTO.value
    labels: str | tuple[int, ...] = Labels.FLAGGED.value
    max_drop: float = 0.02
    max_asr: float = 0.02
    rounds: int = 3
    seed: int = 0
    with_triggers: tuple[Backdoor, ...] | None = None

    def __post_init__(self) -> None:
        expect_fields(self)
        if self.method not in METHODS:
            raise SettingsError(
                f"There is no method {self.method!r}; the names are {', '.join(METHODS)}.", cure="Choose one of them."
            )
        check_chosen(self.labels)
        if not (0 <= self.max_drop < 1 and 0 <= self.max_asr < 1):
            raise SettingsError(
                f"Bounds lie in [0, 1), got max_drop {self.max_drop} and max_asr {self.max_asr}.",
                cure="Choose them like 0.02.",
            )
        if self.rounds < 1:
            raise SettingsError(f"rounds must be at least 1, got {self.rounds}.", cure="Give a positive number.")
        expect_seed(self.seed)


@dataclass(frozen=True)
class Repaired:
    """The classifier afterwards (the one given, where nothing could be done), the record, and a new scan of it."""

    classifier: Classifier
    result: RepairResult
    scan: ScanResult | None


def repair(
    classifier: Classifier,
    result: ScanResult,
    data: ImageSet,
    settings: RepairSettings = RepairSettings(),
    *,
    baseline: ScanResult | None = None,
    verify: Sequence[Backdoor] = (),
    run_info: RunInfo = RunInfo(),
    as_written: Callable[[Classifier], Classifier] = lambda changed: changed,
    on_step: Callable[[str], None] = lambda _: None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Repaired:
    """Remove the backdoors that `result` found in `classifier` with clean images; labels are optional.

    `baseline` is the baseline scan that `result` was compared with, if any: the new scan uses it too. `verify` are the
    attacker's own triggers where they are known: measured before and after, used for nothing else. `as_written` gives a
    classifier as its file will hold it, rounded to its number formats. `on_step` is called with each step in words.
    Raises DataError when images do not fit or are too few, SettingsError on impossible bounds.
    """
    began = time.monotonic()
    _check(classifier, result, data, baseline, run_info)
    notes = [*baseline_notes(result, baseline)]
    if data.labels is None:
        notes.append("the images have no labels: the model's own answers stand for them, accuracy is agreement with it")
        data = replace(data, labels=predict(classifier, data.images))
    images = split(data, settings.seed)
    notes += few_images(len(images.decide))
    found = backdoors_of(classifier, result, of_labels(settings.labels, result), images=images, seed=settings.seed)
    expect_triggers(settings.labels, found)
    check_eligible(found, images)
    limits = replace(_limits(classifier, found, images, settings), on_step=on_step)
    known, idle = _known(classifier, found, limits)
    notes += idle
    again = partial(_rescan, given=result, data=images.decide, run_info=run_info, baseline=baseline, progress=progress)
    if known.backdoors:
        outcome = run_rounds(classifier, known, _plan(classifier, settings, limits, images, again, as_written))
    else:
        why = nothing_to_repair(settings.labels, result, found, limits.max_asr)
        outcome = RepairOutcome(
            rounds=(), classifier=classifier, known=known, scan=None, status=RepairStatus.NOTHING_TO_REPAIR, reason=why
        )
    notes += how(len(outcome.rounds), settings.with_triggers)
    triggers = trigger_changes(classifier, outcome.classifier, outcome.known, images.report, result)
    sure = f"{certainty(triggers, limits.max_asr)}; " if outcome.status is RepairStatus.REPAIRED else ""
    record = RepairResult(
        status=outcome.status,
        reason=sure + outcome.reason,
        max_drop=settings.max_drop,
        max_asr=settings.max_asr,
        triggers=triggers,
        verified=trigger_changes(classifier, outcome.classifier, KnownTriggers.of(verify, 0), images.report, result),
        classes=class_changes(classifier, outcome.classifier, images.report, result),
        rounds=outcome.rounds,
        num_images={"learn": len(images.learn), "decide": len(images.decide), "report": len(images.report)},
        wall_s=time.monotonic() - began,
        provenance=_provenance(data, settings, run_info, tuple(notes), result),
    )
    return Repaired(outcome.classifier, record, outcome.scan)


def _plan(
    classifier: Classifier,
    settings: RepairSettings,
    limits: RepairLimits,
    images: Splits,
    again: Callable[[Classifier], ScanResult],
    as_written: Callable[[Classifier], Classifier],
) -> RepairPlan:
    """What the rounds work with; triggers that the repair never saw are recovered with images that it decides on."""
    return RepairPlan(
        mitigations=METHODS[settings.method],
        limits=limits,
        rounds=settings.rounds,
        seed=settings.seed,
        override_triggers=settings.with_triggers,
        rescan=again,
        as_written=as_written,
        backdoors_in=partial(backdoors_of, images=images, seed=settings.seed),
        fresh=lambda backdoors, seed: fresh_triggers(classifier, backdoors, images.decide, seed),
    )


def _check(
    classifier: Classifier, result: ScanResult, data: ImageSet, baseline: ScanResult | None, run_info: RunInfo
) -> None:
    check_shape(data, classifier.input_shape)
    check_labels(data, classifier.num_classes)
    if result.image_shape != classifier.input_shape:
        raise DataError(
            f"The scan is of images {result.image_shape}, the model takes {classifier.input_shape}.",
            cure="Scan this model first.",
        )
    if baseline is not None:
        check_baseline(baseline, classifier, run_info.label_names or data.names)


def _known(
    classifier: Classifier, found: Sequence[Backdoor], limits: RepairLimits
) -> tuple[KnownTriggers, tuple[str, ...]]:
    """The triggers, those apart that are within the bound before anything is done; and a note on each of these."""
    measured = measure(classifier, found, limits.check)
    working, idle, notes = [], [], []
    for backdoor, hits, trials in zip(found, measured.hits, measured.trials, strict=True):
        if hits / trials > limits.max_asr:
            working.append(backdoor)
            continue
        idle.append(backdoor)
        notes.append(
            f"the trigger recovered for label {backdoor.pair.target} never worked on the images that decide "
            f"({hits} of {trials}, bound {limits.max_asr:.1%}): nothing was repaired for it"
        )
    return KnownTriggers(tuple(working), (1,) * len(working), tuple(idle)), tuple(notes)


def _limits(
    classifier: Classifier, backdoors: Sequence[Backdoor], images: Splits, settings: RepairSettings
) -> RepairLimits:
    """Bounds relative to the model as it came: its accuracy, and how often it says the targets without any trigger."""
    decide = images.decide
    assert decide.labels is not None
    answers = predict(classifier, decide.images)
    natural = [0.0]
    for backdoor in backdoors:
        rows = eligible_rows(decide.labels, backdoor.pair)
        natural.append((answers[rows] == backdoor.pair.target).float().mean().item() if len(rows) else 0.0)
    min_accuracy = measure(classifier, (), decide).accuracy - settings.max_drop - ROUNDING
    return RepairLimits(images.learn, decide, min_accuracy, settings.max_asr + max(natural) + ROUNDING)


def _rescan(
    classifier: Classifier,
    *,
    given: ScanResult,
    data: ImageSet,
    run_info: RunInfo,
    baseline: ScanResult | None,
    progress: Callable[[Progress], None],
) -> ScanResult:
    """A new scan as the one `given`. Its record has the settings that were asked for, and the command that made it."""
    before = {"repaired_from": run_info.model.get("sha256")}
    here = RunInfo(before, run_info.label_names, run_info.command, date=run_info.date and now())
    settings = _scan_settings(given, over_baseline=baseline is not None)
    found = scan(classifier, data, settings, run_info=here, baseline=baseline, progress=progress)
    asked = {"force": asked_for(given.provenance).force}
    return replace(found, provenance=found.provenance.joined(asked, ()))


def _scan_settings(given: ScanResult, *, over_baseline: bool) -> ScanSettings:
    """The new scan is done as the one that was given, but over all labels and to its end.

    The images were read before, by the model as it came. A baseline leaves no choice of a plan.
    """
    asked = asked_for(given.provenance)
    plan = Plan.AUTO.value if over_baseline else asked.plan
    unbound = replace(asked, max_seconds=None, max_passes=None, memory=None, batch_images=None)
    return replace(unbound, labels=None, plan=plan, force=True)


def _provenance(
    data: ImageSet, settings: RepairSettings, run_info: RunInfo, notes: tuple[str, ...], result: ScanResult
) -> Provenance:
    return replace(
        result.provenance,
        settings={key: value for key, value in asdict(settings).items() if key != "with_triggers"},
        seed=settings.seed,
        model={**result.provenance.model, **run_info.model},
        data={"origin": data.origin, "sha256": data.sha256(), "images_given": len(data)},
        notes=(*run_info.notes, *notes),
        command=run_info.command,
        date=run_info.date,
    )
