"""How far a scan is, and whether it may go on: what is done against what is planned, and against a budget."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from neural_cleanse.records import Recovered


@dataclass(frozen=True)
class Progress:
    """How far a scan is: image passes done of all, and the labels finished so far."""

    passes_done: int
    passes_planned: int
    finished: tuple[Recovered, ...]
    num_labels: int


@dataclass(frozen=True)
class Budget:
    """What a search may take in all; None for no bound."""

    seconds: float | None = None
    image_passes: int | None = None

    @property
    def bounded(self) -> bool:
        """Whether there is a bound at all."""
        return self.seconds is not None or self.image_passes is not None


@dataclass
class Reporter:
    """Collects what the search yields, passes it on to the caller, and says when the budget is spent.

    `planned` is what the plan takes for all `num_labels` labels, in image passes.
    """

    report: Callable[[Progress], None]
    planned: int
    num_labels: int
    budget: Budget = Budget()
    finished: list[Recovered] = field(default_factory=list)
    spent: bool = False
    done: int = 0
    _began: float = field(default_factory=time.monotonic)

    def tick(self, image_passes: int) -> bool:
        """So many more are done: may the search go on?"""
        self.done += image_passes
        self.report(Progress(self.done, self._planned(), tuple(self.finished), self.num_labels))
        passes, seconds = self.budget.image_passes, self.budget.seconds
        self.spent = (passes is not None and self.done >= passes) or (
            seconds is not None and time.monotonic() - self._began >= seconds
        )
        return not self.spent

    def finish(self, recovered: Recovered) -> None:
        """One more label is finished."""
        self.finished.append(recovered)
        self.tick(0)

    def _planned(self) -> int:
        """As planned; less where finished labels took less, for a search may stop early."""
        spent = [recovered.image_passes for recovered in self.finished]
        if not spent or sum(spent) > self.done:
            return max(self.done, self.planned)
        left = sum(spent) / len(spent) * (self.num_labels - len(spent))
        return max(self.done, min(self.planned, round(sum(spent) + left)))
