"""The rounds of a repair: mitigate, try the result, and start over with what that found beside what was known.

A result is tried twice: on triggers recovered anew from the model as it came, and by a new scan. Every round starts
from the model as it came. What is measured and scanned is what the model's file will hold, rounded to its kinds of
number. A try that breaks the accuracy floor is rolled back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import SettingsError
from neural_cleanse.mitigation.base import Backdoor, Mitigation, RepairLimits, measure
from neural_cleanse.mitigation.evaluation import KnownTriggers
from neural_cleanse.mitigation.pruning import Pruning
from neural_cleanse.results.records import LabelPair, ScanResult, Verdict
from neural_cleanse.results.repair import Measurement, RepairRound, RepairStatus, TracePoint

# One-sided 5 % of a normal distribution: a label that was found once is one test, not the smallest of many.
RESIDUAL_INDEX = 1.645
MOST_ADDED = 4  # fresh triggers of one pair that join, the strongest: more would leave each too few images


@dataclass(frozen=True)
class RepairPlan:
    """What the rounds work with: `mitigations` in the order in which they are tried, and how to scan again.

    `as_written` gives a classifier as its file will hold it, `backdoors_in` what a scan found for some labels of the
    classifier that it scanned, `fresh` other triggers of the backdoors in the model as it came, by a seed.
    `override_triggers` are mitigated in place of the recovered ones, for comparison; the limits still apply to the
    recovered ones.
    """

    mitigations: Sequence[Mitigation]
    limits: RepairLimits
    rounds: int
    seed: int
    override_triggers: Sequence[Backdoor] | None
    rescan: Callable[[Classifier], ScanResult]
    as_written: Callable[[Classifier], Classifier]
    backdoors_in: Callable[[Classifier, ScanResult, Sequence[int]], tuple[Backdoor, ...]]
    fresh: Callable[[Sequence[Backdoor], int], tuple[Backdoor, ...]]


@dataclass(frozen=True)
class RepairOutcome:
    """How the rounds ended; `classifier` is the one given where nothing could be done."""

    rounds: tuple[RepairRound, ...]
    classifier: Classifier
    known: KnownTriggers
    scan: ScanResult | None
    status: RepairStatus
    reason: str


def run_rounds(classifier: Classifier, known: KnownTriggers, plan: RepairPlan) -> RepairOutcome:
    """Mitigate and try the result until nothing works and nothing is flagged, or the rounds run out."""
    rounds: list[RepairRound] = []
    while True:
        number = len(rounds) + 1
        limits = _told(plan.limits, number)
        tried = _mitigate(classifier, known, replace(plan, limits=limits), number)
        targets = tuple(sorted({backdoor.pair.target for backdoor in known.backdoors}))
        if tried.classifier is None:
            rounds.append(RepairRound(number, targets, None, tried.trace, verdict=None, flagged=()))
            return RepairOutcome(
                tuple(rounds), classifier, known, None, status=RepairStatus.FAILED, reason=_rolled_back(tried, limits)
            )
        done = RepairRound(number, targets, tried.method, tried.trace, verdict=None, flagged=())
        if tried.gives_up:  # neither more triggers nor a scan would change that
            rounds.append(done)
            assert tried.measured is not None
            reason = _working(tried.measured, known, limits)
            return RepairOutcome(
                tuple(rounds), tried.classifier, known, None, status=RepairStatus.FAILED, reason=reason
            )
        limits.on_step("recovering other triggers from the model as it came")
        survival = _survival(tried.classifier, plan.fresh(known.backdoors, plan.seed + number), limits)
        done = replace(done, fresh_tried=survival.tried, fresh_working=survival.working, fresh_worst=survival.worst)
        if survival.survivors and number < plan.rounds:  # a scan would find no less to do
            rounds.append(done)
            known += KnownTriggers.of(survival.survivors, number + 1)
            continue
        limits.on_step("scanning again")
        again = plan.rescan(tried.classifier)
        done = replace(done, verdict=again.verdict, flagged=again.flagged)
        rounds.append(done)
        suspects = _suspects(again, targets)
        if not suspects or number == plan.rounds:
            ended = _ended(tried, known, again, limits, done)
            return RepairOutcome(tuple(rounds), tried.classifier, known, again, *ended)
        known += KnownTriggers.of(plan.backdoors_in(tried.classifier, again, suspects), number + 1)


@dataclass(frozen=True)
class _Survival:
    """Of `tried` fresh triggers how many are `working` more often than they may, the success of the strongest, and the
    strongest of each pair among those that do."""

    tried: int
    working: int
    worst: float
    survivors: tuple[Backdoor, ...]


def _survival(classifier: Classifier, fresh: Sequence[Backdoor], limits: RepairLimits) -> _Survival:
    measured = measure(classifier, fresh, limits.check)
    over: dict[LabelPair, list[tuple[float, Backdoor]]] = {}
    for hits, trials, backdoor in zip(measured.hits, measured.trials, fresh, strict=True):
        if trials and hits / trials > limits.max_asr:
            over.setdefault(backdoor.pair, []).append((hits / trials, backdoor))
    strongest = [sorted(group, key=lambda one: -one[0])[:MOST_ADDED] for group in over.values()]
    survivors = tuple(backdoor for group in strongest for _, backdoor in group)
    return _Survival(len(fresh), sum(map(len, over.values())), measured.worst_asr, survivors)


def _told(limits: RepairLimits, number: int) -> RepairLimits:
    """The same limits, what is said beginning with the round."""
    return replace(limits, on_step=lambda step: limits.on_step(f"round {number}: {step}"))


@dataclass(frozen=True)
class _Tried:
    """The best of what was tried; `dropped_at` is the highest accuracy of what broke the floor.

    `gives_up`: a known trigger still works, and more triggers would not help. `untried` is the mitigation's.
    """

    classifier: Classifier | None
    method: str | None
    measured: Measurement | None
    trace: tuple[TracePoint, ...]
    dropped_at: float = 0.0
    gives_up: bool = False
    untried: str = ""


def _mitigate(classifier: Classifier, known: KnownTriggers, plan: RepairPlan, number: int) -> _Tried:
    """The first mitigation that keeps both bounds, else the one after which the known triggers work least."""
    used = known.backdoors if plan.override_triggers is None else plan.override_triggers
    possible = [one for one in plan.mitigations if not isinstance(one, Pruning) or one.possible(classifier, used)]
    if not possible:
        raise SettingsError(
            "There is nothing to prune: no linear layer has features, or there is no trigger to rank neurons by.",
            cure="Unlearn.",
        )
    best, kept = _Tried(None, None, None, ()), -1
    trace: tuple[TracePoint, ...] = ()
    dropped_at = 0.0
    for mitigation in possible:
        generator = torch.Generator().manual_seed(plan.seed + number)
        mitigated = mitigation(classifier, used, plan.limits, generator)
        trace += mitigated.trace
        if mitigated.classifier is None:
            under = [p.accuracy for p in mitigated.trace if p.amount and p.accuracy < plan.limits.min_accuracy]
            dropped_at = max([dropped_at, *under])
            continue
        plan.limits.on_step("deciding")
        written = plan.as_written(mitigated.classifier)
        measured = measure(written, known.everything, plan.limits.check)
        last = mitigated.trace[-1]
        if measured.accuracy < plan.limits.min_accuracy:  # the file's kinds of number cost too much
            trace += (TracePoint("as the file holds it", last.amount, measured.accuracy, measured.worst_asr),)
            dropped_at = max(dropped_at, measured.accuracy)
            continue
        if best.measured is None or measured.worst_asr < best.measured.worst_asr:
            best = _Tried(written, last.method, measured, (), untried=mitigation.untried)
            kept = len(trace) - len(mitigated.trace) + mitigated.kept % len(mitigated.trace)
        if plan.limits.satisfied(measured):
            break
    works = best.measured is not None and best.measured.worst_asr > plan.limits.max_asr
    gives_up = works and not any(one.gains_from_more for one in possible)
    told = tuple(replace(one, outcome=_outcome(one, plan.limits, number == kept)) for number, one in enumerate(trace))
    return replace(best, trace=told, dropped_at=dropped_at, gives_up=gives_up)


def _outcome(point: TracePoint, limits: RepairLimits, kept: bool) -> str:
    """What became of a try."""
    return "kept" if kept else point.outcome or limits.broken(point) or "set aside for another"


def _suspects(again: ScanResult, known: Sequence[int]) -> tuple[int, ...]:
    """Labels that are flagged now, and those found before that still stand out at the level of a single test."""
    index = {row.target: row.anomaly_index for row in again.labels}
    lingering = {target for target in known if (index.get(target) or 0.0) > RESIDUAL_INDEX}
    return tuple(sorted(lingering | set(again.flagged)))


def _rolled_back(tried: _Tried, limits: RepairLimits) -> str:
    return (
        f"every try was rolled back: the best left a clean accuracy of {tried.dropped_at:.1%} on the images that "
        f"decide, under the floor of {limits.min_accuracy:.1%}"
    )


def _ended(
    tried: _Tried, known: KnownTriggers, again: ScanResult, limits: RepairLimits, last: RepairRound
) -> tuple[RepairStatus, str]:
    """Status and reason when the rounds are over."""
    assert tried.measured is not None
    failing = [_working(tried.measured, known, limits)] if tried.measured.worst_asr > limits.max_asr else []
    rounds = f"after {last.number} round{'s' * (last.number > 1)}"
    if last.fresh_working:
        failing.append(
            f"{rounds} {last.fresh_working} of {last.fresh_tried} triggers recovered anew from the model as it came "
            f"still work, on up to {last.fresh_worst:.1%} of the images that decide, over {limits.max_asr:.1%}"
        )
    if again.flagged:
        labels = ", ".join(map(str, again.flagged))
        failing.append(f"{rounds} a new scan still flags label {labels}")
    if failing:
        return RepairStatus.FAILED, "; ".join(failing)
    scanned = "finds nothing" if again.verdict is Verdict.CLEAN else "flags nothing, though it could not tell for sure"
    of = " for patches alone" if again.provenance.settings.get("patches_only") else ""
    parts = [f"a new scan{of} {scanned}", *([tried.untried] if tried.untried else [])]
    if last.fresh_tried:
        works = f"works on more than {last.fresh_worst:.1%} of them" if last.fresh_worst else "works"
        parts = [f"of {last.fresh_tried} others, recovered anew, none {works}", *parts]
    return RepairStatus.REPAIRED, "; ".join(parts)


def _working(measured: Measurement, known: KnownTriggers, limits: RepairLimits) -> str:
    """Every trigger that still works more often than it may, with numbers."""
    rows = zip(known.everything, measured.hits, measured.trials, strict=True)
    over = [
        f"the trigger of label {backdoor.pair.target} still works on {hits / trials:.1%} ({hits} of {trials})"
        for backdoor, hits, trials in rows
        if trials and hits / trials > limits.max_asr
    ]
    return (
        f"{' and '.join(over)} of the images that decide, over {limits.max_asr:.1%}, and nothing that keeps a clean "
        f"accuracy of {limits.min_accuracy:.1%} brings it lower"
    )
