"""The students of a scan, their labels searched as the suspect's were: the sizes that it is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from neural_cleanse.detection.first_look import for_margin
from neural_cleanse.detection.input_check import temperature
from neural_cleanse.detection.plans import FullSweep
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.stages import Stages, Subject
from neural_cleanse.detection.statistics.means import geometric_mean
from neural_cleanse.detection.statistics.outlier import over_several
from neural_cleanse.detection.student import Student, StudentPlan
from neural_cleanse.detection.teaching import SEARCHED, Teaching, called, name_of
from neural_cleanse.detection.verdict import Baseline
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.metrics import margin
from neural_cleanse.results.records import LabelPair, Outcome, Recovered
from neural_cleanse.results.student_test import StudentTest
from neural_cleanse.triggers.base import SMALLEST_SIZE


@dataclass(frozen=True)
class StudentScan:
    """A student, the images with its answers, and what its labels came to; `found` is empty for a poor one."""

    student: Student
    images: ScanImages
    found: Mapping[LabelPair, Recovered]
    plan: StudentPlan

    @property
    def sizes(self) -> dict[LabelPair, float]:
        return {pair: one.size for pair, one in self.found.items() if one.size is not None}

    @property
    def image_passes(self) -> int:
        return sum(one.image_passes for one in self.found.values())

    @property
    def forward_passes(self) -> int:
        return sum(one.forward_passes for one in self.found.values())

    @property
    def speaks_alone(self) -> bool:
        """Whether it agrees often enough to decide without others."""
        return self.student.agreement >= self.plan.alone

    def lacking(self, num_labels: int) -> str | None:
        """Why it decides nothing; None for a good one."""
        if (poor := self.student.lacking(self.plan)) is not None:
            return poor
        searched = sum(one.outcome is not Outcome.NOT_SEARCHED for one in self.found.values())
        if searched < num_labels:
            return (
                f"the budget was spent after {searched} of {num_labels} labels of a student network: it decided nothing"
            )
        if len(self.sizes) < num_labels:
            return (
                f"a student network has a trigger for only {len(self.sizes)} of {num_labels} labels: it decided nothing"
            )
        return None

    def test(self, *, decides: bool) -> StudentTest:
        """The record of what it said, without sizes."""
        return StudentTest(decides, self.student.agreement, self.student.trials, self.plan.describe())


def ask(prepared: PreparedScan, teaching: Teaching, stages: Stages, number: int) -> StudentScan | None:
    """The student of that number, its labels searched as the suspect's were; None where none can be made."""
    student, plan = teaching.student(stages, number), teaching.plan
    if student is None:
        return None
    if student.lacking(plan) is not None:
        return StudentScan(student, prepared.images, {}, plan)
    images = prepared.images
    theirs, seen = teaching.images_of(student.classifier), for_margin(images.images)
    inversion = replace(prepared.inversion, temperature=temperature(margin(student.classifier, seen)))
    teaching.forward_passes += len(seen)
    report = stages.report(SEARCHED.format(called(number)), inversion.passes * len(prepared.pairs), len(prepared.pairs))
    invert = stages.invert(Subject(student.classifier, theirs, name_of(number)), report)
    searched = FullSweep().run(inversion, prepared.pairs, invert, prepared.settings.seed)
    return StudentScan(student, theirs, {one.pair: one for one in searched}, plan)


def as_baseline(students: Sequence[StudentScan]) -> Baseline:
    """The geometric mean of the students' sizes, by label, and how far they differ."""
    sizes = [one.sizes for one in students]
    means = {pair: geometric_mean((each[pair] for each in sizes), SMALLEST_SIZE) for pair in sizes[0]}
    return Baseline(means, over_several([[each[pair] for pair in means] for each in sizes]))
