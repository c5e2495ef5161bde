"""A wrong input is refused after few images; one that may be right is looked at whole, as ever."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.first_look import first_look
from neural_cleanse.detection.input_check import temperature
from neural_cleanse.detection.prepare import prepare
from neural_cleanse.detection.progress import Work
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.errors import InputSanityError, UnusableOutputs
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import margin, predict


class Table(nn.Module):
    """Answers an image with the class that its first pixel names, in fives of 255; counts the images."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes, self.seen = classes, [0]

    def __deepcopy__(self, memo: object) -> "Table":
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen[0] += len(images)
        named = (images[:, 0, 0, 0] * 51).round().long()
        return 9.0 * nn.functional.one_hot(named % self.classes, self.classes).float()


def answered(shares: float, count: int = 1000, classes: int = 40) -> tuple[Classifier, Table, ImageSet]:
    """Images of which a table answers that share with their label, the others with the next."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    wrong = torch.rand(count, generator=generator) >= shares
    images = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
    images[:, 0, 0, 0] = ((labels + wrong) % classes * 5).to(torch.uint8)
    table = Table(classes)
    return Classifier(table, (1, 4, 4), classes), table, ImageSet(images, labels)


def test_answers_that_are_all_wrong_are_refused_after_few_images() -> None:
    classifier, table, data = answered(0.0)
    table.seen[0] = 0
    with pytest.raises(InputSanityError, match=r"0\.0% of the 72 clean images .* commonest class \(2\.5%\)"):
        first_look(classifier, data, ScanSettings(), Work(lambda _: None))
    assert table.seen[0] < 1000


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_answers_that_make_sense_are_those_of_all_images(share: float) -> None:
    classifier, table, data = answered(share)
    assert data.labels is not None
    table.seen[0] = 0
    look = first_look(classifier, data, ScanSettings(), Work(lambda _: None))
    assert look.forward_passes == table.seen[0] >= 1000 + 250
    assert torch.equal(look.images.answers, predict(classifier, data.images))
    assert look.checked.accuracy == pytest.approx(share, abs=0.05) and look.checked.doubt is None
    assert look.temperature == temperature(margin(classifier, data.images))
    assert bool(look.checked.warnings) is (share < 0.8)


def test_answers_to_unlabelled_images_are_counted(infected: Classifier, digits: ImageSet) -> None:
    settings = ScanSettings(patches_only=True, samples=300)
    prepared = prepare(infected, digits.without_labels(), settings, Work(lambda _: None))
    assert prepared.forward_passes == len(digits.distinct()) + 300 // 2 + 300, "every second for the scale of logits"


def test_forced_or_unlabelled_images_are_not_refused_early() -> None:
    classifier, _, data = answered(0.0)
    forced = first_look(classifier, data, ScanSettings(force=True), Work(lambda _: None))
    assert forced.checked.doubt is not None and "1000 clean images" in forced.checked.doubt
    free = first_look(classifier, data.without_labels(), ScanSettings(), Work(lambda _: None))
    assert free.checked.accuracy is None and free.checked.doubt is None


def test_a_network_that_answers_with_no_number_is_refused_as_such() -> None:
    classifier, table, data = answered(0.0)

    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return table(images) + torch.nan

    broken = replace(classifier, module=Broken())
    with pytest.raises(UnusableOutputs, match="outputs NaN"):
        first_look(broken, data, ScanSettings(), Work(lambda _: None))
