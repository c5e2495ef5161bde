"""Search plans: which label pairs are inverted, in which order, with how many steps. All stream their results."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from neural_cleanse.classifier import Classifier
from neural_cleanse.inversion import Inversion
from neural_cleanse.records import LabelPair, Outcome, Recovered
from neural_cleanse.sampling import ScanImages

MIN_IMAGES = 30  # eligible images under which a label is not searched: one image would weigh over 3 % of the ASR
BATCHES_BETWEEN_LOOKS = 31  # between two looks at which rows are done: one step of the reference schedule
# Images in one forward pass. On a CPU larger batches are slower (page faults); a GPU wants all it can get.
BATCH_IMAGES = {"cpu": 128, "cuda": 8192, "mps": 1024}

Tick = Callable[[int], None]


class Search(ABC):
    """A plan over label pairs."""

    @abstractmethod
    def run(
        self, inversion: Inversion, classifier: Classifier, data: ScanImages, pairs: Sequence[LabelPair], tick: Tick
    ) -> Iterator[Recovered]:
        """Yield one record a pair as it is finished; `tick(image_passes)` is called as work is done."""


@dataclass(frozen=True)
class FullSweep(Search):
    """Every pair gets the full number of steps, as in the paper; as many pairs at once as fit one batch."""

    def run(
        self, inversion: Inversion, classifier: Classifier, data: ScanImages, pairs: Sequence[LabelPair], tick: Tick
    ) -> Iterator[Recovered]:
        """Yield one record a pair; pairs with too few images come first."""
        possible = [pair for pair in pairs if data.suffices(pair, MIN_IMAGES)]
        for pair in pairs:
            if pair not in possible:
                yield Recovered(pair, None, None, None, 0, 0, Outcome.NOT_ENOUGH_IMAGES, 0, 0)
        rows = max(1, BATCH_IMAGES.get(classifier.device.type, 128) // inversion.batch_size)
        group = max(1, rows // inversion.restarts)
        for first in range(0, len(possible), group):
            yield from _invert(inversion, classifier, data, possible[first : first + group], tick)


def _invert(
    inversion: Inversion, classifier: Classifier, data: ScanImages, pairs: Sequence[LabelPair], tick: Tick
) -> Iterator[Recovered]:
    """One batch of pairs from start to finish; a pair leaves the batch when all of its rows are done."""
    state = inversion.start(classifier, pairs, data.seed)
    stride = max(1, BATCHES_BETWEEN_LOOKS // inversion.batches_per_step)
    for step in range(0, inversion.steps, stride):
        before = int(state.batches.sum())
        state = inversion.advance(classifier, data, state, min(stride, inversion.steps - step))
        tick((int(state.batches.sum()) - before) * inversion.batch_size)
        busy = {row.pair for row, done in zip(state.rows, state.cost.done.tolist(), strict=True) if not done}
        finished = [index for index, row in enumerate(state.rows) if row.pair not in busy]
        if finished:
            yield from inversion.finish(classifier, data, state.take(finished))
            state = state.take([index for index, row in enumerate(state.rows) if row.pair in busy])
        if not busy:
            return
    yield from inversion.finish(classifier, data, state)
