"""The parts of a scan: each is reported, pays from one budget, and keeps its records apart from those of the others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.progress import BudgetTracker, Part, Work
from neural_cleanse.engines import Engine
from neural_cleanse.inversion.batching import Invert, inverter
from neural_cleanse.inversion.checkpoint import Checkpoint
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.memory import BatchLimit
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.results.records import LabelPair, Recovered


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
class _Weighted:
    """The meter of a part whose image passes run `weight` of the network."""

    report: Part
    weight: float

    def advance(self, image_passes: int) -> bool:
        return self.report.advance(image_passes * self.weight)

    def recall(self, image_passes: int) -> bool:
        return self.report.recall(image_passes * self.weight)

    @property
    def exhausted(self) -> bool:
        return self.report.exhausted

    def mark_truncated(self) -> None:
        self.report.mark_truncated()


@dataclass(frozen=True)
class Stages:
    """Where parts of one scan are reported, and what does their work."""

    engine: Engine
    batch_limit: BatchLimit
    work: Work
    checkpoint: Checkpoint | None = None

    @property
    def tracker(self) -> BudgetTracker:
        """What is left of the budget."""
        return self.work.tracker

    def spent(self) -> bool:
        """Whether the budget lets no more searches begin; that one was left is then known."""
        self.tracker.truncated |= self.tracker.exhausted
        return self.tracker.truncated

    def report(self, name: str, planned: int, count: int, unit: str = "labels") -> Part:
        """Of a part of that name, which takes `planned` image passes for `count` of `unit`."""
        return self.work.begin(name, planned, count, unit)

    def meter(self, subject: Subject, report: Part) -> _Weighted:
        """Tells `report` of a search's image passes in passes of the whole network."""
        return _Weighted(report, subject.weight)

    def invert(self, subject: Subject, report: Part) -> Invert:
        """What searches the labels of `subject`; `report` is told of its image passes, weighted."""

        meter = self.meter(subject, report)
        invert = inverter(self.engine, subject.classifier, subject.images, self.batch_limit, meter)
        if self.checkpoint is not None:
            kept = self.checkpoint if subject.part is None else self.checkpoint.part(subject.part)
            invert = kept.wrap(invert, meter.recall)
        taken: dict[LabelPair, int] = {}

        def counted(
            inversion: Inversion, pairs: Sequence[LabelPair], resume: bool = False, record: bool = True
        ) -> Iterator[Recovered]:
            rest = sum(inversion.passes - (taken.get(pair, 0) if resume else 0) for pair in pairs)
            taken.update(dict.fromkeys(pairs, inversion.passes))
            report.searching(len(pairs), inversion.steps, subject.weight * rest)
            for one in invert(inversion, pairs, resume, record):
                report.searched()
                yield one

        return counted
