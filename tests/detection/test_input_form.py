"""The form of input that fits: found, said, and never chosen."""

from dataclasses import replace

import pytest
import torch

from neural_cleanse.classifier import Classifier, Normalize
from neural_cleanse.detection.first_look import first_look
from neural_cleanse.detection.input_form import InputForm, best_form
from neural_cleanse.detection.progress import Work
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


@pytest.mark.parametrize(
    ("wrong", "declared"), [(Normalize((0.485,), (0.229,)), 0.93), (Normalize((0.5,), (1.0,)), 0.89)], ids=["6", "11"]
)
def test_a_wrong_form_that_costs_some_points_stops_the_scan_and_is_named(
    infected: Classifier, digits: ImageSet, wrong: Normalize, declared: float
) -> None:
    form = replace(infected, normalize=wrong)
    named = r"With pixels in \[0, 1\] .* it would be 9[89]\.\d% \(500 images\)"
    with pytest.raises(InputSanityError, match=named) as refused:
        first_look(form, digits, ScanSettings(), Work(lambda _: None))
    assert refused.value.cure.startswith("Look up what the model was trained on")
    insisted = first_look(form, digits, ScanSettings(force=True), Work(lambda _: None)).checked
    assert insisted.accuracy == pytest.approx(declared, abs=0.03) and insisted.doubt is None
    assert len(insisted.warnings) == 1 and "it would be 9" in insisted.warnings[0]


def test_the_right_form_is_looked_at_in_no_other(infected: Classifier, digits: ImageSet) -> None:
    """Nothing is left to gain, so no image is spent."""
    look = first_look(infected, digits, ScanSettings(), Work(lambda _: None))
    assert look.checked.warnings == () and look.checked.doubt is None
    assert look.forward_passes <= 36 + 256 + len(digits)


class EvenlyLit(torch.nn.Module):
    """A digit classifier that brings every image to one mean and contrast: all forms are alike to it."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        spread = images.std((1, 2, 3), keepdim=True)
        return self.module((images - images.mean((1, 2, 3), keepdim=True)) / spread * 0.45 + 0.45)


def test_a_form_that_is_only_as_good_stops_nothing(clean: Classifier, digits: ImageSet) -> None:
    alike = replace(clean, module=EvenlyLit(clean.module))
    look = first_look(alike, digits, ScanSettings(), Work(lambda _: None))
    assert look.checked.accuracy is not None and 0.5 < look.checked.accuracy < 0.98
    assert best_form(alike, shuffled(digits)) is None
    assert "it would be" not in " ".join(look.checked.warnings)


@pytest.mark.parametrize(("fixed", "clear"), [(4, False), (60, True)])
def test_a_gain_that_may_be_chance_is_not_clear(fixed: int, clear: bool) -> None:
    """The network answers the first images with their label only where they come in another form."""

    class Needs(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            scaled = images.amax((1, 2, 3)) > 100
            first = torch.where(scaled, images[:, 0, 0, 0] / 255, images[:, 0, 0, 0])
            wrong = (first > 0.5) & ~scaled
            even = (images[:, 0, 1, 1] / images.amax((1, 2, 3)) > 0.5).long() ^ wrong.long()
            return torch.nn.functional.one_hot(even, 2).float()

    images = torch.zeros(160, 1, 2, 2, dtype=torch.uint8)
    labels = torch.arange(160) % 2
    images[:, 0, 1, 0], images[:, 0, 1, 1] = 255, (255 * labels).to(torch.uint8)
    images[:fixed, 0, 0, 0] = 255
    found = best_form(Classifier(Needs(), (1, 2, 2), 2), ImageSet(images, labels))
    assert (found is not None and found.is_clear) is clear
    assert found is None or (found.options == "--scale 255" and found.accuracy == 1 and found.num_images == 160)


def test_the_refusal_of_a_scan_names_the_form_that_fits(clean: Classifier, digits: ImageSet) -> None:
    wrong = replace(clean, normalize=Normalize((100.0,), (1.0,)))
    with pytest.raises(InputSanityError, match=r"With .* it would be 9\d\.\d%"):
        scan(wrong, digits, ScanSettings(patches_only=True, labels=(0,), restarts=1))


def test_a_gain_that_is_likely_no_chance_is_worth_a_word() -> None:
    """Under 2 points, or likely by chance: nothing. Clear: a stop. Between them: a word."""
    form = InputForm("--scale 255", 0.868, 0.834, 500, 0.009)
    assert form.worth_a_word and not form.is_clear
    assert not replace(form, p=0.06).worth_a_word and not replace(form, accuracy=0.85).worth_a_word
    assert replace(form, p=0.5, accuracy=0.94).worth_a_word
    assert replace(form, p=1e-4, accuracy=0.88).is_clear
