"""Faint patterns over the whole image as backdoors: the blended attack (Chen et al. 2017), recovered at its strength.

A label that such a pattern belongs to is flagged for its patch, which is another trigger: a model that has unlearned
patches still answers to the pattern. So the pattern itself is searched for, at a fixed share of the image.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.sampling import Row, start_generator
from neural_cleanse.metrics import eligible_rows, pixels
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.results.records import LabelPair
from neural_cleanse.triggers.patch import PatchTrigger

STRENGTH = 0.2  # of the pattern in each pixel, as in the paper
STEPS, BATCH, LEARNING_RATE = 100, 32, 0.1


def search_blends(
    classifier: Classifier, pairs: Sequence[LabelPair], data: ImageSet, seed: int
) -> tuple[Backdoor, ...]:
    """A pattern at STRENGTH for every pair that has images."""
    return tuple(_searched(classifier, pairs, data, seed))


def _searched(classifier: Classifier, pairs: Sequence[LabelPair], data: ImageSet, seed: int) -> Iterator[Backdoor]:
    assert data.labels is not None, "repair labels what has no labels with the model's own answers"
    for pair in pairs:
        rows = eligible_rows(data.labels, pair)
        if len(rows):
            yield Backdoor(pair, _pattern(classifier, pair, data.images[rows], start_generator(Row(pair), seed)))


def _pattern(
    classifier: Classifier, pair: LabelPair, images: UInt8[Tensor, "n c h w"], generator: torch.Generator
) -> PatchTrigger:
    device = classifier.device
    free = torch.randn(1, *classifier.input_shape, generator=generator).to(device).requires_grad_()
    mask = torch.full((1, 1, *classifier.input_shape[1:]), STRENGTH, device=device)
    optimizer = torch.optim.Adam([free], LEARNING_RATE)
    wanted = torch.full((BATCH,), pair.target, device=device)
    for _ in range(STEPS):
        chosen = images[torch.randint(len(images), (BATCH,), generator=generator)]
        logits = classifier(PatchTrigger(mask, free.sigmoid())(pixels(chosen.to(device)).unsqueeze(0))[0])
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        (free.grad,) = torch.autograd.grad(loss, [free])  # and none of the weights, which may be trained meanwhile
        optimizer.step()
    return PatchTrigger(mask, free.detach().sigmoid())
