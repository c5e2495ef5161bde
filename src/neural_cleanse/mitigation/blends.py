"""Faint patterns over the whole image as backdoors: the blended attack (Chen et al. 2017), recovered at its strength.

A label that such a pattern belongs to is flagged for its patch, which is another trigger: a model that has unlearned
patches still answers to the pattern. So the pattern itself is searched for, at a fixed share of the image.
"""

from collections.abc import Iterator, Sequence

import torch

from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import eligible_rows, pixels
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.results.records import LabelPair
from neural_cleanse.triggers.patch import PatchTrigger

STRENGTH = 0.2  # of the pattern in each pixel, as in the paper
STEPS, BATCH, LEARNING_RATE = 100, 32, 0.1


def search_blends(
    classifier: Classifier, pairs: Sequence[LabelPair], data: ImageSet, seed: int, count: int = 1
) -> tuple[Backdoor, ...]:
    """`count` patterns at STRENGTH, from different starts, for every pair that has images."""
    return tuple(_searched(classifier, pairs, data, seed, count))


def _searched(
    classifier: Classifier, pairs: Sequence[LabelPair], data: ImageSet, seed: int, count: int
) -> Iterator[Backdoor]:
    assert data.labels is not None, "repair labels what has no labels with the model's own answers"
    for pair in pairs:
        rows = eligible_rows(data.labels, pair)
        if len(rows):
            generator = torch.Generator().manual_seed(seed * 1000 + pair.target)
            for _ in range(count):
                yield Backdoor(pair, _pattern(classifier, pair.target, data.images[rows], generator))


def _pattern(classifier: Classifier, target: int, images: torch.Tensor, generator: torch.Generator) -> PatchTrigger:
    device = classifier.device
    free = torch.randn(1, *classifier.input_shape, generator=generator).to(device).requires_grad_()
    mask = torch.full((1, 1, *classifier.input_shape[1:]), STRENGTH, device=device)
    optimizer = torch.optim.Adam([free], LEARNING_RATE)
    wanted = torch.full((BATCH,), target, device=device)
    for _ in range(STEPS):
        chosen = images[torch.randint(len(images), (BATCH,), generator=generator)]
        logits = classifier(PatchTrigger(mask, free.sigmoid())(pixels(chosen.to(device)).unsqueeze(0))[0])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, wanted).backward()
        optimizer.step()
    return PatchTrigger(mask, free.detach().sigmoid())
