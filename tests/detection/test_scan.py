"""The whole method on real digits: the right verdict, the right label, the right evidence."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.baseline import baseline_record
from neural_cleanse.detection.progress import Progress
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.errors import SettingsError, UnusableOutputs
from neural_cleanse.images import ImageSet
from neural_cleanse.results import storage
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import LabelPair, Outcome, ScanResult, Verdict


@pytest.fixture(scope="module")
def found(infected: Classifier, digits: ImageSet) -> ScanResult:
    """The infected demo model, scanned once."""
    return scan(infected, digits, ScanSettings(patches_only=True))


@pytest.fixture(scope="module")
def cleared(clean: Classifier, digits: ImageSet) -> ScanResult:
    """The clean demo model, scanned once."""
    return scan(clean, digits, ScanSettings(patches_only=True))


def test_the_backdoor_is_found_where_it_is(found: ScanResult) -> None:
    """A white 4x4 square at rows and columns 23-26 sends digits to 3."""
    assert found.verdict is Verdict.INFECTED and found.flagged == (3,)
    mask = found.triggers[LabelPair(3)]["mask"][0, 0]
    assert mask[22:28, 22:28].sum() > 0.6 * mask.sum()
    assert found.p_value is not None and found.p_value < 0.01


def test_a_backdoor_that_is_clear_in_screening_is_refined_and_the_others_are_not(found: ScanResult) -> None:
    row = found.labels[3]
    assert row.outcome is Outcome.REFINED and row.size is not None and row.refined is not None
    mask = found.triggers[LabelPair(3)]["mask"]
    assert mask.sum().item() == pytest.approx(row.refined.size) and row.refined.size < row.size
    assert all(other.outcome is Outcome.SCREENED for other in found.labels if other.target != 3)
    assert found.image_passes == 10 * 1344 + (2172 - 1344)
    assert storage.to_json(found)["labels"][3]["refined"]["size"] == row.refined.size


def test_screening_settles_what_all_steps_say(found: ScanResult, infected: Classifier, digits: ImageSet) -> None:
    whole = scan(infected, digits, ScanSettings(patches_only=True, plan="full", labels=(3,), max_passes=2172))
    assert whole.labels[0].size == found.labels[3].shown.size  # the same search, to the last bit
    assert torch.equal(whole.triggers[LabelPair(3)]["mask"], found.triggers[LabelPair(3)]["mask"])
    every = scan(infected, digits, ScanSettings(patches_only=True, plan="full"))
    assert (every.verdict, every.flagged) == (found.verdict, found.flagged)


@pytest.mark.parametrize("scale", [255.0, 0.01])
def test_the_scale_of_the_last_layer_hides_nothing(infected: Classifier, digits: ImageSet, scale: float) -> None:
    """It changes no answer; it would starve screening, or drown the search in the cost of the size."""
    module = copy.deepcopy(infected.module)
    *_, last = module.children()
    assert isinstance(last, nn.Linear)
    last.weight.mul_(scale)
    last.bias.mul_(scale)
    result = scan(
        Classifier(module, infected.input_shape, infected.num_classes), digits, ScanSettings(patches_only=True)
    )
    assert result.flagged == (3,) and result.p_value is not None and result.p_value < 0.001
    assert any("logits are unusually" in note for note in result.provenance.notes)


def test_answers_that_are_no_number_are_refused(infected: Classifier, digits: ImageSet) -> None:
    """A model that answers so where one label wins by much would mislead the search for that label's trigger."""

    class Blinking(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = infected.module(x)
            top = logits.topk(2, dim=1)
            sure = (top.indices[:, 0] == 3) & (top.values[:, 0] - top.values[:, 1] > 12)
            return torch.where(sure.unsqueeze(1), torch.nan, logits)

    model = Classifier(Blinking(), infected.input_shape, infected.num_classes)
    with pytest.raises(UnusableOutputs, match=r"NaN for \d+ of \d+ clean images"):
        scan(model, digits, ScanSettings(patches_only=True, force=True))


def test_logits_of_usual_scale_are_left_alone(found: ScanResult) -> None:
    assert found.provenance.settings["inversion"]["temperature"] == 1.0


@pytest.mark.parametrize(("passes", "cut_off"), [(14_268, False), (14_267, False), (13_440, True)])
def test_a_budget_that_suffices_cuts_nothing_off(
    infected: Classifier, digits: ImageSet, passes: int, cut_off: bool
) -> None:
    """Screening takes 13,440 image passes, the flagged label 828 more."""
    result = scan(infected, digits, ScanSettings(patches_only=True, max_passes=passes))
    assert result.verdict is Verdict.INFECTED and result.cut_off is cut_off
    assert (result.labels[3].outcome is Outcome.REFINED) is not cut_off


def test_the_evidence_is_from_unseen_images_of_every_other_class(found: ScanResult) -> None:
    (evidence,) = found.evidence
    assert [rate.source for rate in evidence.by_source] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    row = found.labels[3].shown
    hits, trials = sum(rate.hits for rate in evidence.by_source), sum(rate.trials for rate in evidence.by_source)
    assert row.asr == pytest.approx(hits / trials) and row.asr_interval is not None
    assert row.asr_interval[0] <= row.asr <= row.asr_interval[1]
    assert 3 not in evidence.answers_before and evidence.answers_after.count(3) >= 5


def test_the_clean_model_is_not_flagged(cleared: ScanResult) -> None:
    assert cleared.verdict is Verdict.CLEAN and cleared.flagged == () and cleared.evidence == ()


def test_sizes_that_leave_no_doubt_need_no_student(found: ScanResult, cleared: ScanResult) -> None:
    for result, verdict in ((found, Verdict.INFECTED), (cleared, Verdict.CLEAN)):
        assert result.verdict is verdict and result.student_test is None


def test_patches_alone_have_all_of_alpha(cleared: ScanResult) -> None:
    assert [(test.kind, test.share) for test in cleared.tests] == [(Kind.PATCH, 1.0)]
    assert "Looked for" not in cleared.reason


def test_the_same_scan_gives_the_same_result(infected: Classifier, digits: ImageSet) -> None:
    settings = ScanSettings(patches_only=True, labels=(2, 3, 4), restarts=1, seed=4)
    first, second = (storage.to_json(scan(infected, digits, settings)) for _ in range(2))
    assert first.pop("wall_s") and second.pop("wall_s")
    assert json.dumps(first) == json.dumps(second)


def test_without_labels_the_answers_balance_the_images(infected: Classifier, digits: ImageSet) -> None:
    result = scan(infected, digits.without_labels(), ScanSettings(patches_only=True, restarts=1, samples=300))
    assert result.flagged == (3,)
    assert any("no labels" in note for note in result.provenance.notes)
    assert result.provenance.data["images_used"] == 300


def test_results_stream_label_by_label(infected: Classifier, digits: ImageSet) -> None:
    seen: list[Progress] = []
    scan(infected, digits, ScanSettings(patches_only=True, labels=(0, 1, 2), restarts=1), progress=seen.append)
    assert [len(progress.finished) for progress in seen][-1] == 3
    assert seen[-1].passes_done == seen[-1].passes_planned


def test_settings_that_make_no_sense_are_refused(infected: Classifier, digits: ImageSet) -> None:
    for wrong in ({"alpha": 0.0}, {"alpha": 1.5}, {"samples": 0}, {"seed": -1}):
        with pytest.raises(SettingsError):
            ScanSettings(patches_only=True, **wrong)  # type: ignore[arg-type]
    for settings in (
        ScanSettings(patches_only=True, labels=(10,)),
        ScanSettings(patches_only=True, labels=()),
        ScanSettings(patches_only=True, preset="quick"),
        ScanSettings(patches_only=True, loss="hinge"),
    ):
        with pytest.raises(SettingsError):
            scan(infected, digits, settings)


def test_scanning_leaves_the_module_alone(digits: ImageSet) -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    classifier = Classifier(module, (1, 28, 28), 10)
    scan(classifier, digits, ScanSettings(patches_only=True, labels=(0,), restarts=1, force=True))
    assert module.training and all(parameter.requires_grad for parameter in module.parameters())


def test_a_scan_against_a_baseline(
    infected: Classifier, clean: Classifier, digits: ImageSet, cleared: ScanResult
) -> None:
    settings = ScanSettings(patches_only=True, restarts=1, plan="full")
    with pytest.raises(SettingsError, match="--plan full"):
        scan(infected, digits, settings, baseline=cleared)
    baseline_scan = scan(clean, digits, settings)
    found = scan(infected, digits, settings, baseline=baseline_scan)
    assert found.flagged == (3,)
    assert any("baseline" in note for note in found.provenance.notes)
    assert (
        found.provenance.settings["baseline"] == baseline_record(baseline_scan)
        and "baseline" not in baseline_scan.provenance.settings
    )
    part = replace(baseline_scan, labels=baseline_scan.labels[:4])
    with pytest.raises(SettingsError, match="not in the baseline: 4, 5"):
        scan(infected, digits, settings, baseline=part)
    renamed = replace(
        baseline_scan, labels=tuple(replace(row, name=f"cat{row.target}") for row in baseline_scan.labels)
    )
    with pytest.raises(SettingsError, match="'cat0' in the baseline"):
        scan(infected, replace(digits, names=tuple("0123456789")), settings, baseline=renamed)
    believed = scan(clean, digits, settings, baseline=found)
    assert believed.verdict is not Verdict.INFECTED, "whoever gives a baseline says that it is clean"
    assert any("own scan flagged label 3" in note for note in believed.provenance.notes)


@pytest.mark.parametrize(("name", "value"), [("restarts", 0), ("samples", 0), ("seed", -1), ("max_passes", 0)])
def test_settings_that_no_scan_could_follow_are_refused(name: str, value: int) -> None:
    with pytest.raises(SettingsError, match=name):
        ScanSettings(**{name: value})
