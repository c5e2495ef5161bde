"""scan: clean images and a classifier in, a verdict with evidence out. Reads top to bottom as the method does."""

import time
from collections.abc import Callable, Mapping, Sequence

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.evidence import gather
from neural_cleanse.detection.pairs import PairPlan, scan_pairs
from neural_cleanse.detection.plans import Search
from neural_cleanse.detection.prepare import Ready, prepare
from neural_cleanse.detection.progress import Progress, Purse, Reporter
from neural_cleanse.detection.provenance import Surroundings, identity
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.detection.verdict import Judgement
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.engines import Engine, InProcess
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.batching import Invert, inverter
from neural_cleanse.inversion.checkpoint import Journal
from neural_cleanse.results.records import LabelPair, LabelResult, Outcome, Provenance, Recovered, Refined, ScanResult


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
    ready = prepare(classifier, data, settings, surroundings, search, baseline)
    if journal is not None:
        journal.begin(identity(ready.provenance, classifier))
    purse = Purse(settings.budget)

    def stage(planned: int, count: int) -> tuple[Reporter, Invert]:
        """Where the next part of the work is reported, and what does it."""
        report = Reporter(progress, planned, count, purse)
        invert = inverter(engine, classifier, ready.images, ready.room, report.tick)
        return report, invert if journal is None else journal.remember(invert, report.tick)

    report, invert = stage(ready.search.passes(ready.inversion, len(ready.pairs)), len(ready.pairs))
    for recovered in ready.search.run(ready.inversion, ready.pairs, invert, settings.seed, ready.rule):
        report.finish(recovered)
    found = _all_of(ready.pairs, report.finished)
    judgement = ready.judge(found)
    said = (*ready.search.notes(found, cut_off=purse.refused), *ready.room.notes)
    provenance = ready.provenance.joined({}, said)
    if settings.pairs:
        across = scan_pairs(
            classifier, ready.images, judgement, [pair.target for pair in ready.pairs], alpha=settings.alpha,
            doubt=ready.doubt, loss=settings.loss, temperature=ready.inversion.temperature, plan=pair_plan, stage=stage,
        )  # fmt: skip
        found, judgement = found + across.found, across.judgement
        provenance = provenance.joined({"pair_search": across.record}, across.notes)
    provenance = provenance.joined({}, _budget_notes(purse, found))
    return _result(ready, found, judgement, provenance, cut_off=purse.refused, began=began)


def _result(
    ready: Ready,
    found: Sequence[Recovered],
    judgement: Judgement,
    provenance: Provenance,
    *,
    cut_off: bool,
    began: float,
) -> ScanResult:
    """The answer, with the evidence against whom it accuses."""
    accused = [recovered.shown for recovered in found if recovered.pair in judgement.accused]
    return ScanResult(
        verdict=judgement.verdict,
        reason=judgement.reason,
        flagged=judgement.flagged,
        p_value=judgement.p_value,
        alpha=ready.settings.alpha,
        level=judgement.level,
        detection_limit=judgement.detection_limit,
        image_passes=sum(recovered.image_passes for recovered in found),
        forward_passes=sum(recovered.forward_passes for recovered in found) + ready.forward_passes,
        wall_s=time.monotonic() - began,
        image_shape=ready.classifier.input_shape,
        labels=_rows(found, judgement, ready.names),
        paper_rule=judgement.paper_rule,
        provenance=provenance,
        cut_off=cut_off,
        evidence=gather(ready.classifier, ready.images, accused),
        triggers={
            recovered.pair: {name: tensor.detach().cpu() for name, tensor in trigger.tensors().items()}
            for recovered in found
            if (trigger := recovered.shown.trigger) is not None
        },
    )


def _all_of(pairs: Sequence[LabelPair], finished: Mapping[LabelPair, Recovered]) -> tuple[Recovered, ...]:
    """A record of every pair, in order; those that the budget left out say so."""
    return tuple(finished.get(pair) or Recovered.nothing(pair, Outcome.NOT_SEARCHED) for pair in sorted(pairs))


def _budget_notes(purse: Purse, found: Sequence[Recovered]) -> tuple[str, ...]:
    if not purse.refused:
        return ()
    labels = [one for one in found if one.pair.source is None]
    seen = sum(one.outcome is not Outcome.NOT_SEARCHED for one in labels)
    passes = sum(one.image_passes for one in found)
    return (f"the budget was spent after {passes:,} image passes: {seen} of {len(labels)} labels were looked at",)


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
