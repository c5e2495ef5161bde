"""Which pairs of labels there are to search, and in which order: draws, nearness on clean images, sizes so far."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.statistics.pairs import two_way_residuals
from neural_cleanse.inversion.batching import MIN_IMAGES
from neural_cleanse.inversion.sampling import ScanImages, Split
from neural_cleanse.metrics import FORWARD_BATCH, Told, nobody, pixels
from neural_cleanse.results.records import LabelPair, Recovered


def pair_candidates(
    images: ScanImages, targets: Iterable[int], num_classes: int
) -> tuple[list[LabelPair], tuple[int, ...]]:
    """All pairs whose source has enough images, and the classes that have too few."""
    classes = images.given
    counts = torch.bincount(classes.long(), minlength=num_classes).tolist()
    sources = [label for label in range(num_classes) if counts[label] >= MIN_IMAGES]
    pairs = [LabelPair(target, source) for target in targets for source in sources if source != target]
    return pairs, tuple(label for label in range(num_classes) if label not in sources)


def balanced_draw(candidates: Sequence[LabelPair], each: int, seed: int) -> frozenset[LabelPair]:
    """Pairs drawn at random, every target `each` times and every source as nearly so as can be."""
    generator = np.random.default_rng((seed, 2))
    order = [candidates[index] for index in generator.permutation(len(candidates))]
    by_target: dict[int, list[LabelPair]] = {}
    for pair in order:
        by_target.setdefault(pair.target, []).append(pair)
    drawn: list[LabelPair] = []
    used: dict[int | None, int] = {}
    for _ in range(each):
        for target in generator.permutation(list(by_target)).tolist():
            free = by_target[target]
            if free:
                pair = min(free, key=lambda pair: used.get(pair.source, 0))
                free.remove(pair)
                drawn.append(pair)
                used[pair.source] = used.get(pair.source, 0) + 1
    return frozenset(drawn)


def by_nearness(
    classifier: Classifier, images: ScanImages, pairs: Sequence[LabelPair], told: Told = nobody
) -> list[LabelPair]:
    """The pairs, those first whose source's images come nearest to the target, source and target effects taken out.

    `told` hears of the images as they pass. Raises OutOfTime after the classifier's deadline.
    """
    margins = _margins(classifier, images, told)
    sources, targets = _ends(pairs)
    return _sorted(pairs, two_way_residuals(sources, targets, margins[sources, targets].numpy()))


@torch.no_grad()
def _margins(classifier: Classifier, images: ScanImages, told: Told) -> Float[Tensor, "classes classes"]:
    """How far the target's logit lies under the largest, mean over the search images of every class (rows)."""
    rows, parts = images.parts[Split.OPTIMISE], list[Tensor]()
    for part in images.images[rows].split(FORWARD_BATCH):
        parts.append(classifier(pixels(part)).double().cpu())
        told(len(part))
    under = torch.cat([part.max(1, keepdim=True).values - part for part in parts])
    classes = images.given[rows].long()
    sums = torch.zeros(classifier.num_classes, classifier.num_classes, dtype=torch.float64)
    counts = torch.bincount(classes, minlength=classifier.num_classes).clamp_min(1)
    return sums.index_add(0, classes, under) / counts.unsqueeze(1)


def furthest_under(screened: Sequence[Recovered], count: int) -> list[LabelPair]:
    """The pairs whose size lies furthest under what source and target explain."""
    sized = [(one.pair, one.size) for one in screened if one.size is not None]
    pairs, sizes = [pair for pair, _ in sized], [size for _, size in sized]
    return _sorted(pairs, two_way_residuals(*_ends(pairs), np.log(sizes)))[:count]


def _ends(pairs: Sequence[LabelPair]) -> tuple[list[int], list[int]]:
    return [pair.source for pair in pairs if pair.source is not None], [pair.target for pair in pairs]


def _sorted(pairs: Sequence[LabelPair], values: np.ndarray) -> list[LabelPair]:
    return [pairs[index] for index in np.argsort(values, kind="stable").tolist()]
