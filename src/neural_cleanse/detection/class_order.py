"""Which numbering of the classes a model was trained with: the declared one, or another usual one that fits better."""

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.input_form import LEAST_GAIN, TRIED_ON
from neural_cleanse.images import ClassOrder, ImageSet, balanced
from neural_cleanse.metrics import clean_accuracy, predict


def in_model_order(
    classifier: Classifier, data: ImageSet, names: tuple[str, ...] | None
) -> tuple[ImageSet, str | None]:
    """The images numbered by the model's own `names` of its classes; without them in the order that fits its answers.

    With them in words what was assumed. Raises DataError when the data have a class that the model does not name.
    """
    return in_fitting_order(classifier, data, 0) if names is None else (data.in_order_of(names), None)


def in_fitting_order(classifier: Classifier, data: ImageSet, seed: int) -> tuple[ImageSet, str | None]:
    """The images in the order of classes that the model answers in, and what was changed, in words.

    Another order than the declared one is taken only where accuracy is higher by LEAST_GAIN, or where the declared one
    has more classes than the model.
    """
    if data.labels is None or not data.orders or data.shape != classifier.input_shape:
        return data, None
    sample = data.take(balanced(data.labels, TRIED_ON, seed))
    answers = predict(classifier, sample.images)

    def accuracy(order: ClassOrder | None) -> float:
        """Below 0 where the order has a class that the model does not have."""
        labels = (sample if order is None else sample.in_order(order)).labels
        assert labels is not None, "checked above"
        return clean_accuracy(answers, labels) if int(labels.max()) < classifier.num_classes else -1.0

    declared = accuracy(None)
    best = max(data.orders, key=accuracy)
    reached = accuracy(best)
    if reached < declared + LEAST_GAIN:
        return data, None
    before = f"{declared:.1%}" if declared >= 0 else "more classes than the model has"
    return data.in_order(best), f"classes in {best.what}: accuracy {reached:.1%}, in the usual order {before}"
