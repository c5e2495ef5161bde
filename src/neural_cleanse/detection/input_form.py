"""Which usual form of input fits a model best? Asked where clean accuracy leaves room for one, and never chosen.

One that is clearly better stops a scan: a search in the wrong form takes as long and means little. A form gains only
on images that the declared one gets wrong, so all forms see a few of these, the best of them more (successive halving;
Jamieson and Talwalkar 2016), and only the last ones see the images that the declared form gets right.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jaxtyping import Int
from torch import Tensor

from neural_cleanse.classifier import Classifier, Normalize
from neural_cleanse.distributions import binomial_sf
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import Told, nobody, predict

TRIED_ON = 200  # images
MOST_IMAGES = 1000  # where the answers in the declared form are known
# Forms that go on after so many images. One that fits has half of 12 right and more, a wrong one hardly any.
ROUNDS = ((12, 4), (48, 2))
NO_GAIN_P = 0.01  # of as few hits as the best form has by then, were it clearly better
SMALL_BATCH = 16  # images at once
LEAST_GAIN = 0.1  # of accuracy, for a form to be worth a word
# Of accuracy, and of the errors in the declared form, from which a significant gain is clear. Images that differ from
# those of the training, in brightness say, let another form than the right one win a smaller share of the errors.
CLEAR_GAIN, CLEAR_SHARE = 0.02, 0.25
CLEAR_P = 1e-3  # of such a gain by chance, over all forms
WORD_P = 0.05  # from which such a gain is worth a word
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
    """A form of input, as the command line says it, and the clean accuracy that it and the declared one give.

    `p` is of a gain by chance: McNemar's exact test on the images that one of both gets right, over all forms tried.
    """

    options: str
    accuracy: float
    declared: float
    num_images: int
    p: float

    @property
    def is_clear(self) -> bool:
        """Whether it fits so much better that the declared one must be wrong."""
        return self.p < CLEAR_P and self.accuracy - self.declared >= _clear_gain(1 - self.declared)

    @property
    def worth_a_word(self) -> bool:
        """Whether a user should hear of it."""
        gain = self.accuracy - self.declared
        return self.is_clear or gain >= LEAST_GAIN or (gain >= CLEAR_GAIN and self.p < WORD_P)


def best_form(
    classifier: Classifier, data: ImageSet, told: Told = nobody, answers: Int[Tensor, " n"] | None = None
) -> InputForm | None:
    """The usual form that gives the highest clean accuracy, None where none is worth a word.

    `data` are labelled and in no order: where half of them are enough, the others are not looked at. `answers` are the
    model's to them, where they are known.
    """
    assert data.labels is not None, "without labels there is no accuracy"
    answers = predict(classifier, data.images, told, SMALL_BATCH) if answers is None else answers
    wrong = (answers != data.labels).nonzero().squeeze(1)
    count = int(wrong[TRIED_ON]) if len(wrong) > TRIED_ON else len(data)
    wrong, right = wrong[:TRIED_ON], (answers[:count] == data.labels[:count]).nonzero().squeeze(1)
    gain = _clear_gain(len(wrong) / count)
    if len(wrong) < gain * count:
        return None
    forms = [
        _Tried(said, classifier.changed(normalize=normalize)) for said, normalize in _forms(classifier.input_shape[0])
    ]
    num_forms, seen = len(forms), 0
    for until, keep in (*ROUNDS, (len(wrong), 2)):
        rows, seen = wrong[seen:until], min(until, len(wrong))
        for form in forms:
            form.fixed += form.hits(data.take(rows), told) if len(rows) else 0
        forms = sorted(forms, key=lambda form: -form.fixed)[:keep]
        if 1 - binomial_sf(forms[0].fixed + 1, seen, gain * count / len(wrong)) < NO_GAIN_P:
            return None
    for form in forms:
        form.broken = len(right) - form.hits(data.take(right), told) if len(right) else 0
    best = max(forms, key=lambda form: form.fixed - form.broken)
    accuracy, declared = (len(right) + best.fixed - best.broken) / count, len(right) / count
    p = min(1.0, num_forms * binomial_sf(best.fixed, best.fixed + best.broken, 0.5))
    found = InputForm(best.said, accuracy, declared, count, p)
    return found if found.worth_a_word else None


def _clear_gain(errors: float) -> float:
    return max(CLEAR_GAIN, CLEAR_SHARE * errors)


@dataclass
class _Tried:
    """A form, how many images it gives their own label where the declared one does not, and the reverse."""

    said: str
    classifier: Classifier
    fixed: int = 0
    broken: int = 0

    def hits(self, data: ImageSet, told: Told) -> int:
        """How many of the images get their own label."""
        assert data.labels is not None, "without labels there are no hits"
        return int((predict(self.classifier, data.images, told, SMALL_BATCH) == data.labels).sum())


def _forms(channels: int) -> Iterator[tuple[str, Normalize]]:
    usual = (*USUAL, *(USUAL_COLOUR if channels == 3 else USUAL_GREY if channels == 1 else ()))
    yield from usual
    if channels == 3:
        yield from ((f"{said} --bgr", replace(normalize, bgr=True)) for said, normalize in usual)
