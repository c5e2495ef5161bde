"""Images in the wrong form must not end in a verdict."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier, Normalize
from neural_cleanse.detection.input_check import check_input, check_labels, check_shape
from neural_cleanse.detection.input_form import InputForm
from neural_cleanse.detection.progress import Progress
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.errors import DataError, InputSanityError, SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.results.records import Verdict

QUICK = ScanSettings(patches_only=True, restarts=1, samples=100)


def answered(*counts: int) -> Tensor:
    """So many answers of class 0, of class 1, ..."""
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


# --- accuracy ---


@pytest.mark.parametrize("shift", [1, 3])
def test_no_better_than_chance_is_refused(shift: int) -> None:
    labels = answered(*[20] * 10)
    wrong = (labels + shift) % 10
    with pytest.raises(InputSanityError, match=r"0\.0% of the 200 clean images.*--scale"):
        check_input(wrong, labels, 10, force=False)
    forced = check_input(wrong, labels, 10, force=True)
    assert forced.accuracy == 0
    assert forced.doubt is not None
    assert any("no better than" in warning for warning in forced.warnings)


def test_a_few_right_answers_ask_for_more_images() -> None:
    labels = answered(2, 1, 1)
    with pytest.raises(InputSanityError, match=r"all 4 clean images .* Give more images, at least 50"):
        check_input(labels, labels, 3, force=False)
    assert check_input(labels, labels, 3, force=True).accuracy == 1


def test_always_the_commonest_class_is_chance() -> None:
    """90 % right by never looking at the image is no reading of it."""
    labels = answered(90, 10)
    with pytest.raises(InputSanityError, match=r"commonest class \(90\.0%\)"):
        check_input(torch.zeros_like(labels), labels, 2, force=False)
    assert check_input(labels, labels, 2, force=False).doubt is None


def test_images_of_one_class_prove_nothing() -> None:
    labels = answered(0, 60)
    with pytest.raises(InputSanityError):
        check_input(labels, labels, 2, force=False)


def test_low_accuracy_is_reported() -> None:
    labels = answered(*[20] * 10)
    half = torch.where(torch.arange(200) % 2 == 0, labels, (labels + 1) % 10)
    check = check_input(half, labels, 10, force=False)
    assert check.accuracy == pytest.approx(0.5)
    assert check.doubt is None
    assert any("only 50.0%" in warning for warning in check.warnings)
    good = check_input(labels, labels, 10, force=False)
    assert (good.accuracy, good.warnings, good.doubt) == (1.0, (), None)


BETTER = InputForm("--scale 255", 0.9, 0.5, 200, 1e-9)


def half_right(count: int = 200) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 10
    return torch.where(torch.arange(count) % 20 < 10, labels, (labels + 1) % 10), labels


def test_a_clearly_better_form_stops_the_scan_unless_the_user_insists() -> None:
    told = r"answers 50\.0% of the 200.*With --scale 255 it would be 90\.0% \(200 images\)\. Look up what"
    with pytest.raises(InputSanityError, match=told):
        check_input(*half_right(), 10, force=False, better=lambda: BETTER)
    insisted = check_input(*half_right(), 10, force=True, better=lambda: BETTER)
    assert insisted.doubt is None
    assert any("With --scale 255 it would be 90.0%" in warning for warning in insisted.warnings)


@pytest.mark.parametrize(
    "form", [replace(BETTER, accuracy=0.61), replace(BETTER, p=0.01)], ids=["small gain", "may be chance"]
)
def test_a_form_that_is_not_clearly_better_is_only_said(form: InputForm) -> None:
    check = check_input(*half_right(), 10, force=False, better=lambda: form)
    assert any(f"it would be {form.accuracy:.1%}" in warning for warning in check.warnings)


def test_a_good_accuracy_that_another_form_raises_clearly_stops_the_scan_too() -> None:
    labels = torch.arange(200) % 10
    answers = torch.where(torch.arange(200) < 186, labels, (labels + 1) % 10)
    form = InputForm("--mean 0.5 --std 0.5", 0.99, 0.93, 200, 1e-6)
    with pytest.raises(InputSanityError, match=r"answers 93\.0% of the 200.*it would be 99\.0% .*Look up.*--force"):
        check_input(answers, labels, 10, force=False, better=lambda: form)
    insisted = check_input(answers, labels, 10, force=True, better=lambda: form)
    assert insisted.doubt is None
    assert insisted.warnings == ("clean accuracy is 93.0%. With --mean 0.5 --std 0.5 it would be 99.0% (200 images)",)


def test_without_labels_no_form_is_asked_for() -> None:
    def never() -> InputForm:
        raise AssertionError("there is no accuracy to compare")

    assert check_input(half_right()[0], None, 10, force=False, better=never).warnings == ()


def test_few_images_are_reported() -> None:
    labels = answered(*[4] * 10)
    assert any("only 40 images" in warning for warning in check_input(labels, labels, 10, force=False).warnings)


# --- without labels ---


@pytest.mark.parametrize(
    ("counts", "doubted"),
    [([10] * 10, False), ([60] + [5] * 8, True), ([49, 51], False), ([95, 5], False), ([100] + [0] * 9, True)],
)
def test_one_answer_for_everything_is_doubted(counts: list[int], doubted: bool) -> None:
    check = check_input(answered(*counts), None, max(10, len(counts)) if len(counts) > 2 else 2, force=False)
    assert (check.doubt is not None) is doubted
    assert check.accuracy is None


# --- whole scans ---


def test_an_infected_model_behind_a_wrong_scale_is_not_called_infected(infected: Classifier, digits: ImageSet) -> None:
    blind = Classifier(infected.module, infected.input_shape, 10, Normalize((4.0,), (0.01,)))
    with pytest.raises(InputSanityError):
        scan(blind, digits, QUICK)
    forced = scan(blind, digits, ScanSettings(patches_only=True, restarts=1, samples=60, force=True))
    assert forced.verdict is Verdict.INCONCLUSIVE
    assert forced.flagged == ()
    assert "no better than" in forced.reason
    unlabelled = scan(blind, digits.without_labels(), ScanSettings(patches_only=True, restarts=1, samples=60))
    assert unlabelled.verdict is Verdict.INCONCLUSIVE
    assert "wrong form" in unlabelled.reason


def test_a_wrong_normalisation_is_told_before_the_first_step(infected: Classifier, digits: ImageSet) -> None:
    wrong = replace(infected, normalize=Normalize((0.9,), (0.05,)))
    told = list[Progress]()
    with pytest.raises(InputSanityError, match=r"With .* it would be 9\d\.\d% \(200 images\)"):
        scan(wrong, digits, ScanSettings(patches_only=True, restarts=1), progress=told.append)
    assert {one.phase.name for one in told} == {"checking the input"}
    told.clear()
    found = scan(
        wrong, digits, ScanSettings(patches_only=True, labels=(3,), restarts=1, force=True), progress=told.append
    )
    first = next(one for one in told if one.phase.name == "patches")
    assert first.warnings == told[-1].warnings
    assert "it would be 9" in first.warnings[0]
    assert first.warnings[0] in found.provenance.notes


def test_labels_outside_the_models_classes(infected: Classifier, digits: ImageSet) -> None:
    assert digits.labels is not None
    wrong = ImageSet(digits.images, digits.labels + 1)
    with pytest.raises(DataError, match=r"labels 1 to 10, the model has the classes 0 to 9.*--ignore-labels"):
        scan(infected, wrong, QUICK)
    check_labels(wrong.without_labels(), 10)
    with pytest.raises(DataError, match="label -1"):
        ImageSet(digits.images, digits.labels - 1)


def test_images_of_the_wrong_shape(infected: Classifier) -> None:
    with pytest.raises(DataError, match=r"32x30 pixels, the model takes 28x28.*--resize 28x28"):
        scan(infected, ImageSet(torch.zeros(4, 1, 32, 30, dtype=torch.uint8)), QUICK)
    with pytest.raises(DataError, match=r"3 channels \(3x28x28\), the model takes 1 \(1x28x28\)"):
        scan(infected, ImageSet(torch.zeros(4, 3, 28, 28, dtype=torch.uint8)), QUICK)
    check_shape(ImageSet(torch.zeros(4, 1, 28, 28, dtype=torch.uint8)), (1, 28, 28))


@pytest.mark.parametrize("labels", [(10,), (-1, 3), ()])
def test_labels_to_search_that_are_not_there(infected: Classifier, digits: ImageSet, labels: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match="labels 0 to 9"):
        scan(infected, digits, ScanSettings(patches_only=True, labels=labels, restarts=1, samples=60))


@pytest.mark.parametrize(
    "values", [{"alpha": 0.0}, {"alpha": 1.0}, {"alpha": float("nan")}, {"samples": 0}, {"seed": -1}], ids=str
)
def test_settings_that_make_no_sense(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        ScanSettings(patches_only=True, **values)  # type: ignore[arg-type]


def test_no_images_and_a_single_image(planted: Classifier, grey_images: ImageSet) -> None:
    with pytest.raises(DataError, match="not one image"):
        ImageSet(torch.zeros(0, 1, 16, 16, dtype=torch.uint8))
    result = scan(planted, grey_images.take(torch.tensor([0])), QUICK)
    assert result.verdict is Verdict.INCONCLUSIVE


def test_the_commonest_answer_is_told_by_name_of_its_number() -> None:
    assert "label 7" in str(check_input(torch.full((60,), 7), None, 10, force=False).doubt)


def test_a_constant_network_is_inconclusive(digits: ImageSet) -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum((1, 2, 3)).unsqueeze(1) * 0 + torch.eye(10)[4]

    result = scan(Classifier(Constant(), (1, 28, 28), 10), digits.without_labels(), QUICK)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.flagged == ()
