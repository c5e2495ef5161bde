"""The family of a recovered trigger: others that the network reacts to, the attacker's among them.

What a scan recovered is one trigger of many. A network that has unlearned that one can still answer to the rest, so two
searches go beside a repair. `Renewal` searches on in the network as it changes (find, unlearn, find again):

    minimise over weights   maximise over triggers up to their natural size   how many images go to the target

which is the idea of adversarial unlearning (I-BAU; Zeng et al., ICLR 2022). `fresh_triggers` recovers others from the
model as it came, which the repair never saw, to try its result on. They are taken early in their search as well as
late: those of the first steps are larger, and nearer to what an attacker plants.

`Renewal` also searches patterns over the whole image at a fifth of its brightness (blends.py): their labels are flagged
for a patch that is not the trigger. No result is tried on them, since every network has some that work.

The natural size is that of a usual label. Larger patches change what an image shows, and a network that is taught to
look past them forgets what it knows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.presets import preset
from neural_cleanse.inversion.sampling import ScanImages, Split
from neural_cleanse.inversion.state import InversionState
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.mitigation.blends import search_blends
from neural_cleanse.mitigation.shifts import scaled, search_shifts
from neural_cleanse.results.records import LabelPair

RESTARTS = 4  # searches of one pair while it is unlearned, which end at different triggers
MOST_ROWS = 16  # that one step of them moves; with more labels they take turns
OCCASIONS = 4  # on which shifts of activations, and patterns over the whole image, are searched for anew
FRESH_RESTARTS = 8  # searches of one pair to try a repair on ...
MOST_FRESH = 32  # ... and of all pairs together, but one a pair at least
TAKEN_AT = (60, 120, 250)  # steps of them


def natural_sizes(backdoors: Sequence[Backdoor], *, shifts: bool) -> dict[LabelPair, float]:
    """The natural size of patches, or of shifts, for every pair where it is known."""
    return {
        backdoor.pair: backdoor.natural
        for backdoor in backdoors
        if backdoor.natural is not None and (backdoor.place is not None) is shifts
    }


@dataclass
class PatchSearch:
    """Searches of patches for some pairs, step by step, in a network that may change between two steps."""

    inversion: Inversion
    images: ScanImages
    state: InversionState
    most: dict[LabelPair, float]

    @classmethod
    def several(
        cls, classifier: Classifier, most: dict[LabelPair, float], data: ImageSet, seed: int, restarts: int, rows: int
    ) -> list["PatchSearch"]:
        """Searches of so many restarts for all pairs that have images, about `rows` of them in each."""
        if not most:
            return []
        everything = torch.arange(len(data))  # nothing is chosen or confirmed here
        images = replace(ScanImages.of(classifier, data, seed), parts=dict.fromkeys(Split, everything))
        inversion = replace(scaled(preset("default"), classifier, data), restarts=restarts, race=(), kept=1, spread=0)
        pairs = [pair for pair in most if len(images.eligible(pair, None))]
        at_once = max(1, rows // restarts)
        return [
            cls(inversion, images, inversion.start(classifier, pairs[first : first + at_once], seed), most)
            for first in range(0, len(pairs), at_once)
        ]

    def advance(self, network: Classifier, steps: int) -> None:
        """Go on in the network as it is now."""
        self.state = self.inversion.advance(network, self.images, self.state, steps)

    def found(self) -> Iterator[Backdoor]:
        """Where the searches have come to, as far as that is no larger than natural."""
        trigger = self.inversion.trigger.decode([variables.detach() for variables in self.state.averaged])
        tensors = trigger.tensors()
        for index, (row, size) in enumerate(zip(self.state.rows, trigger.size().tolist(), strict=True)):
            if size <= self.most[row.pair]:
                one = self.inversion.trigger.of({name: value[index, None] for name, value in tensors.items()})
                yield Backdoor(row.pair, one, self.most[row.pair])


class Renewal:
    """The searches that go on beside a fine-tuning of `batches` batches. Backdoors without a natural size have none."""

    def __init__(
        self, classifier: Classifier, backdoors: Sequence[Backdoor], data: ImageSet, batches: int, seed: int
    ) -> None:
        self.data, self.seed, self.every = data, seed, max(1, batches // OCCASIONS)
        self.shifted: tuple[Backdoor, ...] = ()
        self.blended: tuple[Backdoor, ...] = ()
        self.shift_sizes = natural_sizes(backdoors, shifts=True)
        most = natural_sizes(backdoors, shifts=False)
        self.whole = [pair for pair in most if pair.source is None][:MOST_ROWS]
        restarts = max(1, min(RESTARTS, MOST_ROWS // max(1, len(most))))
        self.searches = PatchSearch.several(classifier, most, data, seed, restarts, MOST_ROWS)

    def after(self, batch: int, network: Classifier) -> tuple[Backdoor, ...]:
        """What has been found by then; `network` is as it has become, in eval mode."""
        if self.shift_sizes and batch % self.every == 0:
            self.shifted += search_shifts(network, self.shift_sizes, self.data, self.seed + batch)
        if self.whole and batch % self.every == 0:
            self.blended = search_blends(network, self.whole, self.data, self.seed + batch)
        if self.searches:
            self.searches[batch % len(self.searches)].advance(network, 1)
        return (*self.shifted, *self.blended, *(one for search in self.searches for one in search.found()))


def fresh_triggers(
    classifier: Classifier, backdoors: Sequence[Backdoor], data: ImageSet, seed: int
) -> tuple[Backdoor, ...]:
    """Triggers for the same pairs, recovered anew from `classifier` with other images and starts."""
    most = natural_sizes(backdoors, shifts=False)
    restarts = max(1, min(FRESH_RESTARTS, MOST_FRESH // max(1, len(most))))
    found: list[Backdoor] = []
    for search in PatchSearch.several(classifier, most, data, seed, restarts, MOST_FRESH):
        done = 0
        for steps in TAKEN_AT:
            search.advance(classifier, steps - done)
            found += search.found()
            done = steps
    return (*found, *search_shifts(classifier, natural_sizes(backdoors, shifts=True), data, seed))
