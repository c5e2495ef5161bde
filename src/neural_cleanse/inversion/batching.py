"""The batch that label pairs enter and leave: as many at once as there is room for, the next as soon as one is done.

What a batch holds at a time does not grow with the number of labels, and no label waits for a slower one.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, runtime_checkable

from neural_cleanse.classifier import Classifier
from neural_cleanse.engines import Engine, InProcess
from neural_cleanse.inversion.inversion import Inversion, InversionState
from neural_cleanse.inversion.memory import BatchLimit, out_of_memory
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.results.records import LabelPair, Outcome, Recovered

MIN_IMAGES = 30  # eligible images under which a label is not searched: one image would weigh over 3 % of the ASR
BATCHES_BETWEEN_CHECKS = 31  # between two looks at which rows are done: one step of the reference schedule

JOBS = 8  # at least, so that workers end at about the same time

Tick = Callable[[int], bool]


@runtime_checkable
class Invert(Protocol):
    """Inverts label pairs, wherever that happens.

    When a budget is spent, pairs that were in work have the outcome NOT_SEARCHED and what they took; the others have
    no record. With `resume` a later call for the same pairs and more steps continues where this one ended.
    """

    def __call__(self, inversion: Inversion, pairs: Sequence[LabelPair], resume: bool = False) -> Iterator[Recovered]:
        """One record a pair, in no set order."""


@dataclass
class BatchScheduler:
    """Inverts label pairs in one batch. `tick(image_passes)` is called as work is done, and says whether to go on; with
    0 it asks before work begins, and once more where work is left when it said no.

    With `resume` the states of pairs that came to their last step are kept in `suspended`: a later call with more steps
    continues there.
    """

    classifier: Classifier
    data: ScanImages
    batch_limit: BatchLimit
    tick: Tick
    suspended: dict[LabelPair, InversionState] = field(default_factory=dict)

    def __call__(self, inversion: Inversion, pairs: Sequence[LabelPair], resume: bool = False) -> Iterator[Recovered]:
        """Yield one record a pair as it is finished, in no set order.

        When `tick` says no, pairs that were in work have a record that says what they took, the others none.
        """
        waiting: deque[LabelPair] = deque()
        for pair in pairs:
            if self.data.has_enough_images(pair, MIN_IMAGES):
                waiting.append(pair)
            else:
                yield Recovered.skipped(pair, Outcome.NOT_ENOUGH_IMAGES)
        batch: InversionState | None = None
        requeued: list[InversionState] = []
        if not waiting or not self.tick(0):
            return
        while (batch := self._fill(inversion, batch, waiting, requeued)) is not None:
            before = int(batch.batches.sum())
            try:
                batch = inversion.advance(self.classifier, self.data, batch, _stride(inversion, batch))
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                # A step leaves the state that it was given as it is: nothing is lost.
                self.batch_limit.reduce(len(batch.rows) * inversion.batch_size)
                requeued.append(batch)
                batch = None
                continue
            may_go_on = self.tick((int(batch.batches.sum()) - before) * inversion.batch_size)
            busy = _busy(inversion, batch)
            finished = _of_pairs(batch, busy, within=False)
            batch = _of_pairs(batch, busy, within=True)
            if finished is not None:
                if resume:
                    self._suspend(finished)
                yield from inversion.finish(self.classifier, self.data, finished)
            if not may_go_on:
                if batch is not None or requeued or waiting:
                    self.tick(0)  # work was left: mark the scan as truncated
                in_work = requeued if batch is None else [batch, *requeued]
                yield from (one for state in in_work for one in _cut_off(inversion, state))
                return

    def _fill(
        self,
        inversion: Inversion,
        batch: InversionState | None,
        waiting: deque[LabelPair],
        requeued: list[InversionState],
    ) -> InversionState | None:
        """The batch with what was set aside, then with new pairs, as far as there is room: at least one pair."""
        limit = max(1, self.batch_limit.images // (inversion.batch_size * inversion.restarts))
        parts = [] if batch is None else [batch]
        free = limit - sum(len(_pairs(part)) for part in parts)
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
            parts.append(inversion.start(self.classifier, fresh, self.data.seed))
        return InversionState.join(parts) if parts else None

    def _suspend(self, finished: InversionState) -> None:
        for pair in _pairs(finished):
            self.suspended[pair] = _some(finished, {pair})


def inverter(engine: Engine, classifier: Classifier, data: ScanImages, batch_limit: BatchLimit, tick: Tick) -> Invert:
    """Slots in this process, or as many as the engine has elsewhere; what goes on stays in this process."""
    here = BatchScheduler(classifier, data, batch_limit, tick)
    if isinstance(engine, InProcess):
        return here

    def invert(inversion: Inversion, pairs: Sequence[LabelPair], resume: bool = False) -> Iterator[Recovered]:
        if resume:  # a state stays where it is: elsewhere more steps would start afresh
            yield from here(inversion, pairs, resume=True)
            return
        size = max(1, min(batch_limit.images // (inversion.batch_size * inversion.restarts), -(-len(pairs) // JOBS)))
        jobs = [tuple(pairs[first : first + size]) for first in range(0, len(pairs), size)]
        if not jobs or not tick(0):
            return
        left = len(jobs)
        for found in engine.map(partial(_inverted, inversion, classifier, data, batch_limit.images), jobs):
            yield from found
            left -= 1
            if not tick(sum(one.image_passes for one in found)):
                if left:
                    tick(0)  # work was left: mark the scan as truncated
                return

    return invert


def _inverted(
    inversion: Inversion, classifier: Classifier, data: ScanImages, images: int, pairs: tuple[LabelPair, ...]
) -> tuple[Recovered, ...]:
    """One job: some pairs, to their end."""
    return tuple(BatchScheduler(classifier, data, BatchLimit(images), lambda _: True)(inversion, pairs))


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
    batches = state.batches.tolist()
    for pair in _pairs(state):
        taken = sum(count for row, count in zip(state.rows, batches, strict=True) if row.pair == pair)
        yield replace(Recovered.skipped(pair, Outcome.NOT_SEARCHED), image_passes=taken * inversion.batch_size)


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
