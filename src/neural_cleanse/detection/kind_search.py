"""The search of one kind of trigger, in the suspect and in its students, for the tests beside that of patches."""

from collections.abc import Sequence
from dataclasses import dataclass

from neural_cleanse.deadline import OutOfTime
from neural_cleanse.detection.kinds_found import KindFound, Searched, StudentRatios, Unfinished, not_made
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.stages import Stages, Subject
from neural_cleanse.detection.teaching import Teaching, called, name_of
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import LabelPair, Outcome

PARTS = {Kind.FEATURE: "shifts of features", Kind.PAIRS: "one-class patches"}


@dataclass(frozen=True)
class KindSearch:
    """Searches of one kind in one scan."""

    kind: Kind
    prepared: PreparedScan
    stages: Stages
    teaching: Teaching

    def run(
        self, inversion: Inversion, pairs: Sequence[LabelPair], subject: Subject, said: str = ""
    ) -> Searched | Unfinished:
        """The search of all pairs, unless a budget ends it; `said` tells the part from others of the kind."""
        if self.stages.spent():
            return Unfinished()
        planned = round(subject.weight * inversion.passes * len(pairs))
        unit = "labels" if self.kind is Kind.FEATURE else "pairs"
        report = self.stages.report(PARTS[self.kind] + said, planned, len(pairs), unit)
        found = {one.pair: one for one in self.stages.invert(subject, report)(inversion, pairs)}
        searched = Searched(tuple(found[pair] for pair in sorted(found)), subject, inversion)
        done = sum(one.outcome is not Outcome.NOT_SEARCHED for one in searched.found)
        if done == len(pairs):
            return searched
        why = f"the budget was spent after {done:,} of {len(pairs):,} {unit}"
        return Unfinished(searched.image_passes, searched.forward_passes, why)

    def over_student(self, searched: Searched, pairs: Sequence[LabelPair], number: int) -> StudentRatios:
        """Sizes over those in the student of that number; a pair for which it has none counts as very small."""
        student = self.teaching.good_student(self.stages, number)
        if student is None:
            return StudentRatios()
        part = f"{name_of(number)}-{self.kind.value}"
        try:
            subject = self.teaching.subject(student, part, behind_cut=self.kind is Kind.FEATURE)
        except OutOfTime:
            self.stages.tracker.truncated = True
            return StudentRatios()
        if isinstance(subject, str):
            return StudentRatios()
        theirs = self.run(searched.inversion, pairs, subject, f" of {called(number)}")
        if isinstance(theirs, Unfinished):
            return StudentRatios(None, theirs.image_passes, theirs.forward_passes)
        sizes, others = dict(searched.sized), dict(theirs.sized)
        ratios = {pair: sizes[pair] / others[pair] if pair in others else 0.0 for pair in pairs}
        return StudentRatios(ratios, theirs.image_passes, theirs.forward_passes)

    def not_made(self, why: str, searched: Searched | Unfinished | None = None) -> KindFound:
        """The record of a test that could not be made; no more work is planned for it."""
        if searched is None:
            self.stages.work.plan(PARTS[self.kind], 0)
        return not_made(self.kind, why, searched)
