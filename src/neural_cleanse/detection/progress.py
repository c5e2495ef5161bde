"""How far a scan is, and whether it may go on: one account of all its parts, against what is planned and a budget."""

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from neural_cleanse.deadline import Deadline
from neural_cleanse.results.records import LabelPair, Outcome, Recovered
from neural_cleanse.text import duration

FORWARD = 1 / 3  # of an image pass: about what a pass without its way back takes
PROPORTIONAL = ("images", "outputs", "steps", "maps")  # units that are done in proportion to the passes
SECONDS_BETWEEN_LINES = {True: 0.2, False: 10.0}  # for people, on a terminal and elsewhere
MEASURED_S = 1.0  # of work from which its speed says how long the rest takes


@dataclass(frozen=True)
class Phase:
    """What a scan does now, and how many of its labels, pairs, images or steps are done."""

    name: str = ""
    done: int = 0
    count: int = 0
    unit: str = "labels"

    def __str__(self) -> str:
        return f"{self.name}: {self.done:,} of {self.count:,} {self.unit}" if self.count else self.name


@dataclass(frozen=True)
class Progress:
    """How far a scan is: image passes done of all that it will make as far as is known, and the labels finished so far.

    Passes without a way back count a third. `warnings` are on the form of the input, to be said before the search is
    over. `seconds_left` is by the speed so far; None until it was measured. `at_most` says that more students are
    planned than may be needed. As a string it is the line that is shown.
    """

    passes_done: int
    passes_planned: int
    finished: tuple[Recovered, ...] = field(repr=False)
    num_labels: int
    warnings: tuple[str, ...] = ()
    phase: Phase = Phase()
    seconds_left: float | None = None
    at_most: bool = False

    def __str__(self) -> str:
        said = f"{self.share:4.0%}"
        if self.seconds_left is not None:
            said += f", {'at most' if self.at_most else 'about'} {duration(self.seconds_left)} left"
        return f"{said}, {self.phase}"

    @property
    def share(self) -> float:
        """Of the work that is done, from 0 to 1."""
        return min(1.0, self.passes_done / max(1, self.passes_planned))

    @property
    def news(self) -> tuple[str, bool]:
        """What is said at once when it changes: the phase, and whether it is known how long all will take.

        What follows a comma says with how many steps: some plans go on step by step.
        """
        return self.phase.name.partition(",")[0], self.seconds_left is not None


class Due:
    """Whether a line for people is to be written now: at once where it has news, else now and then."""

    def __init__(self, live: bool) -> None:
        self._between = SECONDS_BETWEEN_LINES[live]
        self._last = -math.inf
        self._told = set[Hashable]()

    def __call__(self, news: Hashable = None) -> bool:
        """`news` is told at once the first time, None never."""
        now, told = time.monotonic(), news is None or news in self._told
        if told and now - self._last < self._between:
            return False
        self._told.add(news)
        self._last = now
        return True

    def forget(self) -> None:
        """Whatever comes is news again."""
        self._told.clear()


@dataclass(frozen=True)
class Budget:
    """What a scan may take in all; None for no bound."""

    seconds: float | None = None
    image_passes: int | None = None


@dataclass
class BudgetTracker:
    """What is left of a budget that all parts of a scan take from; its clock runs from when it is made.

    `truncated` says that work was left when it was exhausted.
    """

    budget: Budget = Budget()
    image_passes: float = 0
    truncated: bool = False
    deadline: Deadline | None = field(init=False)

    def __post_init__(self) -> None:
        self.deadline = None if self.budget.seconds is None else Deadline(self.budget.seconds)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left."""
        passes = self.budget.image_passes
        return (passes is not None and self.image_passes >= passes) or (
            self.deadline is not None and self.deadline.left <= 0
        )


@dataclass
class Part:
    """One part of a scan: `planned` image passes for `count` of `unit`, of which the plan may be wrong.

    What its labels took that are finished says more: a search may stop early.
    """

    work: "Work"
    name: str
    planned: int
    count: int = 0
    unit: str = "labels"
    done: float = 0.0
    begun: bool = False
    ended: bool = False
    finished: dict[LabelPair, Recovered] = field(default_factory=dict)
    _call: Phase | None = None

    def advance(self, image_passes: float) -> bool:
        """Record progress; return whether the budget allows more work."""
        self.done += image_passes
        self.work.tracker.image_passes += image_passes
        self.work.tell(self)
        return not self.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether the budget allows no more work."""
        return self.work.tracker.exhausted

    def mark_truncated(self) -> None:
        """Work was left when the budget was exhausted."""
        self.work.tracker.truncated = True

    def recall(self, image_passes: float) -> bool:
        """So many were done by an earlier run of this scan: they count, and tell nothing of the speed."""
        self.work.recalled += image_passes
        return self.advance(image_passes)

    def looked_at(self, images: int) -> None:
        """So many more images went through the network, without a way back: no budget of image passes counts them."""
        self.reached(images * FORWARD)

    def reached(self, image_passes: float) -> None:
        """So many more passes of a check: no budget of image passes counts them."""
        self.done += image_passes
        self.work.tell(self)

    def finish(self, recovered: Recovered) -> None:
        """One more label is at its end, or one again that was searched further; without a search none is finished."""
        self.finished[recovered.pair] = recovered
        if recovered.outcome is not Outcome.NOT_SEARCHED:
            self.work.finished[recovered.pair] = recovered
        self.work.tell(self)

    def searching(self, count: int, steps: int, passes: float) -> None:
        """A search of so many labels or pairs begins: the first one of the part, or one with other steps.

        It takes so many image passes at most, of which the plan may not have known.
        """
        self.planned = max(self.planned, round(self.done + passes))
        name = self.name if self._call is None else f"{self.name}, {steps:,} steps"
        self._call = Phase(name, 0, count, self.unit)
        self.work.tell(self)

    def searched(self) -> None:
        """One more of that search is done."""
        assert self._call is not None, "a search begins before anything of it is done"
        self._call = Phase(self._call.name, self._call.done + 1, self._call.count, self.unit)
        self.work.tell(self)

    @property
    def phase(self) -> Phase:
        """As far as it is."""
        if self._call is not None:
            return self._call
        share = self.done / self.planned if self.planned and self.unit in PROPORTIONAL else 0.0
        return Phase(self.name, min(self.count, round(share * self.count)), self.count, self.unit)

    @property
    def total(self) -> float:
        """Passes in all, as far as is known now."""
        if self.ended:
            return self.done
        searched = [one.image_passes for one in self.finished.values() if one.image_passes]
        spent, expected = sum(searched), float(self.planned)
        further = self._call is not None and self._call.done < self._call.count and len(self.finished) >= self.count
        if searched and spent <= self.done and not further:  # one with too few images tells nothing of the others
            expected = min(expected, spent + spent / len(searched) * (self.count - len(self.finished)))
        return max(self.done, expected)


@dataclass
class ImageCounter:
    """Reports images that were looked at, and counts them."""

    report: Part
    images: int = 0

    def __call__(self, count: int) -> None:
        self.images += count
        self.report.looked_at(count)


@dataclass
class Work:
    """The parts of a scan, in one account: those that it will certainly make are planned before they begin."""

    report: Callable[[Progress], None]
    tracker: BudgetTracker = field(default_factory=BudgetTracker)
    num_labels: int = 0
    warnings: tuple[str, ...] = ()
    recalled: float = 0.0
    finished: dict[LabelPair, Recovered] = field(default_factory=dict)
    _possible: set[str] = field(default_factory=set)
    _parts: dict[str, Part] = field(default_factory=dict)
    _began: float = field(default_factory=lambda: time.monotonic())

    def plan(self, name: str, passes: int) -> None:
        """A part that will be made, or that will take other passes than was thought: 0 where it will not be made."""
        part = self._parts.setdefault(name, Part(self, name, passes))
        part.planned = passes

    def expect(self, name: str, passes: int) -> None:
        """A part that may be made: planned until it begins, or is known not to."""
        self._possible.add(name)
        self.plan(name, passes)

    def drop(self, *names: str) -> None:
        """Those of the expected parts that have not begun will not."""
        for name in self._possible.intersection(names):
            if not self._parts[name].begun:
                self.plan(name, 0)

    def begin(self, name: str, passes: int, count: int, unit: str = "labels") -> Part:
        """Begin a part; the one before is over."""
        for part in self._parts.values():
            part.ended |= part.begun
        self.plan(name, passes)
        part = self._parts[name]
        part.count, part.unit, part.begun, part.ended = count, unit, True, False
        self.tell(part)
        return part

    def end(self, last: Part) -> None:
        """All is done, the last part too."""
        for part in self._parts.values():
            part.ended = True
        self.tell(last)

    def tell(self, part: Part) -> None:
        """Report how far it is."""
        done = sum(one.done for one in self._parts.values())
        total = sum(one.total for one in self._parts.values())
        most = self.tracker.budget.image_passes
        total = total if most is None else max(done, min(total, most))
        possible = [self._parts[name] for name in self._possible]
        at_most = any(one.begun for one in possible) and any(one.planned and not one.begun for one in possible)
        self.report(
            Progress(
                passes_done=round(done), passes_planned=round(total), finished=tuple(self.finished.values()),
                num_labels=self.num_labels, warnings=self.warnings, phase=part.phase,
                seconds_left=self._seconds_left(done, total), at_most=at_most,
            )
        )  # fmt: skip

    def _seconds_left(self, done: float, total: float) -> float | None:
        elapsed, deadline = time.monotonic() - self._began, self.tracker.deadline
        if done <= self.recalled or elapsed < MEASURED_S:
            return None
        left = elapsed / (done - self.recalled) * (total - done)
        return left if deadline is None else max(0.0, min(left, deadline.left))
