"""Backdoors whose trigger may have any shape: a label that inputs reach by a margin far above that in students.

It sees what no size shows: patches as large as the classes differ, and triggers that a student has taken on in part.
A network that was trained for longer than its students can have such a label by nature. So a label is flagged where
another test, of patches or of shifts, finds it small too; else the scan could not tell.
"""

import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import OutOfTime
from neural_cleanse.detection.kind_tester import Earlier
from neural_cleanse.detection.kinds_found import KindFound, Unfinished, charged, not_made
from neural_cleanse.detection.margins import PASSES_PER_LABEL, STARTS, largest_margins
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.reasons import heavy_tailed
from neural_cleanse.detection.shares import SHARES, over_share
from neural_cleanse.detection.stages import Stages
from neural_cleanse.detection.statistics.margins import margin_test
from neural_cleanse.detection.statistics.outlier import LowValues
from neural_cleanse.detection.student import Student
from neural_cleanse.detection.teaching import LESSON, MOST_LABELS, MOST_STUDENTS, Teaching, called, why_none
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import KindRow, KindTest, LabelPair, Verdict
from neural_cleanse.text import p_is

LEAST_LABELS = 4  # fewer are no reference
CLEAR_P = 0.05  # over fewer students than MOST_STUDENTS: of 66 draws of one or two, planted labels had more in one
STANDS_OUT_RATIO = (
    1.25  # of the median label's margin: planted labels had 1.28 and more, and clean ones can gain on students
)
LEAST_STUDENTS = 2  # that differ, so that it is known how far a clean network may lie from them
PART = "largest margins"
OF_STUDENT = PART + " of {}"
NO_TIME = Unfinished().reason
SUPPORT_P = 0.02  # of the other test by itself: a stranger's clean network has .05 for the one label that stands out
UNCONFIRMED = "no small trigger confirms it, and a network that was trained for long can have such a label by nature"
Spent = Callable[[float], None]  # is told what a part of the test took, in image passes


@dataclass(frozen=True)
class MarginTest:
    """The test of one scan."""

    prepared: PreparedScan
    stages: Stages
    teaching: Teaching

    def planned(self) -> dict[str, int]:
        """Those of the suspect's margins."""
        return {PART: 0 if self._impossible() else self._passes}

    def run(self, earlier: Earlier) -> KindFound:
        """Compare the labels' largest margins with those in up to MOST_STUDENTS students, fewer where it is clear.

        Where another test has flagged what it found it is not needed: students cost more than all other tests.
        """
        why = "another test has flagged a label" if earlier.flagged else self._impossible()
        if why is not None:
            self.stages.work.plan(PART, 0)
            return not_made(Kind.MARGIN, why)
        spent: list[float] = []
        try:
            found = self._judged(earlier, spent.append)
        except OutOfTime:
            self.stages.tracker.truncated = True
            found = not_made(Kind.MARGIN, NO_TIME)
        return replace(found, test=charged(found.test, Unfinished(round(sum(spent)))))

    def _impossible(self) -> str | None:
        prepared = self.prepared
        if not prepared.settings.student:
            return "no student networks were asked for"
        if not LEAST_LABELS <= prepared.num_labels <= MOST_LABELS or len(prepared.pairs) < prepared.num_labels:
            return "too few or too many labels, or not all of them are searched"
        return None

    def _judged(self, earlier: Earlier, spent: Spent) -> KindFound:
        """Raises OutOfTime after the deadline."""
        own = self._margins(self.prepared.classifier, PART, spent)
        if own is None:
            return not_made(Kind.MARGIN, NO_TIME)
        large = _large(own)
        if not large:
            return KindFound(self._tested(own, [1.0] * len(own)))
        self._expect_more()
        theirs, lacking = self._of_students(own, large, spent)
        self._expect_no_more()
        if not theirs or lacking is not None:
            return not_made(Kind.MARGIN, lacking or NO_TIME)
        return self._answer(own, large, theirs, self._confirmed(earlier))

    def _of_students(
        self, own: Sequence[float], large: Sequence[int], spent: Spent
    ) -> tuple[list[list[float]], str | None]:
        """The margins of as many students as it takes to tell of the `large` ones, and why they do not do."""
        theirs, alone, lacking = list[list[float]](), True, None
        for number in range(MOST_STUDENTS):
            student = self._student(number)
            if isinstance(student, str):
                lacking = student
                break
            margins = self._margins(student.classifier, OF_STUDENT.format(called(number)), spent)
            if margins is None:
                lacking = NO_TIME
                break
            theirs.append(margins)
            alone &= student.agreement >= self.teaching.plan.alone
            if alone and min(self._test(own, theirs).p_values[index] for index in large) >= CLEAR_P:
                break
        return theirs, None if alone and len(theirs) >= LEAST_STUDENTS else lacking

    def _expect_more(self) -> None:
        """Students beyond the first may be asked."""
        for name in self._later:
            self.stages.work.expect(name, self._passes if name.startswith(PART) else self.teaching.plan.passes)

    def _expect_no_more(self) -> None:
        self.stages.work.drop(*self._later)

    @property
    def _later(self) -> list[str]:
        students = [called(number) for number in range(1, MOST_STUDENTS)]
        return [form.format(one) for one in students for form in (LESSON, OF_STUDENT)]

    @property
    def _passes(self) -> int:
        return PASSES_PER_LABEL * len(self.prepared.pairs)

    def _student(self, number: int) -> Student | str:
        """The student of that number; why there is none to compare with."""
        student = self.teaching.student(self.stages, number)
        if student is None:
            return why_none(number, truncated=self.stages.tracker.truncated)
        return student.lacking(self.teaching.plan) or student

    def _margins(self, classifier: Classifier, part: str, spent: Spent) -> list[float] | None:
        if self.stages.spent():
            return None
        targets = [pair.target for pair in self.prepared.pairs]
        report = self.stages.report(part, self._passes, len(targets))
        at_once = max(STARTS, self.stages.batch_limit.images)
        try:
            found = largest_margins(classifier, targets, self.prepared.settings.seed, at_once, report.advance)
        finally:
            spent(report.done)
        self.stages.tracker.truncated |= found is None
        return found

    def _test(self, own: Sequence[float], theirs: Sequence[Sequence[float]]) -> LowValues:
        return margin_test(own, theirs, self.prepared.settings.alpha * SHARES[Kind.MARGIN])

    def _confirmed(self, earlier: Earlier) -> set[LabelPair]:
        """The labels that another test finds small, of which a patch can be shown.

        Its p-value is SUPPORT_P at most: its own, not over its share.
        """
        tested = [(earlier.decision.p_values, self.prepared.share)]
        for test in (one.test for one in earlier.found if one.test.kind is Kind.FEATURE):
            known = {LabelPair(row.target): row.p_value for row in test.rows if row.p_value is not None}
            tested.append((known, test.share))
        small = {pair for known, share in tested for pair, p in known.items() if p * share <= SUPPORT_P}
        return small & {one.pair for one in earlier.patches if one.shown.trigger is not None}

    def _answer(
        self,
        own: Sequence[float],
        large: Sequence[int],
        theirs: Sequence[Sequence[float]],
        confirmed: Collection[LabelPair],
    ) -> KindFound:
        pairs, test = self.prepared.pairs, self._test(own, theirs)
        share = SHARES[Kind.MARGIN]
        made = self._tested(
            own, [over_share(p, share) if index in large else 1.0 for index, p in enumerate(test.p_values)]
        )
        far = [index for index in test.flagged if index in large]
        if not far or len(theirs) < LEAST_STUDENTS:
            return KindFound(made)
        which = f"margins that inputs reach: {self._named(own, theirs, far)}"
        if test.tail_holds is False:
            reason = heavy_tailed(which, made.p_value, test.tail_p_value)
            return KindFound(replace(made, verdict=Verdict.INCONCLUSIVE, reason=reason))
        reason = f"{which}, {p_is(made.p_value)}"
        flagged = tuple(pairs[index] for index in far if pairs[index] in confirmed)
        if not flagged:
            return KindFound(replace(made, verdict=Verdict.INCONCLUSIVE, reason=f"{reason}; {UNCONFIRMED}"))
        return KindFound(replace(made, verdict=Verdict.INFECTED, reason=reason, flagged=flagged))

    def _tested(self, own: Sequence[float], p_values: Sequence[float]) -> KindTest:
        rows = tuple(
            KindRow(pair.target, None, round(margin, 3), p)
            for pair, margin, p in zip(self.prepared.pairs, own, p_values, strict=True)
        )
        share = SHARES[Kind.MARGIN]
        return KindTest(Kind.MARGIN, share, Verdict.CLEAN, "no label stands out", min(p_values), rows=rows)

    def _named(self, own: Sequence[float], theirs: Sequence[Sequence[float]], far: Sequence[int]) -> str:
        return ", ".join(
            f"label {self.prepared.pairs[index].target} ({own[index]:.1f}, in student networks "
            f"{statistics.fmean(one[index] for one in theirs):.1f})"
            for index in far
        )


def _large(own: Sequence[float]) -> list[int]:
    """The labels that could be flagged: far above the median of all in the suspect itself."""
    middle = statistics.median(own)
    return [index for index, margin in enumerate(own) if middle > 0 and margin >= STANDS_OUT_RATIO * middle]
