"""The students of a scan: each made when a test first asks for it, used by all, its cost counted once."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import OutOfTime
from neural_cleanse.detection.feature_space import feature_space
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.progress import Part, Work
from neural_cleanse.detection.stages import Stages, Subject
from neural_cleanse.detection.student import Student, StudentPlan, make_student, remembered
from neural_cleanse.inversion.sampling import ScanImages, Split
from neural_cleanse.metrics import predict_checked

LESSON, SEARCHED = "training {}", "patches of {}"
MOST_LABELS = 100  # beyond, students are hardly ever asked and none is planned
MOST_STUDENTS = 3
NO_GOOD_STUDENT = "there is no good student network to compare it with"


def seed_of(seed: int, number: int) -> int:
    """The seed of a scan's student: one that nobody trains a model with.

    A student that starts from the suspect's own initial weights, as torch.manual_seed(0) gives them to both, ends near
    the suspect and takes on its backdoor.
    """
    return int.from_bytes(hashlib.sha256(f"student {number} of scan {seed}".encode()).digest()[:7], "big")


def name_of(number: int) -> str:
    """The name of a student's records."""
    return f"student-{number}"


def called(number: int) -> str:
    """A student in words."""
    return "a student network" if number == 0 else f"student network {number + 1}"


def why_none(number: int, *, truncated: bool) -> str:
    """Why there is no student of that number; `truncated`: a budget ended before it."""
    if truncated:
        return f"the budget was spent before {'another' if number else 'a'} student network could be compared with"
    return f"no {'other ' if number else ''}student network could be made of this model to compare it with"


@dataclass
class Teaching:
    """Makes the students of a scan, each once; a checkpoint keeps their weights.

    `image_passes` and `forward_passes` are what that took.
    """

    prepared: PreparedScan
    plan: StudentPlan = field(default_factory=lambda: StudentPlan())
    image_passes: int = 0
    forward_passes: int = 0
    _made: dict[str, Student | None] = field(default_factory=dict)

    def announce(self, work: Work, numbers: Sequence[int] = (0,)) -> None:
        """What students will take, if the sizes leave doubt or another kind of trigger stands out."""
        prepared, settings = self.prepared, self.prepared.settings
        against_sizes = prepared.baseline_sizes is None
        if not settings.student or prepared.doubt or prepared.num_labels > MOST_LABELS:
            return
        for name in map(called, numbers):
            if against_sizes or settings.beyond_patches:
                work.expect(LESSON.format(name), self.plan.passes)
            if against_sizes:
                work.expect(SEARCHED.format(name), prepared.inversion.passes * len(prepared.pairs))

    def dismiss(self, work: Work, *, wanted: bool) -> None:
        """The sizes leave no more doubt; `wanted`: another kind of trigger may still ask for one student."""
        names = [*map(called, range(MOST_STUDENTS))]
        work.drop(*map(SEARCHED.format, names), *map(LESSON.format, names[wanted:]))

    def student(self, stages: Stages, number: int = 0) -> Student | None:
        """The student of that number, from 0 on; None where none can be made, is asked for, or a budget ended it."""
        name = name_of(number)
        if not self.prepared.settings.student:
            return None
        if name not in self._made:
            report = stages.report(LESSON.format(called(number)), self.plan.passes, self.plan.steps, "steps")
            images = self.prepared.images
            unseen = images.images[torch.cat([images.parts[Split.SELECT], images.parts[Split.TEST]])]
            own = images.images[images.parts[Split.OPTIMISE]]
            taught_on = torch.cat([own, self.prepared.others.to(own.device)])
            seed = seed_of(self.prepared.settings.seed, number)
            try:
                made = _remembered(self.prepared.classifier, unseen, name, stages, report)
                if made is None:
                    made = make_student(self.prepared.classifier, taught_on, unseen, seed, self.plan, report.advance)
                    if made is not None and stages.checkpoint is not None:
                        stages.checkpoint.keep(name, made.weights)
            except OutOfTime:
                made = None
            stages.tracker.truncated |= made is None and stages.tracker.exhausted
            self._made[name] = made
            self.image_passes += round(report.done)
            answered = len(taught_on) if report.done else 0  # all of them before the first step
            self.forward_passes += answered + (0 if made is None else 2 * len(unseen))
        return self._made[name]

    def good_student(self, stages: Stages, number: int = 0, least: float | None = None) -> Student | None:
        """The same; None also where it agrees with the suspect on less than `least` (None: to speak alone)."""
        student, least = self.student(stages, number), self.plan.alone if least is None else least
        return student if student is not None and student.agreement >= least else None

    def subject(self, student: Student, part: str, *, behind_cut: bool) -> Subject | str:
        """What a part searches of a student: the network, or what is behind its cut; why there is none.

        Raises OutOfTime after the classifier's deadline.
        """
        images = self.images_of(student.classifier)
        if not behind_cut:
            return Subject(student.classifier, images, part)
        space = feature_space(student.classifier, images, self._spent)
        return space if isinstance(space, str) else Subject(space.classifier, space.images, part, space.share)

    def _spent(self, forward_passes: int) -> None:
        self.forward_passes += forward_passes

    def images_of(self, student: Classifier) -> ScanImages:
        """The scan's images with the student's answers."""
        images = self.prepared.images
        self.forward_passes += len(images.images)
        return replace(images, answers=predict_checked(student, images.images))


def _remembered(
    suspect: Classifier, unseen: UInt8[Tensor, "n c h w"], name: str, stages: Stages, report: Part
) -> Student | None:
    """The student that an earlier run of this scan taught, if there is one; a budget counts it all the same."""
    weights = None if stages.checkpoint is None else stages.checkpoint.tensors(name)
    found = None if weights is None else remembered(suspect, weights, unseen)
    if found is not None:
        report.recall(report.planned)
    return found
