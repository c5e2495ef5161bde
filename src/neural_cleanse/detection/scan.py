"""scan: clean images and a classifier in, a verdict with evidence out. Reads top to bottom as the method does."""

import time
from collections.abc import Callable, Mapping, Sequence

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.evidence import gather
from neural_cleanse.detection.pairs import PairPlan, scan_pairs
from neural_cleanse.detection.plans import Search
from neural_cleanse.detection.prepare import PreparedScan, prepare
from neural_cleanse.detection.progress import BudgetTracker, Progress, Reporter
from neural_cleanse.detection.provenance import RunInfo, identity
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.detection.student_test import Compared, compare
from neural_cleanse.detection.verdict import Decision
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.engines import Engine, InProcess
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.batching import Invert, Tick, inverter
from neural_cleanse.inversion.checkpoint import Checkpoint
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.results.records import LabelPair, LabelResult, Outcome, Provenance, Recovered, Refined, ScanResult


def scan(
    classifier: Classifier,
    data: ImageSet,
    settings: ScanSettings = ScanSettings(),
    *,
    run_info: RunInfo = RunInfo(),
    search: Search | None = None,
    inversion: Inversion | None = None,
    pair_plan: PairPlan = PairPlan(),
    engine: Engine = InProcess(),
    baseline: ScanResult | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> ScanResult:
    """Look for a patch-like backdoor in `classifier` with clean images; labels are optional.

    `baseline` is the scan of a known-clean model with the same classes: trigger sizes are then compared label by label
    with that model, which removes what belongs to the classes and not to the model. `search` is the plan (None: the one
    that the settings name), `inversion` how one label is searched (None: the settings' preset), `engine` is where
    labels are inverted. A `checkpoint` keeps finished labels; labels that it already holds of the same scan are not
    searched again.

    Raises DataError when the images do not fit, InputSanityError when the model cannot read them (unless forced),
    SettingsError on labels that it does not have, OutputError when the checkpoint is of another scan.
    """
    began = time.monotonic()
    prepared = prepare(classifier, data, settings, run_info, search, baseline, inversion)
    if checkpoint is not None:
        checkpoint.begin(identity(prepared.provenance, classifier))
    tracker = BudgetTracker(settings.budget)

    def invert_student(student: Classifier, images: ScanImages, tick: Tick) -> Invert:
        invert = inverter(engine, student, images, prepared.batch_limit, tick)
        return invert if checkpoint is None else checkpoint.of_student().wrap(invert, tick)

    def stage(planned: int, count: int) -> tuple[Reporter, Invert]:
        """Where the next part of the work is reported, and what does it."""
        report = Reporter(progress, planned, count, tracker, prepared.warnings)
        invert = inverter(engine, classifier, prepared.images, prepared.batch_limit, report.tick)
        return report, invert if checkpoint is None else checkpoint.wrap(invert, report.tick)

    report, invert = stage(prepared.search.passes(prepared.inversion, len(prepared.pairs)), len(prepared.pairs))
    report.begin()
    for recovered in prepared.search.run(prepared.inversion, prepared.pairs, invert, settings.seed, prepared.rule):
        report.finish(recovered)
    found = _all_of(prepared.pairs, report.finished)
    compared = compare(prepared, found, prepared.decide(found), tracker, stage, invert_student)
    said = (*prepared.search.notes(found, cut_off=tracker.truncated), *prepared.batch_limit.notes)
    provenance = prepared.provenance.joined({}, said).joined(compared.record, compared.notes)
    decision = compared.decision
    if settings.pairs:
        across = scan_pairs(
            classifier, prepared.images, decision, [pair.target for pair in prepared.pairs], alpha=settings.alpha,
            doubt=prepared.doubt, loss=settings.loss, temperature=prepared.inversion.temperature, plan=pair_plan,
            stage=stage,
        )  # fmt: skip
        found, decision = found + across.found, across.decision
        provenance = provenance.joined({"pair_search": across.record}, across.notes)
    provenance = provenance.joined({}, _budget_notes(tracker, found))
    return _result(prepared, found, decision, provenance, compared, cut_off=tracker.truncated, began=began)


def _result(
    prepared: PreparedScan,
    found: Sequence[Recovered],
    decision: Decision,
    provenance: Provenance,
    compared: Compared,
    *,
    cut_off: bool,
    began: float,
) -> ScanResult:
    """The answer, with the evidence against whom it flags."""
    flagged_pairs = [recovered.shown for recovered in found if recovered.pair in decision.flagged_pairs]
    return ScanResult(
        verdict=decision.verdict,
        reason=decision.reason,
        flagged=decision.flagged,
        p_value=decision.p_value,
        alpha=prepared.settings.alpha,
        level=decision.level,
        detection_limit=decision.detection_limit,
        image_passes=sum(recovered.image_passes for recovered in found) + compared.image_passes,
        forward_passes=sum(one.forward_passes for one in found) + prepared.forward_passes + compared.forward_passes,
        wall_s=time.monotonic() - began,
        image_shape=prepared.classifier.input_shape,
        labels=_rows(found, decision, prepared.names),
        paper_rule=decision.paper_rule,
        provenance=provenance,
        cut_off=cut_off,
        evidence=gather(prepared.classifier, prepared.images, flagged_pairs),
        triggers={
            recovered.pair: {name: tensor.detach().cpu() for name, tensor in trigger.tensors().items()}
            for recovered in found
            if (trigger := recovered.shown.trigger) is not None
        },
    )


def _all_of(pairs: Sequence[LabelPair], finished: Mapping[LabelPair, Recovered]) -> tuple[Recovered, ...]:
    """A record of every pair, in order; those that the budget left out say so."""
    return tuple(finished.get(pair) or Recovered.skipped(pair, Outcome.NOT_SEARCHED) for pair in sorted(pairs))


def _budget_notes(tracker: BudgetTracker, found: Sequence[Recovered]) -> tuple[str, ...]:
    if not tracker.truncated:
        return ()
    labels = [one for one in found if one.pair.source is None]
    seen = sum(one.outcome is not Outcome.NOT_SEARCHED for one in labels)
    passes = sum(one.image_passes for one in found)
    return (f"the budget was spent after {passes:,} image passes: {seen} of {len(labels)} labels were searched",)


def _rows(found: Sequence[Recovered], decision: Decision, names: tuple[str, ...] | None) -> tuple[LabelResult, ...]:
    return tuple(
        LabelResult(
            target=recovered.pair.target,
            source=recovered.pair.source,
            name=names[recovered.pair.target] if names and recovered.pair.target < len(names) else None,
            size=recovered.size,
            log_size_sd=recovered.log_size_sd,
            anomaly_index=decision.anomaly_index.get(recovered.pair),
            p_value=decision.p_values.get(recovered.pair),
            asr=recovered.asr,
            asr_interval=_interval(recovered),
            outcome=recovered.outcome,
            image_passes=recovered.image_passes,
            refined=None if recovered.refined is None else _refined(recovered.refined),
        )
        for recovered in found
    )


def _refined(whole: Recovered) -> Refined:
    assert whole.size is not None, "a search without a size refines nothing"
    return Refined(whole.size, whole.log_size_sd, whole.asr, _interval(whole), whole.outcome)


def _interval(recovered: Recovered) -> tuple[float, float] | None:
    return clopper_pearson(recovered.hits, recovered.trials) if recovered.trials else None
