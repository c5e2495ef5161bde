"""Where the sizes alone leave doubt, they are compared with those of a student (student.py), searched alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.first_look import MARGIN_IMAGES
from neural_cleanse.detection.input_check import temperature
from neural_cleanse.detection.plans import FullSweep
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.reasons import p_text
from neural_cleanse.detection.shares import over_share
from neural_cleanse.detection.stages import Stages, Subject
from neural_cleanse.detection.statistics.outlier import SCREEN_CLEAR_P, SCREEN_SHARE
from neural_cleanse.detection.teaching import Teaching
from neural_cleanse.detection.verdict import MIN_LABELS, Decision
from neural_cleanse.inversion.sampling import ScanImages, Split
from neural_cleanse.metrics import attack_hits, margin
from neural_cleanse.results.records import LabelPair, Outcome, Recovered, Verdict

SEARCHED = "patches of the student"
FULL = (Outcome.CONVERGED, Outcome.STEP_LIMIT)
# Of alpha: what stands out so clearly among the labels is not called natural. Clean networks with batch norm had p of
# .0011 to .19, Trojan triggers, which survive distillation in part, about .0001.
CLEARLY = 0.05


@dataclass(frozen=True)
class Compared:
    """What the student said: the decision, what the report says of it, what it took, and the record of it."""

    decision: Decision
    notes: tuple[str, ...] = ()
    image_passes: int = 0
    forward_passes: int = 0
    record: dict[str, Any] = field(default_factory=dict)


def leaves_doubt(prepared: PreparedScan, found: Sequence[Recovered], decision: Decision) -> bool:
    """Whether a student is asked: all labels took all steps, and their sizes settle nothing clearly.

    Clearly means as clearly as screening must: a p-value of at most SCREEN_SHARE of alpha, or of SCREEN_CLEAR_P and
    more.
    """
    sized = sum(one.outcome in FULL for one in found)
    if prepared.doubt or prepared.baseline_sizes is not None or sized < max(MIN_LABELS, len(found) - 1):
        return False
    if len(found) < prepared.num_labels or decision.p_value is None:
        return False
    if decision.verdict is Verdict.INFECTED:
        return decision.p_value > prepared.settings.alpha * SCREEN_SHARE
    return decision.verdict is Verdict.INCONCLUSIVE or decision.p_value < over_share(SCREEN_CLEAR_P, prepared.share)


def compare(
    prepared: PreparedScan, found: Sequence[Recovered], decision: Decision, teaching: Teaching, stages: Stages
) -> Compared:
    """Where there is doubt, make a student, search its labels, and decide by the sizes relative to its own.

    The decision stays as it was where the sizes leave no doubt, the budget is spent, or the student is a poor one.
    """
    if not prepared.settings.student or stages.tracker.truncated or not leaves_doubt(prepared, found, decision):
        return Compared(decision)
    student = teaching.student(stages)
    if student is None:
        return Compared(decision, ("no student network could be made of this model, to compare it with",))
    low, high = student.interval
    agreement = f"{student.agreement:.1%} ({low:.1%} to {high:.1%})"
    record = {"agreement": student.agreement, "trials": student.trials, "plan": teaching.plan.describe()}
    searched: dict[LabelPair, Recovered] = {}
    if student.agreement < teaching.plan.least_agreement:
        why = (
            f"a student network answers as the model does on only {agreement} of the images: it takes "
            f"{teaching.plan.least_agreement:.0%} to be compared with"
        )
        return _undecided(decision, why, searched, record)
    images = prepared.images
    theirs, seen = teaching.images_of(student.classifier), images.images[:: -(-len(images.images) // MARGIN_IMAGES)]
    inversion = replace(prepared.inversion, temperature=temperature(margin(student.classifier, seen)))
    teaching.forward_passes += len(seen)
    report = stages.report(SEARCHED, inversion.passes * len(prepared.pairs), len(prepared.pairs))
    invert = stages.invert(Subject(student.classifier, theirs, "student"), report)
    for one in FullSweep().run(inversion, prepared.pairs, invert, prepared.settings.seed):
        searched[one.pair] = one
    sizes = {pair: one.size for pair, one in searched.items() if one.size is not None}
    if len(sizes) < len(found) or any(one.outcome is Outcome.NOT_SEARCHED for one in searched.values()):
        why = f"a student network has a trigger for only {len(sizes)} of {len(found)} labels: it decided nothing"
        return _undecided(decision, why, searched, record)
    over = _settled(decision, prepared.over_student(found, sizes), prepared)
    record |= {"decides": True, "sizes": {str(pair.target): size for pair, size in sizes.items()}}
    record["own_p_value"] = decision.p_value
    notes = (
        "the sizes alone left doubt (p = "
        f"{p_text(decision.p_value or 1.0)}), so they were compared with those of a student: a network of the same "
        f"architecture that learnt the model's answers on clean images and agrees with it on {agreement} of others",
        *_tried(student.classifier, theirs, found, over),
    )
    return Compared(over, notes, *_passes(searched), {"student_test": record})


def _undecided(
    decision: Decision, why: str, searched: Mapping[LabelPair, Recovered], record: dict[str, Any]
) -> Compared:
    """The decision as it was, with a note why."""
    return Compared(decision, (why,), *_passes(searched), {"student_test": record | {"decides": False}})


def _passes(searched: Mapping[LabelPair, Recovered]) -> tuple[int, int]:
    """Image passes and forward passes of a search."""
    taken = searched.values()
    return sum(one.image_passes for one in taken), sum(one.forward_passes for one in taken)


def _settled(own: Decision, over: Decision, prepared: PreparedScan) -> Decision:
    """The decision over the student; what stands out among the labels is clean only where the student is clear."""
    own_p, over_p = own.p_value or 1.0, over.p_value or 1.0
    if over.verdict is Verdict.INFECTED:
        return replace(over, reason=f"{over.reason}; relative to a student network")
    if own.verdict is not Verdict.INFECTED or over.verdict is not Verdict.CLEAN:
        return over
    which = ", ".join(map(str, own.flagged))
    clear_p = over_share(SCREEN_CLEAR_P, prepared.share)
    if over_p < clear_p or own_p <= prepared.settings.alpha * CLEARLY:
        reason = (
            f"label {which} stands out among the labels (p = {p_text(own_p)}), but not clearly relative to a student "
            f"network (p = {p_text(over_p)}): its small trigger may belong to the classes"
        )
        return replace(over, verdict=Verdict.INCONCLUSIVE, reason=reason)
    natural = f"the small trigger of label {which} belongs to the classes: a student network has one as small"
    return replace(over, reason=f"{over.reason}; {natural} (p = {p_text(over_p)} relative to it)")


def _tried(student: Classifier, images: ScanImages, found: Sequence[Recovered], decision: Decision) -> tuple[str, ...]:
    """How often the flagged triggers work on the student: one that does belongs to the classes, or was passed on."""
    notes = []
    for one in found:
        trigger = one.shown.trigger
        if one.pair not in decision.flagged_pairs or trigger is None:
            continue
        rows = images.images[images.eligible(one.pair, Split.TEST)]
        hits = attack_hits(student, trigger, rows, one.pair.target)
        notes.append(
            f"the trigger of label {one.pair.target} sends {hits:,} of {len(rows):,} images there in the student"
        )
    return tuple(notes)
