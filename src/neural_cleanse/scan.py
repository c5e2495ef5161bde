"""scan: clean images and a classifier in, a verdict with evidence out. Reads top to bottom as the method does."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import get_args

import torch

from neural_cleanse.classifier import Classifier
from neural_cleanse.data import ImageSet, balanced
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.engines import Engine, InProcess
from neural_cleanse.errors import SettingsError
from neural_cleanse.evidence import gather
from neural_cleanse.hardware import choose_execution
from neural_cleanse.inversion import Precision
from neural_cleanse.journal import Journal
from neural_cleanse.metrics import answers
from neural_cleanse.pair_verdict import NUM_TESTS
from neural_cleanse.pairs import PairPlan, check_pairs, scan_pairs
from neural_cleanse.preprocessing import best_form
from neural_cleanse.presets import preset
from neural_cleanse.progress import Budget, Progress, Purse, Reporter
from neural_cleanse.provenance import Surroundings, identity, provenance_of
from neural_cleanse.records import LabelPair, LabelResult, Outcome, Recovered, ScanResult
from neural_cleanse.room import room_for
from neural_cleanse.sampling import ScanImages
from neural_cleanse.sanity import check_input, check_labels, check_shape
from neural_cleanse.search import FullSweep, Invert, Ruling, Search, Sequential, plan
from neural_cleanse.slots import inverter
from neural_cleanse.twin import baseline_record, sizes_of, twin_notes
from neural_cleanse.verdict import MIN_LABELS, Judgement, innocence, judge


@dataclass(frozen=True)
class ScanSettings:
    """How to scan. `labels` None stands for all; `restarts` None for the preset's own number.

    `plan` is one of search.PLANS; `max_seconds` and `max_passes` end the search early, with what was reached; `memory`
    is what the process may take, in bytes; `batch_images` are so many in one pass (None: what suits the device).
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
    plan: str = "auto"
    max_seconds: float | None = None
    max_passes: int | None = None
    memory: int | None = None
    batch_images: int | None = None
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise SettingsError(f"alpha must lie between 0 and 1, got {self.alpha}.")
        if self.samples < 1:
            raise SettingsError(f"samples must be at least 1, got {self.samples}.")
        if self.seed < 0:
            raise SettingsError(f"seed must not be negative, got {self.seed}.")
        if self.precision not in get_args(Precision):
            raise SettingsError(f"precision must be {' or '.join(get_args(Precision))}, got {self.precision}.")
        for name in ("max_seconds", "max_passes", "memory", "batch_images"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingsError(f"{name} must be above 0, got {value}.")

    @property
    def budget(self) -> Budget:
        """What the search may take."""
        return Budget(self.max_seconds, self.max_passes)


def scan(
    classifier: Classifier,
    data: ImageSet,
    settings: ScanSettings = ScanSettings(),
    *,
    surroundings: Surroundings = Surroundings(),
    search: Search | None = None,
    pair_plan: PairPlan = PairPlan(),
    engine: Engine = InProcess(),
    baseline: ScanResult | None = None,
    journal: Journal | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> ScanResult:
    """Look for a patch-like backdoor in `classifier` with clean images; labels are optional.

    `baseline` is the scan of a clean twin, a model known to be clean of the same classes: sizes are then held against
    its sizes, label by label, which removes what belongs to the classes and not to the model. `search` is the plan
    (None: the one that the settings name), `engine` where its labels are inverted; a `journal` keeps what is finished,
    and what it already holds of the same scan is not done again.

    Raises DataError when the images do not fit, InputSanityError when the model cannot read them (unless forced),
    SettingsError on labels that it does not have, OutputError when the journal is of another scan.
    """
    began = time.monotonic()
    check_shape(data, classifier.input_shape)
    check_labels(data, classifier.num_classes)
    pairs = _pairs(settings.labels, classifier.num_classes)
    if settings.pairs:
        check_pairs(classifier.num_classes, len(pairs))
    names = surroundings.label_names or data.names
    twin = None if baseline is None else sizes_of(baseline, classifier, pairs, names, surroundings.model.get("sha256"))
    inversion = preset(settings.preset, len(pairs), settings.loss, settings.restarts)
    inversion = replace(inversion, precision=settings.precision)
    sampled, sampling = _sample(classifier, data, settings)
    images = ScanImages.of(classifier, sampled, settings.seed)
    checked = check_input(
        images.answers,
        images.labels,
        classifier.num_classes,
        force=settings.force,
        better=lambda: best_form(classifier, sampled.take(torch.cat(list(images.parts.values())))),
    )
    no_verdict = checked.doubt is not None or len(pairs) < classifier.num_classes or len(pairs) <= MIN_LABELS
    search = search or _plan(settings, len(pairs), over_twin=twin is not None, no_verdict=no_verdict)
    notes = (
        *surroundings.notes,
        *sampling,
        *checked.warnings,
        *([] if baseline is None else twin_notes(baseline, asdict(settings))),
    )
    held = {} if baseline is None else {"baseline": baseline_record(baseline)}
    execution = choose_execution(classifier, inversion, len(pairs), batch_images=settings.batch_images)
    used = held | asdict(settings) | {"inversion": inversion.describe(), "plan": search.describe()}
    used["execution"] = execution.describe()
    provenance = provenance_of(classifier, sampled, used, settings.seed, surroundings, checked.accuracy, notes)

    room = room_for(classifier, inversion, execution.batch_images, settings.memory)
    if journal is not None:
        journal.begin(identity(provenance, classifier))

    purse = Purse(settings.budget)

    def stage(planned: int, count: int) -> tuple[Reporter, Invert]:
        """Where the next part of the work is reported, and what does it."""
        report = Reporter(progress, planned, count, purse)
        invert = inverter(engine, classifier, images, room, report.tick)
        return report, invert if journal is None else journal.remember(invert, report.tick)

    area = classifier.input_shape[1] * classifier.input_shape[2]
    num_tests = NUM_TESTS if settings.pairs else 1

    def judged(found: Sequence[Recovered]) -> Judgement:
        # Labels that were given up early make no yardstick; where none was, all had the same effort.
        given_up = any(one.outcome is Outcome.FIRST_PASS for one in found)
        yardstick = search.yardstick(pairs, settings.seed) if given_up else None
        return judge(found, settings.alpha, area, checked.doubt, classifier.num_classes, twin, yardstick, num_tests)

    def rule(look: Sequence[Recovered]) -> Ruling:
        judgement = judged(look)
        return Ruling(innocence(judgement, look, area), judgement.accused)

    report, invert = stage(search.passes(inversion, len(pairs)), len(pairs))
    for recovered in search.run(inversion, pairs, invert, settings.seed, rule):
        report.finish(recovered)
    found = _all_of(pairs, report.finished)
    judgement = judged(found)
    provenance = replace(provenance, notes=(*notes, *search.notes(found, cut_off=purse.spent), *room.notes))
    if settings.pairs:
        across = scan_pairs(
            classifier, images, judgement, [pair.target for pair in pairs], alpha=settings.alpha, doubt=checked.doubt,
            loss=settings.loss, plan=pair_plan, stage=stage,
        )  # fmt: skip
        found, judgement = found + across.found, across.judgement
        provenance = provenance.joined({"pair_search": across.record}, across.notes)
    provenance = provenance.joined({}, _budget_notes(purse, found))
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
        cut_off=purse.spent,
        evidence=gather(classifier, images, [recovered for recovered in found if recovered.pair in judgement.accused]),
        triggers={
            recovered.pair: {name: tensor.detach().cpu() for name, tensor in recovered.trigger.tensors().items()}
            for recovered in found
            if recovered.trigger is not None
        },
    )


def _plan(settings: ScanSettings, num_labels: int, *, over_twin: bool, no_verdict: bool) -> Search:
    """The plan by name; over a twin all labels get the same effort, as the twin's did.

    Where nothing can be settled, because labels are left out, there is no yardstick or the input is in doubt, a short
    look would be for nothing.
    """
    if over_twin and settings.plan in ("auto", "full"):
        return FullSweep()
    if over_twin:
        raise SettingsError(f"A baseline needs the plan full, not {settings.plan}.")
    found = plan(settings.plan, num_labels, settings.preset)
    return FullSweep() if settings.plan == "auto" and no_verdict and isinstance(found, Sequential) else found


def _all_of(pairs: Sequence[LabelPair], finished: Mapping[LabelPair, Recovered]) -> tuple[Recovered, ...]:
    """A record of every pair, in order; those that the budget left out say so."""
    return tuple(finished.get(pair) or Recovered.nothing(pair, Outcome.NOT_SEARCHED) for pair in sorted(pairs))


def _budget_notes(purse: Purse, found: Sequence[Recovered]) -> tuple[str, ...]:
    if not purse.spent:
        return ()
    labels = [one for one in found if one.pair.source is None]
    seen = sum(one.outcome is not Outcome.NOT_SEARCHED for one in labels)
    passes = sum(one.image_passes for one in found)
    return (f"the budget was spent after {passes:,} image passes: {seen} of {len(labels)} labels were looked at",)


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
            refined_size=recovered.refined_size,
        )
        for recovered in found
    )
