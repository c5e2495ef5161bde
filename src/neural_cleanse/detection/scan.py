"""scan: clean images and a classifier in, a verdict with evidence out. Reads top to bottom as the method does."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import OutOfTime
from neural_cleanse.detection.answer import Parts, answer
from neural_cleanse.detection.combined import combine_kinds
from neural_cleanse.detection.kinds import KindTests
from neural_cleanse.detection.other_starts import search_again
from neural_cleanse.detection.pairs import PairPlan
from neural_cleanse.detection.plans import Search
from neural_cleanse.detection.prepare import PATCHES, PreparedScan, prepare
from neural_cleanse.detection.progress import BudgetTracker, Progress, Work
from neural_cleanse.detection.provenance import RunInfo, identity
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.detection.stages import Stages, Subject
from neural_cleanse.detection.student_test import Compared, compare, no_time
from neural_cleanse.detection.teaching import Teaching
from neural_cleanse.engines import Engine, InProcess
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.checkpoint import Checkpoint
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.results.records import Outcome, Recovered, ScanResult


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
    """Look for backdoors in `classifier` with clean images; labels are optional.

    `baseline` is the scan of a known-clean model with the same classes: trigger sizes are then compared label by label
    with that model, which removes what belongs to the classes and not to the model. `search` is the plan (None: the one
    that the settings name), `inversion` how one label is searched (None: the settings' preset), `engine` is where
    labels are inverted. A `checkpoint` keeps finished labels; labels that it already holds of the same scan are not
    searched again.

    Raises DataError when the images do not fit, InputSanityError when the model cannot read them (unless forced),
    SettingsError on labels that it does not have, OutputError when the checkpoint is of another scan.
    """
    began = time.monotonic()
    if inversion is not None:  # one of the caller's own says how everything is searched
        settings = replace(settings, patches_only=True)
    work = Work(progress, BudgetTracker(settings.budget))
    prepared = prepare(
        classifier, data, settings, work, run_info=run_info, search=search, baseline=baseline, inversion=inversion
    )
    if checkpoint is not None:
        checkpoint.begin({} if work.tracker.exhausted else identity(prepared.provenance, classifier))
    stages = Stages(engine, prepared.batch_limit, work, checkpoint)
    teaching = Teaching(prepared)
    tests = KindTests(prepared, stages, teaching, pair_plan)
    tests.plan()
    teaching.announce(work)
    found = _patches(prepared, stages)
    found, compared = search_again(prepared, found, _compared(prepared, found, teaching, stages), stages)
    said = (*prepared.search.notes(found, cut_off=work.tracker.truncated), *prepared.batch_limit.notes)
    provenance = prepared.provenance.joined({}, (*said, *compared.notes))
    kinds = tests.run(found, compared.decision)
    teaching.dismiss(work, wanted=False)
    decision = combine_kinds(compared.decision, kinds, prepared.doubt)
    last = work.begin("evidence", 0, 0)
    parts = Parts(
        prepared=prepared, found=found, decision=decision, provenance=provenance, compared=compared, kinds=kinds,
        teaching=teaching, tracker=work.tracker,
    )  # fmt: skip
    result = answer(parts, began)
    work.end(last)
    return result


def _patches(prepared: PreparedScan, stages: Stages) -> tuple[Recovered, ...]:
    """The search of every label by the scan's plan; those that the budget left out say so."""
    report, seed = stages.report(PATCHES, prepared.planned, len(prepared.pairs)), prepared.settings.seed
    invert = stages.invert(Subject(prepared.classifier, prepared.images), report)
    for recovered in prepared.search.run(prepared.inversion, prepared.pairs, invert, seed, prepared.rule):
        report.finish(recovered)
    finished = report.finished
    return tuple(finished.get(pair) or Recovered.skipped(pair, Outcome.NOT_SEARCHED) for pair in sorted(prepared.pairs))


def _compared(prepared: PreparedScan, found: Sequence[Recovered], teaching: Teaching, stages: Stages) -> Compared:
    """What a student says of the sizes, as far as there is time for one."""
    decision = prepared.decide(found)
    try:
        compared = compare(prepared, found, decision, teaching, stages)
    except OutOfTime:
        stages.tracker.truncated = True
        compared = no_time(prepared, decision)
    teaching.dismiss(stages.work, wanted=prepared.settings.beyond_patches)
    return compared
