"""How far a scan is, and whether it may go on: what is done against what is planned, and against a budget."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from neural_cleanse.results.records import LabelPair, Recovered


@dataclass(frozen=True)
class Progress:
    """How far a scan is: image passes done of all, and the labels finished so far.

    `warnings` are on the form of the input: the same from the first call on, to be said before the search is over.
    """

    passes_done: int
    passes_planned: int
    finished: tuple[Recovered, ...]
    num_labels: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Budget:
    """What a search may take in all; None for no bound."""

    seconds: float | None = None
    image_passes: int | None = None


@dataclass
class BudgetTracker:
    """What is left of a budget that all parts of a scan take from; its clock runs from when it is made.

    `truncated` says that work was left when it was spent.
    """

    budget: Budget = Budget()
    image_passes: int = 0
    truncated: bool = False
    _began: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        passes, seconds = self.budget.image_passes, self.budget.seconds
        return (passes is not None and self.image_passes >= passes) or (
            seconds is not None and time.monotonic() - self._began >= seconds
        )


@dataclass
class Reporter:
    """Collects what a part of the search yields, passes it on to the caller, and pays for it from the budget.

    `planned` is what the plan takes for all `num_labels` labels, in image passes.
    """

    report: Callable[[Progress], None]
    planned: int
    num_labels: int
    tracker: BudgetTracker = field(default_factory=BudgetTracker)
    warnings: tuple[str, ...] = ()
    finished: dict[LabelPair, Recovered] = field(default_factory=dict)
    done: int = 0

    def begin(self) -> None:
        """Tell of the warnings before the first step."""
        if self.warnings:
            self._tell()

    def tick(self, image_passes: int) -> bool:
        """So many more are done: may the search go on? With 0 it asks for more work that there is."""
        self.done += image_passes
        self.tracker.image_passes += image_passes
        self._tell()
        spent = self.tracker.spent
        self.tracker.truncated |= spent and image_passes == 0
        return not spent

    def finish(self, recovered: Recovered) -> None:
        """One more label is finished, or one again that took another look."""
        self.finished[recovered.pair] = recovered
        self._tell()

    def _tell(self) -> None:
        finished = tuple(self.finished.values())
        self.report(Progress(self.done, self._planned(), finished, self.num_labels, self.warnings))

    def _planned(self) -> int:
        """As planned; less where finished labels took less, for a search may stop early."""
        spent = [recovered.image_passes for recovered in self.finished.values()]
        if not spent or sum(spent) > self.done:
            return max(self.done, self.planned)
        left = sum(spent) / len(spent) * (self.num_labels - len(spent))
        return max(self.done, min(self.planned, round(sum(spent) + left)))
