"""What a scan asks of the network before it searches: its answers to the clean images, and whether they make sense.

A wrong input is refused after few images: more are looked at only as long as they could change that.
"""

import time
from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from neural_cleanse.choices import Preset
from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import OutOfTime
from neural_cleanse.detection.input_check import ABOVE_CHANCE_P, InputCheck, check_input, temperature
from neural_cleanse.detection.input_form import MOST_IMAGES, TRIED_ON, InputForm, best_form
from neural_cleanse.detection.progress import FORWARD, ImageCounter, Work
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.distributions import binomial_sf, clopper_pearson
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.sampling import ScanImages, split
from neural_cleanse.metrics import Told, margin, predict_checked
from neural_cleanse.results.thresholds import LOW_ACCURACY

MARGIN_IMAGES = 256  # on which the scale of the logits is measured
FIRST, GROWTH = 36, 2  # images that are looked at first, and how many times as many next: 72 rule out a tenth
UNLIKELY = 1e-3  # chance at which an accuracy is ruled out
WORTH_IT = 0.1  # accuracy above chance from which a search makes sense
NOT_CHECKED = "the budget was spent before the form of the input was checked"


@dataclass(frozen=True)
class FirstLook:
    """The images with the network's answers, what they say of the input, and what the logits are divided by.

    `forward_passes` are those that it took, `seconds_an_image` the time of one.
    """

    images: ScanImages
    checked: InputCheck
    temperature: float
    forward_passes: int
    seconds_an_image: float


def for_margin(images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "m c h w"]:
    """The images on which the scale of the logits is measured, evenly spread."""
    return images[:: -(-len(images) // MARGIN_IMAGES)]


def first_look(classifier: Classifier, sampled: ImageSet, settings: ScanSettings, work: Work) -> FirstLook:
    """Ask for the answers, as far as the budget goes; a spent one leaves the input in doubt.

    Raises UnusableOutputs and InputSanityError as the checks do.
    """
    seen = for_margin(sampled.images)
    count, scale = FIRST + len(seen) + len(sampled), 1.0
    told = ImageCounter(work.begin("checking the input", round(count * FORWARD), count, "images"))
    try:
        refuse_early(classifier, sampled, settings, told)
        if settings.preset == Preset.DEFAULT:  # the other is the authors' to the letter
            scale = temperature(margin(classifier, seen, told))
        began = time.monotonic()
        images = ScanImages.of(classifier, sampled, settings.seed, told)
        seconds = (time.monotonic() - began) / len(sampled)
        checked = check_input(
            images.answers,
            images.labels,
            classifier.num_classes,
            force=settings.force,
            better=lambda: _better(classifier, sampled, _in_no_order(sampled, settings)[:MOST_IMAGES], told, images),
        )
    except OutOfTime:
        work.tracker.truncated = True
        images = ScanImages.unanswered(classifier, sampled, settings.seed)
        return FirstLook(images, InputCheck(None, (), NOT_CHECKED), scale, told.images, 0.0)
    return FirstLook(images, checked, scale, told.images, seconds)


def refuse_early(classifier: Classifier, sampled: ImageSet, settings: ScanSettings, told: Told) -> None:
    """Raise InputSanityError as soon as images in no order leave no doubt that all of them would be refused."""
    if sampled.labels is None or settings.force:
        return
    order = _in_no_order(sampled, settings)
    commonest = torch.bincount(sampled.labels).max().item() / len(sampled)
    answers, until = torch.zeros(0, dtype=torch.long), FIRST
    while commonest < 1 and until < len(sampled):
        rows = order[:until]
        answers = torch.cat([answers, predict_checked(classifier, sampled.images[rows[len(answers) :]], told)])
        hits = int((answers == sampled.labels[rows]).sum())
        highest = clopper_pearson(hits, until, 1 - 2 * UNLIKELY)[1]
        if highest >= LOW_ACCURACY:
            return
        above_chance = binomial_sf(hits, until, commonest) <= ABOVE_CHANCE_P
        if above_chance or highest < commonest + WORTH_IT:
            check_input(
                answers,
                sampled.labels[rows],
                classifier.num_classes,
                force=False,
                better=lambda: _better(classifier, sampled, order[:TRIED_ON], told),
                commonest=commonest,
            )
            return
        until *= GROWTH


def _in_no_order(sampled: ImageSet, settings: ScanSettings) -> Int[Tensor, " n"]:
    return torch.cat(list(split(len(sampled), settings.seed).values()))


def _better(
    classifier: Classifier, sampled: ImageSet, rows: Int[Tensor, " n"], told: Told, known: ScanImages | None = None
) -> InputForm | None:
    """The form that fits these images better, if any; `known` has the answers in the declared form."""
    return best_form(classifier, sampled.take(rows), told, None if known is None else known.answers[rows])
