"""The student of a scan: made when a test first asks for it, used by all, its cost counted once."""

from dataclasses import dataclass, field, replace

import torch

from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import OutOfTime
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.stages import Stages
from neural_cleanse.detection.student import Student, StudentPlan, make_student
from neural_cleanse.inversion.sampling import ScanImages, Split
from neural_cleanse.metrics import predict_checked

LESSON = "training a student network, for what leaves doubt"


@dataclass
class Teaching:
    """Makes the student of a scan, once. `image_passes` and `forward_passes` are what that took."""

    prepared: PreparedScan
    plan: StudentPlan = field(default_factory=lambda: StudentPlan())
    image_passes: int = 0
    forward_passes: int = 0
    _made: list[Student | None] = field(default_factory=list)

    def student(self, stages: Stages) -> Student | None:
        """None where none can be made, the scan asks for none, or a spent budget ended it."""
        if not self.prepared.settings.student:
            return None
        if not self._made:
            report = stages.report(LESSON, self.plan.passes, self.plan.steps, "steps")
            images = self.prepared.images
            unseen = images.images[torch.cat([images.parts[Split.SELECT], images.parts[Split.TEST]])]
            own = images.images[images.parts[Split.OPTIMISE]]
            taught_on = torch.cat([own, self.prepared.others.to(own.device)])
            seed = self.prepared.settings.seed
            try:
                made = make_student(self.prepared.classifier, taught_on, unseen, seed, self.plan, report.tick)
            except OutOfTime:
                made = None
            stages.tracker.truncated |= made is None and stages.tracker.spent
            self._made.append(made)
            self.image_passes += round(report.done)
            self.forward_passes += round(report.done) + (0 if made is None else 2 * len(unseen))
        return self._made[0]

    def good_student(self, stages: Stages) -> Student | None:
        """The same; None also where it agrees with the suspect too seldom to say anything."""
        student = self.student(stages)
        return student if student is not None and student.agreement >= self.plan.least_agreement else None

    def images_of(self, student: Classifier) -> ScanImages:
        """The scan's images with the student's answers."""
        images = self.prepared.images
        self.forward_passes += len(images.images)
        return replace(images, answers=predict_checked(student, images.images))
