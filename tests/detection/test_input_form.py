"""The form of input that fits: found, said, and never chosen."""

from dataclasses import replace

import pytest
import torch

from neural_cleanse.classifier import Classifier, Normalize
from neural_cleanse.detection.input_form import best_form
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.errors import InputSanityError
from neural_cleanse.images import ImageSet


def shuffled(digits: ImageSet) -> ImageSet:
    return digits.take(torch.randperm(len(digits), generator=torch.Generator().manual_seed(0)))


def test_the_declared_form_is_left_alone_where_it_fits(clean: Classifier, digits: ImageSet) -> None:
    assert best_form(clean, shuffled(digits)) is None


@pytest.mark.parametrize("wrong", [Normalize((0.9,), (0.05,)), Normalize((-3.0,), (1.0,))])
def test_a_wrong_form_is_found_out(clean: Classifier, digits: ImageSet, wrong: Normalize) -> None:
    found = best_form(replace(clean, normalize=wrong), shuffled(digits))
    assert found is not None and found.accuracy > 0.9


class RedFirst(torch.nn.Module):
    """Says which colour is strongest, blue at position 0."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 20 * images.flip(1).mean((2, 3))


def test_blue_first_is_found() -> None:
    labels = torch.arange(60) % 3
    images = torch.zeros(60, 3, 4, 4, dtype=torch.uint8)
    images[torch.arange(60), labels] = 255
    found = best_form(Classifier(RedFirst(), (3, 4, 4), 3), ImageSet(images, labels))
    assert found is not None and found.options.endswith("--bgr") and found.accuracy == 1


def test_normalising_blue_first_keeps_mean_and_std_of_their_colours() -> None:
    images = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    usual = Normalize((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert torch.equal(replace(usual, bgr=True)(images), usual(images).flip(1))


def test_the_refusal_of_a_scan_names_the_form_that_fits(clean: Classifier, digits: ImageSet) -> None:
    wrong = replace(clean, normalize=Normalize((100.0,), (1.0,)))
    with pytest.raises(InputSanityError, match=r"With .* it would be 9\d\.\d%"):
        scan(wrong, digits, ScanSettings(patches_only=True, labels=(0,), restarts=1))
