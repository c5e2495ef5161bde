"""The parts of a scan: each is reported, pays from one budget, and keeps its records apart from those of the others."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.progress import BudgetTracker, Progress, Reporter
from neural_cleanse.engines import Engine
from neural_cleanse.inversion.batching import Invert, Tick, inverter
from neural_cleanse.inversion.checkpoint import Checkpoint
from neural_cleanse.inversion.memory import BatchLimit
from neural_cleanse.inversion.sampling import ScanImages


@dataclass(frozen=True)
class Subject:
    """What a part searches: a network, its images, the name of its records (None: the scan's own).

    `weight` is how much of the whole network's work one of its passes takes.
    """

    classifier: Classifier
    images: ScanImages
    part: str | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Stages:
    """Where parts of one scan are reported, and what does their work."""

    engine: Engine
    batch_limit: BatchLimit
    tracker: BudgetTracker
    progress: Callable[[Progress], None]
    checkpoint: Checkpoint | None = None
    warnings: tuple[str, ...] = ()
    _reports: list[Reporter] = field(default_factory=list)

    def report(self, planned: int, count: int) -> Reporter:
        """Of a part that takes `planned` image passes for `count` labels or pairs; it goes on from the part before."""
        report = Reporter(self.progress, planned, count, self.tracker, self.warnings)
        if self._reports:
            last = self._reports[-1]
            report = replace(
                report,
                planned=last.done + planned,
                num_labels=len(last.finished) + count,
                finished=dict(last.finished),
                done=last.done,
            )
        self._reports.append(report)
        return report

    def invert(self, subject: Subject, tick: Tick) -> Invert:
        """What searches the labels of `subject`; `tick` is told of its image passes, weighted."""

        def weighted(image_passes: int) -> bool:
            return tick(round(image_passes * subject.weight))

        invert = inverter(self.engine, subject.classifier, subject.images, self.batch_limit, weighted)
        if self.checkpoint is None:
            return invert
        kept = self.checkpoint if subject.part is None else self.checkpoint.part(subject.part)
        return kept.wrap(invert, weighted)
