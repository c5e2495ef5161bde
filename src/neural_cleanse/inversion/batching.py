"""Continuous batching: label pairs join the batch as others finish, up to the memory limit.

What a batch holds at a time does not grow with the number of labels, and no label waits for a slower one.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch

from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import OutOfTime
from neural_cleanse.engines import Engine, InProcess
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.memory import BatchLimit, bytes_for_suspended
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.inversion.state import InversionState
from neural_cleanse.memory_errors import out_of_memory
from neural_cleanse.results.records import LabelPair, Outcome, Recovered

MIN_IMAGES = 30  # eligible images under which a label is not searched: one image would weigh over 3 % of the ASR
BATCHES_BETWEEN_CHECKS = 31  # between two looks at which rows are done: one step of the reference schedule
SECONDS_BETWEEN_TICKS = 0.5  # where steps are short enough

JOBS = 8  # at least, so that workers end at about the same time


@runtime_checkable
class Meter(Protocol):
    """Counts the work of a search, and knows whether a budget allows more."""

    def advance(self, image_passes: int) -> bool:
        """So many more are done; whether the budget allows more work."""

    @property
    def exhausted(self) -> bool:
        """Whether the budget allows no more work."""

    def mark_truncated(self) -> None:
        """Work was left when the budget was exhausted."""


class Unbounded:
    """A budget without an end, which counts nothing."""

    exhausted = False

    def advance(self, image_passes: int) -> bool:
        """There is always more."""
        del image_passes
        return True

    def mark_truncated(self) -> None:
        """Nothing: it has no end."""


UNBOUNDED = Unbounded()


@runtime_checkable
class Invert(Protocol):
    """Inverts label pairs, wherever that happens.

    When a budget is spent, pairs that were in work have the outcome NOT_SEARCHED and what they took; the others have
    no record. With `resume` a later call for the same pairs and more steps continues where this one ended; its records
    count the passes of both. A checkpoint keeps the records, unless `record` says that they are of no use later.
    """

    def __call__(
        self, inversion: Inversion, pairs: Sequence[LabelPair], resume: bool = False, record: bool = True
    ) -> Iterator[Recovered]:
        """One record a pair, in no set order."""


@dataclass
class BatchScheduler:
    """Inverts label pairs in one batch. `meter` is told of the work, and asked before it begins and whenever it is
    seen which rows are done. The classifier's deadline ends the work wherever it is.

    With `resume` the states of pairs that came to their last step are kept in `suspended`: a later call with more steps
    continues there. Where memory does not hold them all, it starts afresh, with the same result for more passes.
    """

    classifier: Classifier
    data: ScanImages
    batch_limit: BatchLimit
    meter: Meter = UNBOUNDED
    suspended: dict[LabelPair, InversionState] = field(default_factory=dict)
    steps_a_tick: int = 1
    forgotten: dict[LabelPair, int] = field(default_factory=dict)  # batches of states that memory did not hold

    def __call__(
        self, inversion: Inversion, pairs: Sequence[LabelPair], resume: bool = False, record: bool = True
    ) -> Iterator[Recovered]:
        """Yield one record a pair as it is finished, in no set order.

        When the budget is exhausted, pairs that were in work have a record that says what they took, the others none.
        """
        del record
        waiting: deque[LabelPair] = deque()
        for pair in pairs:
            if self.data.has_enough_images(pair, MIN_IMAGES):
                waiting.append(pair)
            else:
                yield Recovered.skipped(pair, Outcome.NOT_ENOUGH_IMAGES)
        batch: InversionState | None = None
        requeued: list[InversionState] = []
        if waiting and self.meter.exhausted:
            self.meter.mark_truncated()
            return
        while (batch := self._fill(inversion, batch, waiting, requeued)) is not None:
            batch, may_go_on = self._advanced(inversion, batch, requeued)
            if batch is None:
                continue
            busy = _busy(inversion, batch)
            finished = _of_pairs(batch, busy, within=False)
            batch = _of_pairs(batch, busy, within=True)
            cut_off = False
            if finished is not None:
                if resume:
                    self._suspend(finished)
                for one in self._finished(inversion, finished):
                    cut_off |= one.outcome is Outcome.NOT_SEARCHED
                    yield one
            if cut_off or not may_go_on:
                if cut_off or batch is not None or requeued or waiting:
                    self.meter.mark_truncated()
                in_work = requeued if batch is None else [batch, *requeued]
                yield from (one for state in in_work for one in _cut_off(inversion, state))
                return

    def _advanced(
        self, inversion: Inversion, batch: InversionState, requeued: list[InversionState]
    ) -> tuple[InversionState | None, bool]:
        """The batch at the next look at which rows are done, and whether to go on.

        It is ticked on the way, at least once a step of a large network. None where memory ran out: the batch as it
        was then, for a step leaves what it was given as it is, is `requeued`.
        """
        left, may_go_on = _stride(inversion, batch), True
        while left:
            steps, before, began = min(left, self.steps_a_tick), batch.batches_taken, time.monotonic()
            try:
                batch = inversion.advance(self.classifier, self.data, batch, steps)
            except OutOfTime:
                return batch, False
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                self.batch_limit.reduce(len(batch.rows) * inversion.batch_size)
                requeued.append(batch)
                return None, True
            seconds = (time.monotonic() - began) / steps
            self.steps_a_tick = max(1, int(SECONDS_BETWEEN_TICKS / max(seconds, 1e-6)))
            left -= steps
            may_go_on = self.meter.advance((batch.batches_taken - before) * inversion.batch_size)
        return batch, may_go_on

    def _finished(self, inversion: Inversion, state: InversionState) -> Iterator[Recovered]:
        """The records of pairs that came to their end; of those that no time was left to measure, what they took."""
        pairs = _pairs(state)
        for number, pair in enumerate(pairs):
            try:
                yield from inversion.finish(self.classifier, self.data, _some(state, {pair}))
            except OutOfTime:
                yield from _cut_off(inversion, _some(state, set(pairs[number:])))
                return

    def _fill(
        self,
        inversion: Inversion,
        batch: InversionState | None,
        waiting: deque[LabelPair],
        requeued: list[InversionState],
    ) -> InversionState | None:
        """The batch with what was set aside, then with new pairs, as far as there is room: at least one pair."""
        parts = [] if batch is None else [batch]
        rows = sum(len(part.rows) for part in parts)
        free = (self.batch_limit.images // inversion.batch_size - rows) // inversion.restarts
        free = max(free, 0 if parts else 1)
        while requeued and free > 0:
            part = requeued.pop()
            chosen = set(_pairs(part)[:free])
            rest = _of_pairs(part, chosen, within=False)
            parts.append(part if rest is None else _some(part, chosen))
            if rest is not None:
                requeued.append(rest)
            free -= len(chosen)
        new = [waiting.popleft() for _ in range(min(free, len(waiting)))]
        fresh = [pair for pair in new if pair not in self.suspended]
        parts += [self.suspended.pop(pair) for pair in new if pair in self.suspended]
        if fresh:
            started = inversion.start(self.classifier, fresh, self.data.seed)
            firsts = [self.forgotten.pop(row.pair, 0) if not row.restart else 0 for row in started.rows]
            parts.append(replace(started, lost=started.lost + torch.tensor(firsts, device=started.lost.device)))
        return InversionState.join(parts) if parts else None

    def _suspend(self, finished: InversionState) -> None:
        room = bytes_for_suspended(self.classifier.device)
        for pair in _pairs(finished):
            state = _some(finished, {pair})
            held = sum(variables.nbytes for variables in state.candidates)
            if held > room:
                self.forgotten[pair] = state.batches_taken
            else:
                self.suspended[pair], room = state, room - held


def inverter(
    engine: Engine, classifier: Classifier, data: ScanImages, batch_limit: BatchLimit, meter: Meter = UNBOUNDED
) -> Invert:
    """What inverts label pairs: this process, or the engine's workers, which get and give back suspended states."""
    here = BatchScheduler(classifier, data, batch_limit, meter)
    if isinstance(engine, InProcess):
        return here

    def invert(
        inversion: Inversion, pairs: Sequence[LabelPair], resume: bool = False, record: bool = True
    ) -> Iterator[Recovered]:
        del record
        size = max(1, min(batch_limit.images // (inversion.batch_size * inversion.restarts), -(-len(pairs) // JOBS)))
        jobs = [tuple(pairs[first : first + size]) for first in range(0, len(pairs), size)]
        if not jobs:
            return
        if meter.exhausted:
            meter.mark_truncated()
            return
        left = len(jobs)
        work = partial(_inverted, inversion, classifier, data, batch_limit.images, resume)
        states = here.suspended
        given = [(job, {pair: states.pop(pair) for pair in job if pair in states}) for job in jobs]
        taken = {pair: state.batches_taken * inversion.batch_size for _, held in given for pair, state in held.items()}
        for found, suspended in engine.map(work, given):
            states.update(suspended)
            yield from found
            left -= 1
            cut_off = any(one.outcome is Outcome.NOT_SEARCHED for one in found)
            if not meter.advance(sum(one.image_passes - taken.get(one.pair, 0) for one in found)) or cut_off:
                if left or cut_off:
                    meter.mark_truncated()
                return

    return invert


Job = tuple[tuple[LabelPair, ...], dict[LabelPair, InversionState]]


def _inverted(
    inversion: Inversion, classifier: Classifier, data: ScanImages, images: int, resume: bool, job: Job
) -> tuple[tuple[Recovered, ...], dict[LabelPair, InversionState]]:
    """One job: some pairs to their end, from their states where there are any; with the states that may go on."""
    pairs, states = job
    scheduler = BatchScheduler(classifier, data, BatchLimit(images), suspended=dict(states))
    return tuple(scheduler(inversion, pairs, resume)), scheduler.suspended


def _pairs(state: InversionState) -> list[LabelPair]:
    return list(dict.fromkeys(row.pair for row in state.rows))


def _some(state: InversionState, pairs: set[LabelPair]) -> InversionState:
    return state.take([index for index, row in enumerate(state.rows) if row.pair in pairs])


def _of_pairs(state: InversionState, pairs: set[LabelPair], *, within: bool) -> InversionState | None:
    """The rows of those pairs, or of the others; None when there are none."""
    index = [index for index, row in enumerate(state.rows) if (row.pair in pairs) is within]
    return state.take(index) if index else None


def _cut_off(inversion: Inversion, state: InversionState) -> Iterator[Recovered]:
    """What the pairs of a state took, for nothing."""
    for pair in _pairs(state):
        taken = _some(state, {pair}).batches_taken * inversion.batch_size
        yield replace(Recovered.skipped(pair, Outcome.NOT_SEARCHED), image_passes=taken)


def _steps_left(inversion: Inversion, state: InversionState) -> list[int]:
    """Of every row; 0 for a row that is done."""
    batches, done = state.batches.tolist(), state.cost.done.tolist()
    return [
        0 if over else inversion.steps - count // inversion.batches_per_step
        for count, over in zip(batches, done, strict=True)
    ]


def _stride(inversion: Inversion, state: InversionState) -> int:
    """Steps until the next look: no row goes beyond its last one."""
    least = min((left for left in _steps_left(inversion, state) if left), default=1)
    return min(least, max(1, BATCHES_BETWEEN_CHECKS // inversion.batches_per_step))


def _busy(inversion: Inversion, state: InversionState) -> set[LabelPair]:
    """Pairs of which a row has steps to do."""
    return {row.pair for row, left in zip(state.rows, _steps_left(inversion, state), strict=True) if left > 0}
