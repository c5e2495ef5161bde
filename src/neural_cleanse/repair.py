"""repair: disarm what a scan found, and prove it on images that decided nothing. Reads top to bottom.

    split the images in three: to learn from, to decide on, to report on
    repeat at most `rounds` times:
        mitigate all triggers known so far, starting from the model as it came
        scan again on the images that decide; new triggers of flagged and of lingering labels join
    measure before and after on the images that report

A model is never made worse: a mitigation that breaks the accuracy floor is rolled back, which leaves it as it came.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from neural_cleanse.before_after import (
    FEW_DECIDE,
    Known,
    ThreeParts,
    check_victims,
    class_changes,
    split,
    trigger_changes,
)
from neural_cleanse.classifier import Classifier
from neural_cleanse.data import ImageSet
from neural_cleanse.errors import DataError, OutputError, SettingsError
from neural_cleanse.metrics import answers, victims
from neural_cleanse.mitigation.base import Backdoor, Mitigation, Terms, known_backdoors, measure
from neural_cleanse.mitigation.pruning import Pruning
from neural_cleanse.mitigation.unlearning import Unlearning
from neural_cleanse.records import (
    Measurement,
    Provenance,
    RepairResult,
    RepairRound,
    RepairStatus,
    ScanResult,
    TracePoint,
    Verdict,
)
from neural_cleanse.sanity import check_labels, check_shape
from neural_cleanse.scan import Progress, ScanSettings, Surroundings, scan

# One-sided 5 % of a normal distribution: a label that was found once is one test, not the smallest of many.
LINGERING_INDEX = 1.645
ROUNDING = 1e-6  # shares are float32: what is just at a bound keeps it
METHODS: Mapping[str, tuple[Mitigation, ...]] = {
    "unlearn": (Unlearning(),),
    "prune": (Pruning("convolution"), Pruning("features")),
    "auto": (Unlearning(), Pruning("convolution"), Pruning("features")),
}


@dataclass(frozen=True)
class RepairSettings:
    """How to repair. `labels` is "flagged" or "all"; `max_drop` and `max_asr` are bounds in [0, 1].

    `with_triggers` None stands for the recovered ones, as a user has them; others serve comparison: the attacker's own,
    or none at all, which is plain fine-tuning.
    """

    method: str = "auto"
    labels: str = "flagged"
    max_drop: float = 0.02
    max_asr: float = 0.02
    rounds: int = 3
    seed: int = 0
    with_triggers: tuple[Backdoor, ...] | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingsError(f"There is no method {self.method!r}; the names are {', '.join(METHODS)}.")
        if self.labels not in ("flagged", "all"):
            raise SettingsError(f"Labels are flagged or all, not {self.labels!r}.")
        if not (0 <= self.max_drop < 1 and 0 <= self.max_asr < 1):
            raise SettingsError(f"Bounds lie in [0, 1), got max_drop {self.max_drop} and max_asr {self.max_asr}.")
        if self.rounds < 1 or self.seed < 0:
            raise SettingsError(f"At least one round and no negative seed, got {self.rounds} and {self.seed}.")


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
    verify: Sequence[Backdoor] = (),
    surroundings: Surroundings = Surroundings(),
    progress: Callable[[Progress], None] = lambda _: None,
) -> Repaired:
    """Disarm the backdoors that `result` found in `classifier` with clean images; labels are optional.

    `verify` are triggers that are known to be the attacker's: they decide nothing and are measured before and after.
    Raises DataError when the images do not fit or are too few, SettingsError on bounds that make no sense.
    """
    began = time.monotonic()
    check_shape(data, classifier.input_shape)
    check_labels(data, classifier.num_classes)
    if result.image_shape != classifier.input_shape:
        raise DataError(f"The scan is of images {result.image_shape}, the model takes {classifier.input_shape}.")
    notes = [f"rounds start from the model as it came; {_said(settings)}"]
    if data.labels is None:
        notes.append("the images have no labels: the model's own answers stand for them, accuracy is agreement with it")
        data = replace(data, labels=answers(classifier, data.images))
    images = split(data, settings.seed)
    if len(images.decide) < FEW_DECIDE:
        notes.append(
            f"only {len(images.decide)} images decide: the attacker's own trigger may survive; give more images"
        )
    found = known_backdoors(result, None if settings.labels == "all" else result.flagged)
    first = Known.of(found, 1)
    if found:
        outcome = _rounds(classifier, result, first, images, settings, surroundings, progress)
    else:
        what = "flagged no label" if settings.labels == "flagged" else "has no trigger for any label"
        nothing = f"the scan {what}: there is nothing to repair"
        outcome = _Outcome((), classifier, first, None, RepairStatus.NOTHING_TO_REPAIR, nothing)
    record = RepairResult(
        status=outcome.status,
        reason=outcome.reason,
        max_drop=settings.max_drop,
        max_asr=settings.max_asr,
        triggers=trigger_changes(classifier, outcome.classifier, outcome.known, images.report, result),
        verified=trigger_changes(classifier, outcome.classifier, Known.of(verify, 0), images.report, result),
        classes=class_changes(classifier, outcome.classifier, images.report, result),
        rounds=outcome.rounds,
        num_images={"learn": len(images.learn), "decide": len(images.decide), "report": len(images.report)},
        wall_s=time.monotonic() - began,
        provenance=_provenance(data, settings, surroundings, tuple(notes), result),
    )
    return Repaired(outcome.classifier, record, outcome.scan)


def _said(settings: RepairSettings) -> str:
    if settings.with_triggers is None:
        return "the recovered trigger is not the attacker's, only the smallest that works"
    return f"for comparison: {len(settings.with_triggers)} given triggers in the place of the recovered ones"


@dataclass(frozen=True)
class _Outcome:
    rounds: tuple[RepairRound, ...]
    classifier: Classifier
    known: Known
    scan: ScanResult | None
    status: RepairStatus
    reason: str


def _rounds(
    classifier: Classifier,
    result: ScanResult,
    known: Known,
    images: ThreeParts,
    settings: RepairSettings,
    surroundings: Surroundings,
    progress: Callable[[Progress], None],
) -> _Outcome:
    """Mitigate and scan again until nothing is flagged, or the rounds run out."""
    check_victims(known.backdoors, images)
    terms = _terms(classifier, known.backdoors, images, settings)
    rounds: list[RepairRound] = []
    while True:
        number = len(rounds) + 1
        used = known.backdoors if settings.with_triggers is None else settings.with_triggers
        tried = _mitigate(classifier, used, known.backdoors, terms, settings, number)
        targets = tuple(sorted({backdoor.pair.target for backdoor in known.backdoors}))
        if tried.classifier is None:
            rounds.append(RepairRound(number, targets, None, tried.trace, None, ()))
            reason = f"every try broke the accuracy floor of {terms.floor:.1%} and was rolled back"
            return _Outcome(tuple(rounds), classifier, known, None, RepairStatus.FAILED, reason)
        here = Surroundings({"repaired_from": surroundings.model.get("sha256")}, surroundings.label_names)
        again = scan(tried.classifier, images.decide, _scan_settings(result), surroundings=here, progress=progress)
        rounds.append(RepairRound(number, targets, tried.method, tried.trace, again.verdict, again.flagged))
        suspects = _suspects(again, {one.pair.target for one in known.backdoors if one.pair.source is None})
        if not suspects or number == settings.rounds:
            return _Outcome(tuple(rounds), tried.classifier, known, again, *_ended(tried, again, terms, number))
        known += Known.of(known_backdoors(again, suspects), number + 1)


@dataclass(frozen=True)
class _Tried:
    classifier: Classifier | None
    method: str | None
    measured: Measurement | None
    trace: tuple[TracePoint, ...]


def _suspects(again: ScanResult, known: Collection[int]) -> tuple[int, ...]:
    """Labels that are flagged now, and those found before that still stand out at the level of a single test."""
    index = {row.target: row.anomaly_index for row in again.label_rows}
    lingering = {target for target in known if (index.get(target) or 0.0) > LINGERING_INDEX}
    return tuple(sorted(lingering | set(again.flagged)))


def _ended(tried: _Tried, again: ScanResult, terms: Terms, number: int) -> tuple[RepairStatus, str]:
    """Status and reason when the rounds are over."""
    assert tried.measured is not None
    if again.flagged:
        labels = ", ".join(map(str, again.flagged))
        return RepairStatus.FAILED, f"after {number} round{'s' * (number > 1)} a new scan still flags label {labels}"
    if not terms.hold(tried.measured):
        rate = f"{tried.measured.worst_asr:.1%} of the images, above {terms.max_asr:.1%}"
        return (
            RepairStatus.FAILED,
            f"a recovered trigger still works on {rate}, and more would break the accuracy floor",
        )
    said = "finds nothing" if again.verdict is Verdict.CLEAN else "flags nothing, though it could not tell for sure"
    return RepairStatus.REPAIRED, f"no known trigger works any more, and a new scan {said}"


def _terms(
    classifier: Classifier, backdoors: Sequence[Backdoor], images: ThreeParts, settings: RepairSettings
) -> Terms:
    """Bounds relative to the model as it came: its accuracy, and how often it says the targets without any trigger."""
    decide = images.decide
    assert decide.labels is not None
    said = answers(classifier, decide.images)
    natural = [0.0]
    for backdoor in backdoors:
        rows = victims(decide.labels, backdoor.pair)
        natural.append((said[rows] == backdoor.pair.target).float().mean().item() if len(rows) else 0.0)
    floor = measure(classifier, (), decide).accuracy - settings.max_drop - ROUNDING
    return Terms(images.learn, decide, floor, settings.max_asr + max(natural) + ROUNDING)


def _mitigate(
    classifier: Classifier,
    used: Sequence[Backdoor],
    known: Sequence[Backdoor],
    terms: Terms,
    settings: RepairSettings,
    number: int,
) -> _Tried:
    """The first mitigation that keeps both bounds, else the one after which the known triggers work least."""
    best = _Tried(None, None, None, ())
    trace: tuple[TracePoint, ...] = ()
    possible = [
        one for one in METHODS[settings.method] if not isinstance(one, Pruning) or one.possible(classifier, used)
    ]
    if not possible:
        raise SettingsError(
            "There is nothing to prune: the network has no linear layer, or no trigger ranks its neurons.",
            cure="Unlearn.",
        )
    for mitigation in possible:
        generator = torch.Generator().manual_seed(settings.seed + number)
        mitigated = mitigation(classifier, used, terms, generator)
        trace += mitigated.trace
        if mitigated.classifier is None:
            continue
        measured = measure(mitigated.classifier, known, terms.check)
        if best.measured is None or measured.worst_asr < best.measured.worst_asr:
            best = _Tried(mitigated.classifier, mitigated.trace[-1].method, measured, trace)
        if terms.hold(measured):
            break
    return replace(best, trace=trace)


def _scan_settings(result: ScanResult) -> ScanSettings:
    """The new scan is done as the one that was given, over all labels."""
    given = result.provenance.settings
    names = ("samples", "preset", "loss", "restarts", "alpha", "seed", "pairs")
    known = {name: given[name] for name in names if name in given}
    try:
        return ScanSettings(**known, force=True)  # these images were read before, by the model as it came
    except TypeError as error:
        raise OutputError(f"The scan is damaged: its settings {known} are none.") from error


def _provenance(
    data: ImageSet, settings: RepairSettings, surroundings: Surroundings, notes: tuple[str, ...], result: ScanResult
) -> Provenance:
    return replace(
        result.provenance,
        settings={key: value for key, value in asdict(settings).items() if key != "with_triggers"},
        seed=settings.seed,
        model={**result.provenance.model, **surroundings.model},
        data={"origin": data.origin, "sha256": data.sha256(), "images_given": len(data)},
        notes=(*surroundings.notes, *notes),
        command=surroundings.command,
    )
