"""Triggers that are no patch for all images are found by default, named, and evidenced; a clean model is clean."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from left_out import left_out
from planted_networks import SOURCE, TARGET, PairBackdoor, ShiftBackdoor
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import Deadline, OutOfTime
from neural_cleanse.detection import feature_space as spaces
from neural_cleanse.detection import teaching
from neural_cleanse.detection.feature_space import FeatureSpace, feature_space
from neural_cleanse.detection.progress import Phase, Progress
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.report.page import html
from neural_cleanse.results import storage
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import LabelPair, ScanResult, Verdict


@pytest.fixture(scope="module")
def warped(clean: Classifier, digits: ImageSet) -> ScanResult:
    assert isinstance(clean.module, nn.Sequential)
    model = Classifier(ShiftBackdoor(clean.module), clean.input_shape, clean.num_classes)
    with pytest.MonkeyPatch.context() as patch:
        left_out(patch, pairs=True)
        return scan(model, digits, ScanSettings())


def test_a_planted_shift_is_found_named_and_has_no_picture(warped: ScanResult, tmp_path: Path) -> None:
    patches, features, *_ = warped.tests
    assert features.kind is Kind.FEATURE and features.flagged == (LabelPair(TARGET),)
    assert features.p_value is not None and features.p_value <= warped.alpha
    assert warped.verdict is Verdict.INFECTED and TARGET in warped.flagged
    assert "feature-space trigger" in warped.reason and "Looked for: patches, feature-space triggers" in warped.reason
    (shown,) = (one for one in warped.evidence if one.kind is Kind.FEATURE) if not patches.flagged else (None,)
    if shown is not None:
        assert len(shown.after) == 0 and len(shown.before) == len(shown.answers_after) > 0
        assert sum(rate.hits for rate in shown.by_source) > 0.9 * sum(rate.trials for rate in shown.by_source)
    storage.save_result(warped, tmp_path)
    again = storage.load_result(tmp_path)
    assert again.tests == warped.tests and again.flagged == warped.flagged
    assert "feature-space" in html(again)


Cleared = tuple[ScanResult, list[Progress]]


@pytest.fixture(scope="module")
def cleared(clean: Classifier, digits: ImageSet) -> Cleared:
    """The clean demo model looked at for every kind, and what was told on the way."""
    seen: list[Progress] = []
    return scan(clean, digits, ScanSettings(), progress=seen.append), seen


def test_the_share_is_of_all_parts_and_reaches_the_end_with_the_last(cleared: Cleared) -> None:
    _, seen = cleared
    names = list(dict.fromkeys(progress.phase.name.split(",")[0] for progress in seen))
    assert names == [
        "checking the input", "patches", "shifts of features", "all-to-all patches", "all-to-all shifts of features",
        "one-class patches", "largest margins", "training a student network", "largest margins of a student network",
        "evidence",
    ]  # fmt: skip
    last = seen[-1]
    assert last.passes_done == last.passes_planned
    assert all(progress.share < 0.97 for progress in seen if progress.phase.name == "patches")
    assert all(progress.phase.done <= progress.phase.count for progress in seen)
    pairs = [progress.phase for progress in seen if progress.phase.name == "one-class patches"]
    assert pairs[-1] == Phase("one-class patches", 90, 90, "pairs")


def test_a_clean_model_is_clean_and_says_what_was_looked_for(cleared: Cleared) -> None:
    result, _ = cleared
    assert result.verdict is Verdict.CLEAN and result.flagged == ()
    assert [test.kind for test in result.tests] == list(Kind)
    assert "one-class patches, all-to-all patches" in result.reason
    taught = teaching.StudentPlan().passes
    assert result.image_passes == sum(test.image_passes for test in result.tests) + taught


def test_a_one_class_trigger_is_found_by_default(
    clean: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_out(monkeypatch, features=True)
    result = scan(Classifier(PairBackdoor(clean.module), clean.input_shape, clean.num_classes), digits, ScanSettings())
    pairs = next(test for test in result.tests if test.kind is Kind.PAIRS)
    assert pairs.flagged == (LabelPair(TARGET, SOURCE),) and result.verdict is Verdict.INFECTED
    assert any(one.pair == LabelPair(TARGET, SOURCE) and len(one.after) for one in result.evidence)


def test_a_spent_budget_says_what_was_not_looked_for(clean: Classifier, digits: ImageSet) -> None:
    result = scan(clean, digits, ScanSettings(max_passes=14_000))
    assert result.tests[1].forward_passes > 500, "all images went through to the cut"
    assert result.tests[1].verdict is None and "not for: feature-space triggers" in result.reason


def test_the_passes_of_cutting_a_network_are_counted(clean: Classifier, digits: ImageSet) -> None:
    images, calls, spent = ScanImages.of(clean, digits, 0), list[int](), list[int]()
    handle = clean.module.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    try:
        feature_space(clean, images, spent.append)
    finally:
        handle.remove()
    assert spent == [sum(calls)] and spent[0] > len(images.images)
    with pytest.raises(OutOfTime):
        feature_space(clean.changed(deadline=Deadline(-1)), images, spent.append)
    assert len(spent) == 2, "also where time ends it"


def test_a_network_without_a_cut_and_activations_that_do_not_fit_say_so(
    clean: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), (1, 28, 28), 10)
    assert feature_space(flat, ScanImages.of(flat, digits, 0)) == "the network cannot be cut behind its first layers"
    monkeypatch.setattr(spaces, "MOST_BYTES", 2**20)
    assert feature_space(clean, ScanImages.of(clean, digits, 0)) == "the activations of 500 images take over 1 MiB"


def test_the_tail_answers_as_the_network_in_units_of_the_spread(clean: Classifier, digits: ImageSet) -> None:
    images = ScanImages.of(clean, digits, 0)
    space = feature_space(clean, images)
    assert isinstance(space, FeatureSpace) and 0 < space.share <= 1
    assert float(space.images.images.std()) == pytest.approx(1, abs=1e-4)
    assert torch.equal(space.classifier(space.images.images[:50]).argmax(1), images.answers[:50])


def test_images_that_the_model_cannot_read_are_not_searched_further(clean: Classifier, digits: ImageSet) -> None:
    wrong = replace(digits, labels=(digits.labels + 1) % 10) if digits.labels is not None else digits
    result = scan(clean, wrong, ScanSettings(force=True, max_passes=2000))
    assert result.verdict is Verdict.INCONCLUSIVE and [test.kind for test in result.tests] == [Kind.PATCH]
