"""Which usual form of input fits a model best? Asked when clean accuracy is poor, and never chosen.

One that is clearly better stops a scan: a search in the wrong form takes as long and means nothing. All forms see a few
images, the best of them more (successive halving; Jamieson and Talwalkar 2016).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from neural_cleanse.classifier import Classifier, Normalize
from neural_cleanse.distributions import binomial_sf
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import Told, nobody, predict

TRIED_ON = 200  # images
# Forms that go on after so many images. One that fits has half of 12 right and more, a wrong one hardly any.
ROUNDS = ((12, 4), (48, 2))
NO_GAIN_P = 0.01  # of as few hits as the best form has by then, were it worth a word
SMALL_BATCH = 16  # images at once
LEAST_GAIN = 0.1  # of accuracy, for a form to be worth a word
CLEAR_GAIN, CLEAR_ON = 0.2, 100  # of accuracy, on so many images or more: four standard errors of the difference
# What networks are trained on most often, and how the command line says it.
USUAL = (
    ("pixels in [0, 1] (no --mean, --std, --scale)", Normalize()),
    ("--scale 255", Normalize(scale=255)),
    ("--mean 0.5 --std 0.5", Normalize((0.5,), (0.5,))),
)
USUAL_GREY = (("--mean 0.1307 --std 0.3081 (MNIST's)", Normalize((0.1307,), (0.3081,))),)
USUAL_COLOUR = (
    (
        "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 (ImageNet's)",
        Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ),
    (
        "--mean 0.4914,0.4822,0.4465 --std 0.247,0.2435,0.2616 (CIFAR-10's)",
        Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    ),
    ("--mean 123.68,116.779,103.939 --scale 255 (Caffe's)", Normalize((123.68, 116.779, 103.939), scale=255)),
)


@dataclass(frozen=True)
class InputForm:
    """A form of input, as the command line says it, and the clean accuracy that it and the declared one give."""

    options: str
    accuracy: float
    declared: float
    num_images: int

    @property
    def is_clear(self) -> bool:
        """Whether it fits so much better, on so many images, that the declared one must be wrong."""
        return self.accuracy >= self.declared + CLEAR_GAIN and self.num_images >= CLEAR_ON


def best_form(classifier: Classifier, data: ImageSet, told: Told = nobody) -> InputForm | None:
    """The usual form that gives the highest clean accuracy, None where none is clearly better than the declared one.

    `data` are labelled; the first TRIED_ON are looked at, so they should be in no order.
    """
    assert data.labels is not None, "without labels there is no accuracy"
    most, seen = min(TRIED_ON, len(data)), 0
    declared = _Tried("", classifier)
    forms = [
        _Tried(said, classifier.changed(normalize=normalize)) for said, normalize in _forms(classifier.input_shape[0])
    ]
    for until, keep in (*ROUNDS, (most, 1)):
        rows, seen = torch.arange(seen, min(until, most)), min(until, most)
        for form in (declared, *forms) if len(rows) else ():
            form.try_on(data.take(rows), told)
        forms = sorted(forms, key=lambda form: -form.hits)[:keep]
        least = min(1.0, declared.hits / seen + LEAST_GAIN)
        if 1 - binomial_sf(forms[0].hits + 1, seen, least) < NO_GAIN_P:
            return None
    best = InputForm(forms[0].said, forms[0].hits / seen, declared.hits / seen, seen)
    return best if best.accuracy >= best.declared + LEAST_GAIN else None


@dataclass
class _Tried:
    """A form, and how many images it gave their own label."""

    said: str
    classifier: Classifier
    hits: int = 0

    def try_on(self, data: ImageSet, told: Told) -> None:
        """Count the hits among more images."""
        assert data.labels is not None, "without labels there are no hits"
        self.hits += int((predict(self.classifier, data.images, told, SMALL_BATCH) == data.labels).sum())


def _forms(channels: int) -> Iterator[tuple[str, Normalize]]:
    usual = (*USUAL, *(USUAL_COLOUR if channels == 3 else USUAL_GREY if channels == 1 else ()))
    yield from usual
    if channels == 3:
        yield from ((f"{said} --bgr", replace(normalize, bgr=True)) for said, normalize in usual)
