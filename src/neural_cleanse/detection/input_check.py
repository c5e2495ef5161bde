"""Do the images reach the model in the form it was trained on? A scan in the wrong scale gives a wrong verdict.

Accuracy alone does not catch every wrong scale, so the pixel range and the normalisation are always reported too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from neural_cleanse.detection.input_form import InputForm
from neural_cleanse.distributions import binomial_sf
from neural_cleanse.errors import DataError, InputSanityError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import clean_accuracy
from neural_cleanse.results.thresholds import LOW_ACCURACY
from neural_cleanse.text import by

ABOVE_CHANCE_P = 1e-3  # accuracy must beat "always the commonest class" at this level
DOMINANT_SHARE, DOMINANT_FACTOR = 0.5, 5.0  # one answer for over half the images and five times its share
FEW_IMAGES = 50
# Median margin of the highest logit above the second: trained networks have 1.3 to 18 (docs/design-notes.md). One
# outside is brought to what is usual.
FLATTEST, USUAL, SHARPEST = 1.25, 8.0, 20.0


@dataclass(frozen=True)
class InputCheck:
    """What the answers to the clean images say of the input. `doubt` forbids a clean verdict; None: nothing to say."""

    accuracy: float | None
    warnings: tuple[str, ...]
    doubt: str | None


def temperature(margin: float) -> float:
    """What logits are divided by in the search, for a median margin (metrics.margin) on clean images.

    1 within what trained networks have. Multiplying a last layer changes no answer and would starve the search, or
    drown its cost on the size: a backdoor would be hidden from screening.
    """
    strange = 0 < margin < FLATTEST or SHARPEST < margin < math.inf
    return margin / USUAL if strange else 1.0


def check_labels(data: ImageSet, num_classes: int) -> None:
    """Raise DataError when a label lies outside the model's classes."""
    if data.labels is None:
        return
    low, high = int(data.labels.min()), int(data.labels.max())
    if high >= num_classes:  # none is below 0: an ImageSet refuses those
        raise DataError(
            f"The data have labels {low} to {high}, the model has the classes 0 to {num_classes - 1}.",
            cure="Are these images for this model? --ignore-labels scans without labels.",
        )


def check_shape(data: ImageSet, shape: tuple[int, int, int]) -> None:
    """Raise DataError when the images are not of the model's input shape."""
    if data.shape == shape:
        return
    channels, height, width = shape
    got = by(data.shape)
    if data.shape[0] != channels:
        raise DataError(
            f"The images have {data.shape[0]} channels ({got}), the model takes {channels} "
            f"({'x'.join(str(size) for size in shape)}).",
            cure="Convert them to grey or colour: a scan never guesses colours.",
        )
    raise DataError(
        f"The images are {data.shape[1]}x{data.shape[2]} pixels, the model takes {height}x{width}.",
        cure=f"Pass --resize {height}x{width}.",
    )


def check_input(
    answered: Int[Tensor, " n"],
    labels: Int[Tensor, " n"] | None,
    num_classes: int,
    *,
    force: bool,
    better: Callable[[], InputForm | None] = lambda: None,
    commonest: float | None = None,
) -> InputCheck:
    """Judge the answers to clean images; `better` is asked for a form of input that fits better.

    `commonest` is the share of the commonest class among all images, where these are some of them.
    Raises InputSanityError when the model cannot read them, or another form is clearly better, unless forced.
    """
    count = len(answered)
    warnings = []
    if count < FEW_IMAGES:
        warnings.append(f"only {count} images: attack success rates are coarse, and a small backdoor may be missed")
    if labels is None:
        return InputCheck(None, tuple(warnings), _dominated(answered, num_classes))
    accuracy = clean_accuracy(answered, labels)
    commonest = torch.bincount(labels).max().item() / count if commonest is None else commonest
    if commonest == 1 and not force:
        raise InputSanityError(
            f"The clean images (different ones: {count}) have one label alone: a scan needs images of several classes.",
            cure="Give more images, or --ignore-labels if the labels are wrong.",
        )
    hits = int((answered == labels).sum())
    chance = binomial_sf(hits, count, commonest) if commonest < 1 else 1.0
    if chance > ABOVE_CHANCE_P and hits == count and not force:
        raise InputSanityError(
            f"The model answers all {count} clean images with their label, but that few could be chance.",
            cure=f"Give more images, at least {FEW_IMAGES} of several classes.",
        )
    if chance > ABOVE_CHANCE_P:
        message = (
            f"The model answers {accuracy:.1%} of the {count} clean images with their label, no better than always "
            f"saying the commonest class ({commonest:.1%}).{_said(better())}"
        )
        if not force:
            raise InputSanityError(
                message,
                cure="Check --mean, --std, --scale, the order of the classes and the colours; "
                "--ignore-labels if only the labels are wrong, --force to scan all the same.",
            )
        return InputCheck(accuracy, (*warnings, message), message)
    form = better()
    if form is not None and form.is_clear and not force:
        raise InputSanityError(
            f"The model answers {accuracy:.1%} of the {count} clean images with their label.{_said(form)}",
            cure="Look up what the model was trained on, and give it (this form may only be near it); --force if it is "
            "the form given.",
        )
    if accuracy < LOW_ACCURACY:
        asked = f"clean accuracy is only {accuracy:.1%}: is this the form of input the model was trained on?"
        warnings.append(asked + _said(form).rstrip("."))
    elif form is not None:
        warnings.append(f"clean accuracy is {accuracy:.1%}.{_said(form)}".rstrip("."))
    return InputCheck(accuracy, tuple(warnings), None)


def _said(form: InputForm | None) -> str:
    return "" if form is None else f" With {form.options} it would be {form.accuracy:.1%} ({form.num_images} images)."


def _dominated(answered: Int[Tensor, " n"], num_classes: int) -> str | None:
    label = int(torch.bincount(answered).argmax())
    share = (answered == label).float().mean().item()
    if share > DOMINANT_SHARE and share > DOMINANT_FACTOR / num_classes:
        return (
            f"the model gives {share:.0%} of the images the label {label}: "
            "they probably reach it in the wrong form (scale, colours, size)"
        )
    return None
