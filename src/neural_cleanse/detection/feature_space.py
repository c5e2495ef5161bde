"""A network behind its cut, as something to search: activations take the place of images.

The activations of all images are kept, in units of their own spread, so that only the tail runs in the search.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.cut import Cut, Tail, features_at, find_cut, work
from neural_cleanse.inversion.cost import BatchCost
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.memory import FLOAT
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.metrics import FORWARD_BATCH, pixels
from neural_cleanse.triggers.feature import FeatureTrigger

MOST_BYTES = 2**29  # that the activations may take
WORK_IMAGES = 8  # on which the share of the tail's work is counted
STEPS = 250
LEARNING_RATE = 0.05  # in units of the spread of the activations, so that it suits every network
COST = 0.005  # at the start: from ten times that on, a planted shift is at times passed over


class _Scaled(nn.Module):
    """The tail on activations in units of their spread."""

    def __init__(self, tail: Tail, spread: float) -> None:
        super().__init__()
        self.tail, self.spread = tail, spread

    def forward(self, features: Tensor) -> Tensor:
        answers: Tensor = self.tail(features * self.spread)
        return answers


@dataclass(frozen=True)
class FeatureSpace:
    """The tail as a classifier, the activations as its images; `share` is its part of the network's work.

    `spread` is the unit of the activations, `least` the lowest of them before they were divided by it.
    """

    cut: Cut
    classifier: Classifier
    images: ScanImages
    share: float
    spread: float
    least: float


def feature_space(
    classifier: Classifier, images: ScanImages, spent: Callable[[int], None] = lambda _: None
) -> FeatureSpace | str:
    """The space behind the first cut, or why there is none: no cut, or activations that take too much memory.

    `spent` is told how many forward passes that took. Raises OutOfTime after the classifier's deadline.
    """
    with _counted(classifier.module, spent):
        return _space(classifier, images)


@contextmanager
def _counted(network: nn.Module, spent: Callable[[int], None]) -> Iterator[None]:
    """Context whose images through the network are told to `spent` at its end, however it ends."""
    counts: list[int] = []
    handle = network.register_forward_pre_hook(lambda _, given: counts.append(len(given[0])))
    try:
        yield
    finally:
        handle.remove()
        spent(sum(counts))


def _space(classifier: Classifier, images: ScanImages) -> FeatureSpace | str:
    two = _normalised(classifier, images.images[:2])
    found = find_cut(classifier.module, two, classifier.check_time) if len(two) == 2 else None
    if found is None:
        return "the network cannot be cut behind its first layers"
    cut, whole = found
    if cut.numel * len(images.images) * FLOAT > MOST_BYTES:
        return f"the activations of {len(images.images):,} images take over {MOST_BYTES >> 20} MiB"
    features = torch.cat([_features(classifier, cut, part) for part in images.images.split(FORWARD_BATCH)]).float()
    spread = max(float(features.std()), 1e-12)
    least = float(features.min())
    tail = Tail(classifier.module, cut, torch.zeros_like(two[:1]), least, whole)
    behind = Classifier(
        _Scaled(tail, spread), cut.image_shape, classifier.num_classes, outputs=classifier.outputs,
        deadline=classifier.deadline,
    )  # fmt: skip
    some = _normalised(classifier, images.images[:WORK_IMAGES])
    share = work(tail, features[:WORK_IMAGES]) / max(1, work(classifier.module, some))
    return FeatureSpace(
        cut=cut,
        classifier=behind,
        images=replace(images, images=features / spread),
        share=min(1.0, share),
        spread=spread,
        least=least,
    )


def feature_inversion(inversion: Inversion, space: FeatureSpace) -> Inversion:
    """The search of a shift: one restart, since all start near none; step and cost belong to the space."""
    area = space.classifier.input_shape[1] * space.classifier.input_shape[2]
    return replace(
        inversion,
        trigger=FeatureTrigger,
        cost=BatchCost(start_cost=area * COST),
        steps=STEPS,
        learning_rate=LEARNING_RATE,
        restarts=1,
        race=(),
        extra_steps=0,
    )


def _features(classifier: Classifier, cut: Cut, images: Tensor) -> Tensor:
    classifier.check_time()
    return features_at(classifier.module, cut, _normalised(classifier, images))


def _normalised(classifier: Classifier, images: Tensor) -> Tensor:
    return classifier.normalize(pixels(images).contiguous(memory_format=classifier.memory_format))
