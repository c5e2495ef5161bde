"""Where the sizes alone leave doubt, they are compared with those of students (student.py), searched alike."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from neural_cleanse.deadline import OutOfTime
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.shares import over_share
from neural_cleanse.detection.stages import Stages
from neural_cleanse.detection.statistics.outlier import MANY_LABELS, SCREEN_CLEAR_P, SCREEN_SHARE
from neural_cleanse.detection.students import StudentScan, as_baseline, ask
from neural_cleanse.detection.teaching import MOST_STUDENTS, NO_GOOD_STUDENT, Teaching, why_none
from neural_cleanse.detection.verdict import MIN_LABELS, Decision
from neural_cleanse.inversion.sampling import Split
from neural_cleanse.metrics import attack_hits
from neural_cleanse.results.records import Outcome, Recovered, Verdict
from neural_cleanse.results.student_test import StudentTest
from neural_cleanse.text import p_is, stand, the_labels

FULL = (Outcome.CONVERGED, Outcome.STEP_LIMIT)
# Of alpha: what stands out so clearly among the labels is not called natural. Clean networks with batch norm had p of
# .0011 to .19, Trojan triggers, which survive distillation in part, about .0001.
CLEARLY = 0.05
MOST_RATIO = 0.75  # of the median label: planted triggers had at most .59


@dataclass(frozen=True)
class Compared:
    """What the student said: the decision, what the report says of it, what it took, and the record of it."""

    decision: Decision
    notes: tuple[str, ...] = ()
    image_passes: int = 0
    forward_passes: int = 0
    student_test: StudentTest | None = None


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
    """Where there is doubt, make students, search their labels, and decide by the sizes relative to theirs.

    One student settles what is clear; else up to MOST_STUDENTS are made, and the mean of their log sizes decides, which
    varies less with the seed, against how far they differ. The decision stays as it was where the sizes leave no doubt
    or the budget is spent; a poor student leaves it too, unless few labels were flagged less than clearly.
    """
    if not prepared.settings.student or not leaves_doubt(prepared, found, decision):
        return Compared(decision)
    if stages.tracker.truncated:
        return no_time(prepared, decision)
    consulted = _consult(prepared, found, decision, teaching, stages)
    asked, students = consulted.asked, consulted.students
    passes, forward = sum(one.image_passes for one in asked), sum(one.forward_passes for one in asked)
    if consulted.over is None:
        test = asked[0].test(decides=False) if asked else None
        lacking = () if consulted.lacking is None else (consulted.lacking,)
        return Compared(unconfirmed(decision, prepared), lacking, passes, forward, test)
    baseline = as_baseline(students)
    test = replace(
        students[0].test(decides=True),
        students=len(students),
        sizes={pair.target: size for pair, size in baseline.sizes.items()},
        spread=baseline.prior.sd,
        own_p_value=decision.p_value,
    )
    tried, tried_on = _tried(students[0], found, consulted.over)
    several, which = "a student network", "it"
    if len(students) > 1:
        several, which = f"{len(students)} student networks", "the first"
    notes = (
        f"the sizes alone left doubt ({p_is(decision.p_value)}), so they were compared with those of {several} (the "
        f"same architecture, taught the model's answers on clean images); {which} answers as the model does on "
        f"{students[0].student.agrees_on} of other images",
        *(
            []
            if consulted.lacking is None
            else [f"{consulted.lacking}; {len(students)} of up to {MOST_STUDENTS} decided"]
        ),
        *tried,
    )
    return Compared(consulted.over, notes, passes, forward + tried_on, test)


@dataclass(frozen=True)
class _Consulted:
    """The students that were asked, the good ones among them, the decision by these, and what the last one lacks."""

    asked: tuple[StudentScan, ...]
    students: tuple[StudentScan, ...]
    over: Decision | None
    lacking: str | None


def _consult(
    prepared: PreparedScan,
    found: Sequence[Recovered],
    decision: Decision,
    teaching: Teaching,
    stages: Stages,
) -> _Consulted:
    """Ask one student, and more where it leaves doubt or agrees too seldom to decide alone."""
    asked, students = list[StudentScan](), list[StudentScan]()
    over, lacking = None, None
    teaching.announce(stages.work, range(MOST_STUDENTS))
    for number in range(MOST_STUDENTS):
        one = _ask(prepared, teaching, stages, number)
        lacking = why_none(number, truncated=stages.tracker.truncated) if one is None else one.lacking(len(found))
        asked += [] if one is None else [one]
        if one is None or lacking is not None:
            break
        students.append(one)
        over = _settled(decision, _small_enough(prepared.decide_over(as_baseline(students), found), found), prepared)
        if one.speaks_alone and _is_clear(over, decision, prepared):
            break
    if lacking is not None and not all(one.speaks_alone for one in students):
        over = None
    return _Consulted(tuple(asked), tuple(students), over, lacking)


def _ask(prepared: PreparedScan, teaching: Teaching, stages: Stages, number: int) -> StudentScan | None:
    """The student of that number; None also where time ended while it was asked."""
    try:
        return ask(prepared, teaching, stages, number)
    except OutOfTime:
        stages.tracker.truncated = True
        return None


def _is_clear(over: Decision, own: Decision, prepared: PreparedScan) -> bool:
    """Whether more students would be for nothing: each flagged label's p-value, or the model's, is far from alpha.

    A label that does not stand out by itself asks for more: a student can be an odd one (of a clean network's one label
    had 4e-4 over the first).
    """
    if over.verdict is Verdict.INFECTED:
        flagged = over.flagged_pairs
        by_itself = all(own.p_values.get(pair, 1.0) < SCREEN_CLEAR_P for pair in flagged)
        return by_itself and max(over.p_values[pair] for pair in flagged) <= prepared.settings.alpha * CLEARLY
    return over.verdict is Verdict.CLEAN and (over.p_value or 0) >= over_share(SCREEN_CLEAR_P, prepared.share)


def no_time(prepared: PreparedScan, decision: Decision) -> Compared:
    """What is said where a budget left no time for a student."""
    return Compared(unconfirmed(decision, prepared), (why_none(0, truncated=True),))


def unconfirmed(decision: Decision, prepared: PreparedScan) -> Decision:
    """Few labels flagged less than clearly, and no student to say whether the classes make it so: no verdict.

    With many labels their own sizes say how much they spread.
    """
    clearly = (decision.p_value or 0.0) <= prepared.settings.alpha * CLEARLY
    if decision.verdict is not Verdict.INFECTED or clearly or prepared.num_labels > MANY_LABELS:
        return decision
    reason = f"{decision.reason}; but so small a trigger can belong to the classes, and {NO_GOOD_STUDENT}"
    return replace(decision, verdict=Verdict.INCONCLUSIVE, reason=reason, flagged_pairs=())


def _settled(own: Decision, over: Decision, prepared: PreparedScan) -> Decision:
    """The decision over the student; what stands out among the labels is clean only where the student is clear."""
    own_p, over_p = (1.0 if one.p_value is None else one.p_value for one in (own, over))
    if over.verdict is Verdict.INFECTED:
        return replace(over, reason=f"{over.reason}; relative to a student network")
    if own.verdict is not Verdict.INFECTED or over.verdict is not Verdict.CLEAN:
        return over
    which = the_labels(own.flagged)
    clear_p = over_share(SCREEN_CLEAR_P, prepared.share)
    if over_p < clear_p or own_p <= prepared.settings.alpha * CLEARLY:
        reason = (
            f"{which} {stand(own.flagged)} out among the labels ({p_is(own_p)}), but not clearly relative to a student "
            f"network ({p_is(over_p)}): its small trigger may belong to the classes"
        )
        return replace(over, verdict=Verdict.INCONCLUSIVE, reason=reason)
    natural = f"the small size of {which} belongs to the classes: a student network has it too"
    return replace(over, reason=f"{over.reason}; {natural} ({p_is(over_p)} relative to it)")


def _small_enough(over: Decision, found: Sequence[Recovered]) -> Decision:
    """What is flagged must be smaller than other labels are by nature: an attacker gains nothing by a larger trigger.

    A student may have learnt otherwise than its suspect: one label of a clean network took 1.7 times as much
    as the others and still far less than in three students.
    """
    sizes = {one.pair: one.size for one in found if one.size is not None}
    others = [size for pair, size in sizes.items() if pair not in over.flagged_pairs]
    large = [pair for pair in over.flagged_pairs if others and sizes[pair] > MOST_RATIO * statistics.median(others)]
    if not large:
        return over
    p_values = {**over.p_values, **dict.fromkeys(large, 1.0)}
    kept = tuple(pair for pair in over.flagged_pairs if pair not in large)
    which = the_labels([pair.target for pair in large])
    why = f"less is enough for {which} than in a student network, but it is as much as other labels take here"
    return replace(
        over,
        verdict=Verdict.INFECTED if kept else Verdict.CLEAN,
        reason=f"{over.reason}; {why}" if kept else f"no patch-like backdoor found: {why}",
        flagged_pairs=kept,
        p_values=p_values,
        p_value=min(p_values.values()),
    )


def _tried(asked: StudentScan, found: Sequence[Recovered], decision: Decision) -> tuple[tuple[str, ...], int]:
    """How often the flagged triggers work on a student, and the forward passes that it took to see.

    One that does belongs to the classes, or was passed on.
    """
    notes, passes = [], 0
    for one in found:
        trigger = one.shown.trigger
        if one.pair not in decision.flagged_pairs or trigger is None:
            continue
        rows = asked.images.images[asked.images.eligible(one.pair, Split.TEST)]
        hits = attack_hits(asked.student.classifier, trigger, rows, one.pair.target)
        passes += len(rows)
        notes.append(
            f"the trigger of label {one.pair.target} sends {hits:,} of {len(rows):,} images there in the student"
        )
    return tuple(notes), passes
