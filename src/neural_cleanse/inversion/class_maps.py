"""One trigger that sends every class to a target of its own, found together with the map of classes that it follows.

An all-to-all backdoor sends class i to m(i), i + 1 as a rule (Gu et al. 2017). Its one trigger is as small as that of
any backdoor, but each pair of labels by itself has small triggers of its own, which hide it. So the trigger and the map
are searched for at once: between some steps of the search each class is given the target that its triggered images lean
to most, one to one (the assignment problem, Kuhn 1955), from a random map on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.inversion.batching import UNBOUNDED, Meter
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.sampling import Row, ScanImages, Split
from neural_cleanse.inversion.state import InversionState
from neural_cleanse.metrics import FORWARD_BATCH, pixels
from neural_cleanse.results.records import LabelPair
from neural_cleanse.triggers.base import Trigger

EVERY = 5  # steps between two measurements of where classes lean
LEARN = 0.6  # of the steps; after them the map stays as it is, and its trigger shrinks
SEEN = 64  # images that each map is measured on every so many steps
MEMORY = 0.8  # of the average over measurements, for every image of a class
ITSELF = -1e6  # what a class gains by being sent to itself
TRAIN_ASR = 0.9  # asked of a trigger while it shrinks: near classes are never all told apart
LEAST_CLASSES = 6
STEPS = 160
# Images a step, for up to so many classes and for more: with eight a patch of 43 classes stays four times too large.
BATCH, FEW_CLASSES, LARGE_BATCH = 8, 20, 16

ClassMap = tuple[int, ...]
"""The target of each class that takes part, in their order."""


@dataclass(frozen=True)
class MappedImages(ScanImages):
    """Images of which each is to become what the map says of its class; `classes` are the labels that take part."""

    classes: Int[Tensor, " classes"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    followed: ClassMap = ()

    @classmethod
    def among(cls, images: ScanImages, classes: Sequence[int]) -> "MappedImages":
        """Those of these classes that the model answers rightly."""
        right = (images.given == images.answers) & torch.isin(images.given, torch.tensor(classes))
        parts = {part: rows[right[rows]] for part, rows in images.parts.items()}
        return cls(images.images, images.labels, images.answers, parts, images.seed, torch.tensor(classes))

    def eligible(self, pair: LabelPair, part: Split | None) -> Int[Tensor, " m"]:
        """All of a part."""
        del pair
        return torch.cat([*self.parts.values()]) if part is None else self.parts[part]

    def places(self, rows: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """The place of each image's class among those that take part."""
        return torch.searchsorted(self.classes, self.given[rows.cpu()].long())

    def targets(self, rows: Sequence[Row], drawn: Int[Tensor, "k steps batches b"]) -> Int[Tensor, "k steps batches b"]:
        """What each drawn image is to become, whatever its row."""
        return torch.tensor(self.followed)[self.places(drawn)].to(drawn.device)


@dataclass(frozen=True)
class Followed:
    """The trigger of one map: its size, and of `trials` images of the test split of each class how many follow it.

    `forward_passes` are those of measuring, while it was searched for and afterwards.
    """

    targets: ClassMap
    trigger: Trigger
    size: float
    hits: tuple[int, ...]
    trials: tuple[int, ...]
    forward_passes: int

    @property
    def asr(self) -> float:
        """The share of all images."""
        return sum(self.hits) / max(1, sum(self.trials))


@dataclass(frozen=True)
class MapSearch:
    """How a trigger and its map are searched for: an inversion with one restart a map and no race."""

    inversion: Inversion

    @classmethod
    def of(cls, inversion: Inversion, num_classes: int) -> "MapSearch":
        """The search of a label's trigger, made for all classes at once: larger batches, for they hold many."""
        return cls(
            replace(
                inversion, steps=STEPS, batch_size=BATCH if num_classes <= FEW_CLASSES else LARGE_BATCH, restarts=1,
                race=(), extra_steps=0, asr_target=TRAIN_ASR,
            )
        )  # fmt: skip

    @property
    def passes(self) -> int:
        """Image passes that one map takes."""
        return self.inversion.passes

    def learn(
        self, classifier: Classifier, images: MappedImages, count: int, seed: int, meter: Meter = UNBOUNDED
    ) -> tuple[Followed, ...]:
        """The maps that `count` searches from random ones come to; fewer where the meter's budget is exhausted."""
        starts = random_maps(images.classes, count, seed)
        return self._run(classifier, images, starts, seed, meter, learning=True)

    def follow(
        self,
        classifier: Classifier,
        images: MappedImages,
        maps: Sequence[ClassMap],
        seed: int,
        meter: Meter = UNBOUNDED,
    ) -> tuple[Followed, ...]:
        """The triggers of these maps, which stay as they are."""
        return self._run(classifier, images, maps, seed, meter, learning=False)

    def _run(
        self,
        classifier: Classifier,
        images: MappedImages,
        maps: Sequence[ClassMap],
        seed: int,
        meter: Meter,
        *,
        learning: bool,
    ) -> tuple[Followed, ...]:
        """Map by map, so that a large network needs no more memory for many of them."""
        found = list[Followed]()
        for number, start in enumerate(maps):
            row = Row(LabelPair(number))  # of no label: its start values and the order of its images
            state = self.inversion.start(classifier, [row.pair], seed)
            leaning, measured = torch.full((len(start), len(start)), 1 / len(start)), 0
            for done in range(0, self.inversion.steps, EVERY):
                images = replace(images, followed=start)
                state = self.inversion.advance(classifier, images, state, min(EVERY, self.inversion.steps - done))
                if learning and done < LEARN * self.inversion.steps:
                    rows = images.draw(row, images.parts[Split.OPTIMISE], done // EVERY * SEEN, SEEN)
                    leaning = self._leaning(classifier, images, state, rows, leaning)
                    start = best_map(leaning, images.classes)
                    measured += len(rows)
                if not meter.advance(EVERY * self.inversion.batch_size):
                    meter.mark_truncated()
                    return tuple(found)
            found.append(self._followed(classifier, images, state, start, measured))
        return tuple(found)

    @torch.no_grad()
    def _leaning(
        self,
        classifier: Classifier,
        images: MappedImages,
        state: InversionState,
        rows: Int[Tensor, " n"],
        before: Float[Tensor, "classes classes"],
    ) -> Float[Tensor, "classes classes"]:
        """Where the triggered images of each class (rows) lean, as the mean of their chances: a moving average."""
        trigger = self.inversion.trigger.decode(state.free)
        answers = classifier(trigger(pixels(images.images[rows]).unsqueeze(0)).squeeze(0)).float()
        chances = (answers / self.inversion.temperature).softmax(1).cpu()[:, images.classes]
        places = images.places(rows)
        sums = torch.zeros_like(before).index_add_(0, places, chances)
        counts = torch.bincount(places, minlength=len(before)).unsqueeze(1)
        return torch.where(counts > 0, (sums / counts.clamp_min(1)).lerp(before, MEMORY**counts), before)

    @torch.no_grad()
    def _followed(
        self, classifier: Classifier, images: MappedImages, state: InversionState, targets: ClassMap, measured: int
    ) -> Followed:
        """The averaged trigger, tried on the test split; `measured` forward passes were taken before."""
        trigger = self.inversion.trigger.decode(state.averaged)
        rows = images.parts[Split.TEST]
        answers = [
            classifier(trigger(pixels(images.images[part]).unsqueeze(0)).squeeze(0)).argmax(1).cpu()
            for part in rows.split(FORWARD_BATCH)
        ]
        places = images.places(rows)
        follows = torch.cat(answers) == torch.tensor(targets)[places]
        hits = torch.bincount(places[follows], minlength=len(targets)).tolist()
        trials = torch.bincount(places, minlength=len(targets)).tolist()
        return Followed(
            targets=targets,
            trigger=trigger,
            size=float(trigger.size()),
            hits=tuple(hits),
            trials=tuple(trials),
            forward_passes=measured + len(rows),
        )


def random_maps(classes: Int[Tensor, " classes"], count: int, seed: int) -> tuple[ClassMap, ...]:
    """Random maps that send no class to itself."""
    generator = np.random.default_rng((seed, 4))
    scores = generator.random((count, len(classes), len(classes)))
    return tuple(best_map(torch.from_numpy(one), classes) for one in scores)


def best_map(scores: Float[Tensor, "classes classes"], classes: Int[Tensor, " classes"]) -> ClassMap:
    """The one-to-one map of the highest sum of scores (from, to), no class to itself."""
    allowed = scores.double().numpy().copy()
    np.fill_diagonal(allowed, ITSELF)
    _, chosen = linear_sum_assignment(allowed, maximize=True)
    return tuple(classes[torch.from_numpy(chosen)].tolist())
