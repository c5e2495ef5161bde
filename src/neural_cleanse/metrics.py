"""Clean accuracy and attack success rate: the only place where either is defined."""

import time
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import UnusableOutputs
from neural_cleanse.pixel_values import PIXEL_MAX
from neural_cleanse.results.records import LabelPair
from neural_cleanse.triggers.base import Trigger

FORWARD_BATCH = 128  # images; larger batches are slower on a CPU (page faults) and gain little elsewhere
# Values in a batch under a deadline, so that one of large images is over soon; small images keep their batches.
HURRIED_VALUES, HURRIED_IMAGES = 2**20, 8
LONG_S = 1.0  # of a batch under a deadline

Told = Callable[[int], object]


def nobody(count: int) -> None:
    """Tell nobody of so many images."""
    del count


def pixels(images: Num[Tensor, "*n c h w"]) -> Tensor:
    """uint8 images as floats in [0, 1]; activations, which are floats already, as they are."""
    return images if images.is_floating_point() else images.float() / PIXEL_MAX


def stamped(trigger: Trigger, images: Num[Tensor, "n c h w"]) -> Num[Tensor, "n c h w"]:
    """The images with the trigger (k = 1) on them, as uint8 again."""
    return (trigger(pixels(images).unsqueeze(0)).squeeze(0) * PIXEL_MAX).round().to(torch.uint8)


def at_once(classifier: Classifier, images: Num[Tensor, "n c h w"]) -> int:
    """Images in one forward pass."""
    if classifier.deadline is None:
        return FORWARD_BATCH
    return min(FORWARD_BATCH, max(HURRIED_IMAGES, HURRIED_VALUES // max(1, images[:1].numel())))


def _logits(
    classifier: Classifier, images: Num[Tensor, "n c h w"], batch: int = FORWARD_BATCH, told: Told = nobody
) -> Iterator[Float[Tensor, "b classes"]]:
    images = images.to(classifier.device)
    for part in images.split(batch) if classifier.deadline is None else _from_one_up(images, batch):
        yield classifier(pixels(part))
        told(len(part))


def _from_one_up(images: Num[Tensor, "n c h w"], most: int) -> Iterator[Num[Tensor, "b c h w"]]:
    """One image, then twice as many each time while that takes no second: under a deadline no batch may be long."""
    at, count = 0, 1
    while at < len(images):
        began = time.monotonic()
        yield images[at : at + count]
        at += count
        count = min(most, 2 * count) if time.monotonic() - began < LONG_S else max(1, count // 2)


@torch.no_grad()
def predict(
    classifier: Classifier, images: Num[Tensor, "n c h w"], told: Told = nobody, batch: int | None = None
) -> Int[Tensor, " n"]:
    """The label the model gives each image; `told` hears of the images as they are done, `batch` at once."""
    found = _logits(classifier, images, batch or at_once(classifier, images), told)
    return torch.cat([logits.argmax(1) for logits in found]).cpu()


@torch.no_grad()
def predict_checked(classifier: Classifier, images: Num[Tensor, "n c h w"], told: Told = nobody) -> Int[Tensor, " n"]:
    """The same. Raises UnusableOutputs where an output is no number: the label is then none that the model gives."""
    found, broken = [], 0
    for logits in _logits(classifier, images, at_once(classifier, images), told):
        found.append(logits.argmax(1))
        broken += int(logits.isnan().any(1).sum())
    if broken:
        raise UnusableOutputs(
            f"The model outputs NaN for {broken} of {len(images)} clean images: triggers cannot be searched for.",
            cure="Is the form of the input right (--mean, --std, --scale)? If so, do not trust this model.",
        )
    return torch.cat(found).cpu()


@torch.no_grad()
def margin(classifier: Classifier, images: Num[Tensor, "n c h w"], told: Told = nobody) -> float:
    """By how much the highest logit of an image is above the second highest: the median over images.

    A search that goes on with another must find the same number, to the last bit: batches are as large as ever.
    """
    found = _logits(classifier, images, told=told)
    highest = torch.cat([logits.float().topk(2, dim=1).values for logits in found])
    return (highest[:, 0] - highest[:, 1]).median().item()


def clean_accuracy(answered: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Share of clean images that get their own label."""
    return (answered == labels).float().mean().item()


@torch.no_grad()
def triggered_answers(classifier: Classifier, trigger: Trigger, images: Num[Tensor, "n c h w"]) -> Int[Tensor, " n"]:
    """The label the model gives each image with the trigger (k = 1) on it."""
    parts = [
        classifier(trigger(pixels(part).unsqueeze(0)).squeeze(0)).argmax(1)
        for part in images.to(classifier.device).split(at_once(classifier, images))
    ]
    return torch.cat(parts).cpu()


def eligible_rows(labels: Int[Tensor, " n"], pair: LabelPair) -> Int[Tensor, " m"]:
    """Rows of the images that an attack is measured on: not of the target's class, of the source's if there is one."""
    fits = labels != pair.target
    return (fits if pair.source is None else fits & (labels == pair.source)).nonzero().squeeze(1)


def attack_hits(classifier: Classifier, trigger: Trigger, images: Num[Tensor, "n c h w"], target: int) -> int:
    """How many of the images the trigger sends to `target`; over their number, the attack success rate.

    The caller leaves out images that are labelled, or without the trigger answered, as the target.
    """
    return int((triggered_answers(classifier, trigger, images) == target).sum()) if len(images) else 0
