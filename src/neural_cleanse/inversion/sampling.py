"""Which images a row of the search sees: a pure function of (seed, pair, restart, the row's own step).

That is what makes one row of a batch equal to a run of its own, and a resumed run equal to one that never stopped.
"""

import enum
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Num
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import Told, nobody, predict_checked
from neural_cleanse.results.records import LabelPair


class Split(enum.Enum):
    """The clean images are split once: no image that chose a trigger also confirms it."""

    OPTIMISE = 0.5
    SELECT = 0.2
    TEST = 0.3


@dataclass(frozen=True, order=True)
class Row:
    """One run of the search: a label pair and the number of its restart."""

    pair: LabelPair
    restart: int = 0

    def key(self, seed: int, purpose: int) -> tuple[int, ...]:
        """Entropy of this row's random choices; `purpose` keeps start values and image order apart."""
        source = -1 if self.pair.source is None else self.pair.source
        return (seed, purpose, self.pair.target, source + 1, self.restart)


@dataclass(frozen=True)
class ScanImages:
    """The clean images as a scan uses them: on the model's device, with its answers, split in three."""

    images: Num[Tensor, "n c h w"]
    labels: Int[Tensor, " n"] | None
    answers: Int[Tensor, " n"]
    parts: dict[Split, Int[Tensor, " m"]]
    seed: int

    @classmethod
    def of(cls, classifier: Classifier, data: ImageSet, seed: int, told: Told = nobody) -> "ScanImages":
        """Ask the model for its answers and split the images at random. Raises UnusableOutputs on NaN among them."""
        images = data.images.to(classifier.device)
        return cls(images, data.labels, predict_checked(classifier, images, told), split(len(data), seed), seed)

    @classmethod
    def unanswered(cls, classifier: Classifier, data: ImageSet, seed: int) -> "ScanImages":
        """The same where no time was left for the answers: nothing can be searched with them."""
        answers = torch.zeros(len(data), dtype=torch.long) if data.labels is None else data.labels
        return cls(data.images.to(classifier.device), data.labels, answers, split(len(data), seed), seed)

    @property
    def given(self) -> Int[Tensor, " n"]:
        """The class of each image: its label, or the model's answer where there are no labels."""
        return self.answers if self.labels is None else self.labels

    def eligible(self, pair: LabelPair, part: Split | None) -> Int[Tensor, " m"]:
        """Images of a part (None: all) neither labelled nor answered as the target; of the pair's source if any."""
        rows = torch.arange(len(self.images)) if part is None else self.parts[part]
        labels = self.given
        fits = (labels[rows] != pair.target) & (self.answers[rows] != pair.target)
        if pair.source is not None:
            fits &= labels[rows] == pair.source
        return rows[fits]

    def targets(self, rows: Sequence[Row], drawn: Int[Tensor, "k steps batches b"]) -> Int[Tensor, "k steps batches b"]:
        """What each drawn image is to become: its row's target."""
        each = torch.tensor([row.pair.target for row in rows], device=drawn.device)
        return each.view(-1, 1, 1, 1).expand_as(drawn)

    def has_enough_images(self, pair: LabelPair, least: int) -> bool:
        """Whether there are `least` eligible images, some of them in every part."""
        return len(self.eligible(pair, None)) >= least and all(len(self.eligible(pair, part)) for part in Split)

    def draw(self, row: Row, pool: Int[Tensor, " m"], first: int, count: int) -> Int[Tensor, " count"]:
        """Entries first .. first + count of the row's endless shuffle of `pool`."""
        key, size = row.key(self.seed, 1), len(pool)
        epochs = range(first // size, (first + count - 1) // size + 1)
        shuffled = np.concatenate([_permutation(key, epoch, size) for epoch in epochs])
        skipped = first - epochs.start * size
        return pool[torch.from_numpy(shuffled[skipped : skipped + count])]


def split(count: int, seed: int) -> dict[Split, Int[Tensor, " m"]]:
    """Images at random in three parts."""
    order = torch.from_numpy(np.random.default_rng((seed, count)).permutation(count))
    first, second = int(count * Split.OPTIMISE.value), int(count * (Split.OPTIMISE.value + Split.SELECT.value))
    return {Split.OPTIMISE: order[:first], Split.SELECT: order[first:second], Split.TEST: order[second:]}


@functools.lru_cache(maxsize=4096)
def _permutation(key: tuple[int, ...], epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((*key, epoch)).permutation(count)


def start_generator(row: Row, seed: int) -> torch.Generator:
    """The generator of the row's initial values."""
    state = np.random.SeedSequence(row.key(seed, 0)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
