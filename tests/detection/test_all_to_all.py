"""One trigger that sends each class to a label of its own: found, named, shown, kept, and told from natural maps."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted_networks import MapBackdoor

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.all_to_all import classes_of
from neural_cleanse.detection.feature_test import FeatureTest
from neural_cleanse.detection.kinds_found import not_made
from neural_cleanse.detection.one_class import OneClass
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.detection.stages import Stages
from neural_cleanse.detection.student import Student
from neural_cleanse.detection.teaching import Teaching
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion import class_maps
from neural_cleanse.inversion.checkpoint import Checkpoint
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.mitigation.base import known_backdoors
from neural_cleanse.report.page import html
from neural_cleanse.report.summary import plain
from neural_cleanse.results import storage
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import KindTest, LabelPair, ScanResult, Verdict

NEXT = tuple(LabelPair((source + 1) % 10, source) for source in range(10))


@pytest.fixture(scope="module", autouse=True)
def _others_left_out() -> Iterator[None]:
    """The other kinds have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureTest, "run", lambda *_: not_made(Kind.FEATURE, "left out"))
        patch.setattr(OneClass, "run", lambda *_: not_made(Kind.PAIRS, "left out"))
        yield


def of_kind(result: ScanResult, kind: Kind) -> KindTest:
    return next(test for test in result.tests if test.kind is kind)


@pytest.fixture(scope="module")
def planted(clean: Classifier) -> Classifier:
    return Classifier(MapBackdoor(clean.module), clean.input_shape, clean.num_classes)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of the patches of each model: they are searched once."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def found(planted: Classifier, digits: ImageSet, kept: Path) -> ScanResult:
    return scan(planted, digits, ScanSettings(), checkpoint=Checkpoint(kept / "planted"))


@pytest.fixture(scope="module")
def cleared(clean: Classifier, digits: ImageSet, kept: Path) -> ScanResult:
    return scan(clean, digits, ScanSettings(), checkpoint=Checkpoint(kept / "clean"))


def test_the_whole_map_is_found_with_one_small_trigger(found: ScanResult) -> None:
    test = of_kind(found, Kind.ALL_TO_ALL)
    assert found.verdict is Verdict.INFECTED and test.verdict is Verdict.INFECTED
    assert sorted(test.mapped, key=lambda pair: pair.source or 0) == list(NEXT) and found.flagged == tuple(range(10))
    assert test.p_value is not None and test.p_value <= found.alpha
    (size,) = {row.size for row in test.rows}
    assert size is not None and test.usual_size is not None and size < test.usual_size / 2
    assert "every label to the one 1 further on" in found.reason


def test_the_first_sentence_names_the_map_and_not_ten_labels(found: ScanResult) -> None:
    said = plain(found)
    assert said.startswith("One small patch (") and "images of 10 classes each to another label" in said
    assert "more labels were flagged" not in plain(found)


def test_it_is_shown_kept_and_can_be_repaired(found: ScanResult, tmp_path: Path) -> None:
    shown = [one for one in found.evidence if one.kind is Kind.ALL_TO_ALL]
    assert {one.pair for one in shown} == {*NEXT} and all(len(one.after) for one in shown)
    storage.save_result(found, tmp_path)
    again = storage.load_result(tmp_path)
    assert again.tests == found.tests and "all-to-all" in html(again)
    backdoors = known_backdoors(again, None)
    assert {one.pair for one in backdoors} == {*NEXT}
    assert {one.natural for one in backdoors} == {of_kind(found, Kind.ALL_TO_ALL).usual_size}


@pytest.mark.usefixtures("found")
def test_a_map_that_a_student_has_too_belongs_to_the_classes(
    planted: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch, kept: Path
) -> None:
    def itself(self: Teaching, stages: Stages, number: int = 0, least: float | None = None) -> Student:
        return Student(planted, 100, 100)

    monkeypatch.setattr(Teaching, "good_student", itself)
    result = scan(planted, digits, ScanSettings(), checkpoint=Checkpoint(kept / "planted"))
    test = of_kind(result, Kind.ALL_TO_ALL)
    assert test.verdict is Verdict.CLEAN and test.flagged == () and "a student network has one too" in test.reason
    assert test.p_value == 1.0, "what is the classes' is no evidence against the model"


@pytest.mark.usefixtures("found")
def test_without_a_student_nothing_is_decided(
    planted: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch, kept: Path
) -> None:
    monkeypatch.setattr(Teaching, "good_student", lambda self, stages, number=0, least=None: None)
    result = scan(planted, digits, ScanSettings(), checkpoint=Checkpoint(kept / "planted"))
    test = of_kind(result, Kind.ALL_TO_ALL)
    assert test.verdict is Verdict.INCONCLUSIVE and "no good student" in test.reason and test.flagged == ()


def test_a_clean_model_is_not_compared_with_random_maps(cleared: ScanResult) -> None:
    test = of_kind(cleared, Kind.ALL_TO_ALL)
    assert test.verdict is Verdict.CLEAN and test.p_value == 1.0
    assert test.image_passes <= 3 * 1280


@pytest.mark.usefixtures("cleared")
def test_a_limit_on_images_at_once_leaves_it_out_and_says_so(
    clean: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch, kept: Path
) -> None:
    monkeypatch.setattr(class_maps, "BATCH", 100_000)
    result = scan(clean, digits, ScanSettings(), checkpoint=Checkpoint(kept / "clean"))
    test = of_kind(result, Kind.ALL_TO_ALL)
    assert test.verdict is None and test.reason == "memory does not hold enough images at once"
    assert "all-to-all patches (memory does not hold enough images at once)" in result.reason


def test_a_class_without_images_takes_no_part(clean: Classifier, digits: ImageSet) -> None:
    assert digits.labels is not None
    some = digits.take(torch.nonzero(digits.labels != 4).squeeze(1))
    assert classes_of(ScanImages.of(clean, some, 0), 10) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    few = replace(digits, labels=None).take(torch.arange(30))
    assert len(classes_of(ScanImages.of(clean, few, 0), 10)) < 8
