"""The whole of a repair on real digits: the attacker's own square stops working, and nothing else is lost."""

import copy
import dataclasses
import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import made_scans
import pytest
import torch
from networks import same, state_of
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.baseline import baseline_record
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings, asked_for
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.errors import DataError, OutputError, SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.metrics import clean_accuracy, predict
from neural_cleanse.mitigation.base import Backdoor, Mitigated, Mitigation, known_backdoors, measure
from neural_cleanse.mitigation.evaluation import Splits, split
from neural_cleanse.mitigation.loop import MOST_ADDED
from neural_cleanse.mitigation.repair import (
    METHODS,
    Repaired,
    RepairSettings,
    _limits,
    _scan_settings,
    repair,
)
from neural_cleanse.mitigation.unlearning import Unlearning
from neural_cleanse.outputs import OutputKind
from neural_cleanse.report import tables
from neural_cleanse.report.advice import after_repair
from neural_cleanse.results import storage
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import KindRow, KindTest, LabelPair, Outcome, ScanResult, Verdict
from neural_cleanse.results.repair import RepairStatus, TracePoint
from neural_cleanse.triggers.patch import PatchTrigger


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method of one learning rate, beside those there are; so few batches need more triggers in them."""
    once = Unlearning(epochs=4, least_batches=1, most_stamped=0.5, learning_rates=(2e-3,), strong_rate=None)
    monkeypatch.setitem(METHODS, "quick", (once,))


@pytest.fixture
def _still_flagged(monkeypatch: pytest.MonkeyPatch, found: ScanResult) -> None:
    """Where nothing was changed, the second scan finds what the first did."""
    monkeypatch.setattr(importlib.import_module("neural_cleanse.mitigation.repair"), "scan", lambda *_, **__: found)


@pytest.fixture(scope="module")
def repaired(infected: Classifier, found: ScanResult, digits: ImageSet, original: Backdoor) -> Repaired:
    """The demo's infected classifier, repaired as anybody would, with the attacker's own trigger to verify."""
    settings = {**found.provenance.settings, "patches_only": False}  # the new scan looks for every kind of trigger
    for_all = replace(found, provenance=replace(found.provenance, settings=settings))
    return repair(infected, for_all, digits, verify=(original,))


# --- the demo's backdoor ---


def test_the_attackers_own_square_stops_working(repaired: Repaired) -> None:
    result = repaired.result
    assert result.status is RepairStatus.REPAIRED
    (verified,) = result.verified
    assert (verified.target, verified.found_in, verified.size) == (3, 0, 16.0)
    assert verified.hits_before > 0.95 * verified.trials
    assert verified.hits_after < 0.05 * verified.trials
    first, *joined = result.triggers
    assert (first.target, first.found_in) == (3, 1)
    assert first.hits_before > 0.9 * first.trials and first.hits_after <= 0.05 * first.trials
    assert all(trigger.target == 3 and trigger.found_in > 1 for trigger in joined)
    last = result.rounds[-1]
    assert last.fresh_tried > 0 and last.fresh_working == 0, "of triggers that the repair never saw"
    before, after = result.accuracy
    assert before - after <= result.max_drop
    assert repaired.scan is not None and repaired.scan.flagged == () and result.rounds[-1].flagged == ()
    assert [test.kind for test in repaired.scan.tests] == list(Kind)


def test_the_figures_are_those_of_images_that_decided_nothing(
    repaired: Repaired, infected: Classifier, digits: ImageSet
) -> None:
    report = split(digits, 0).report
    assert report.labels is not None
    for classifier, told in zip((infected, repaired.classifier), repaired.result.accuracy, strict=True):
        assert clean_accuracy(predict(classifier, report.images), report.labels) == pytest.approx(told)
    assert sum(change.trials for change in repaired.result.classes) == len(report)
    assert repaired.result.num_images == {"learn": 250, "decide": 125, "report": 125}
    assert repaired.result.triggers[0].trials == int((report.labels != 3).sum())


@pytest.mark.usefixtures("nothing_found_again")
def test_the_classifier_given_stays_and_the_same_seed_repairs_the_same(
    infected: Classifier, found: ScanResult, digits: ImageSet
) -> None:
    before = state_of(infected)
    settings = RepairSettings(method="quick", rounds=1, seed=3)
    torch.manual_seed(1)
    drawn = torch.get_rng_state()
    first = repair(infected, found, digits, settings)
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.rand(5)
    second = repair(infected, found, digits, settings)
    assert same(state_of(first.classifier), state_of(second.classifier))
    texts = [storage.repair_dumps(replace(done.result, wall_s=0)) for done in (first, second)]
    assert texts[0] == texts[1]
    assert same(state_of(infected), before) and not same(state_of(first.classifier), before)


def test_pruning_repairs_it_too(infected: Classifier, found: ScanResult, digits: ImageSet, original: Backdoor) -> None:
    done = repair(infected, found, digits, RepairSettings(method="prune", max_drop=0.05, rounds=1), verify=(original,))
    assert done.result.status is RepairStatus.REPAIRED and done.result.rounds[0].method == "pruning, fine-tuned"
    assert done.result.reason.endswith(
        "faint patterns over the whole image were not tried: pruning does not search for them"
    )
    assert done.result.verified[0].hits_after < 0.1 * done.result.verified[0].trials
    assert not all(column.any() for column in done.classifier.module.state_dict()["9.weight"].T)


@pytest.mark.usefixtures("nothing_found_again")
def test_unlabelled_images_work_and_that_is_said(
    infected: Classifier, found: ScanResult, digits: ImageSet, original: Backdoor
) -> None:
    done = repair(infected, found, digits.without_labels(), RepairSettings(method="quick"), verify=(original,))
    assert done.result.status is RepairStatus.REPAIRED
    assert done.result.triggers[0].hits_after < 0.05 * done.result.triggers[0].trials
    assert done.result.verified[0].hits_after < 0.2 * done.result.verified[0].hits_before
    assert any("no labels" in note and "agreement" in note for note in done.result.provenance.notes)
    assert done.result.accuracy[0] == 1.0, "agreement of the model with itself"


@pytest.mark.usefixtures("nothing_found_again")
def test_all_labels_can_be_patched(infected: Classifier, found: ScanResult, digits: ImageSet) -> None:
    settings = RepairSettings(method="quick", labels="all", rounds=1, max_drop=0.1, max_asr=0.5)
    assert all(row.size is not None for row in found.labels)
    sized = [0, 3, 8]  # of the others the scan has no trigger
    rows = tuple(row if row.target in sized else replace(row, size=None) for row in found.labels)
    done = repair(infected, replace(found, labels=rows), digits, settings)
    assert [change.target for change in done.result.triggers] == sized
    assert done.result.rounds[0].targets == tuple(sized)
    flagged = next(change for change in done.result.triggers if change.target == 3)
    assert [point.outcome for point in done.result.rounds[0].trace].count("kept") == 1
    assert flagged.hits_after < 0.5 * flagged.hits_before
    assert sum(change.hits_after for change in done.result.triggers) < 0.5 * sum(
        change.hits_before for change in done.result.triggers
    )


# --- nothing to repair, and flags that are false ---


def test_nothing_flagged_is_nothing_to_repair(infected: Classifier, found: ScanResult, digits: ImageSet) -> None:
    nothing = replace(found, flagged=(), verdict=Verdict.CLEAN)
    done = repair(infected, nothing, digits)
    assert done.result.status is RepairStatus.NOTHING_TO_REPAIR
    assert done.classifier is infected and done.scan is None and done.result.rounds == ()
    assert done.result.accuracy[0] == done.result.accuracy[1]
    assert "flagged no label" in done.result.reason


def test_a_scan_that_could_not_tell_names_the_way_on(infected: Classifier, found: ScanResult, digits: ImageSet) -> None:
    rows = tuple(replace(row, p_value=0.02 if row.target == 8 else 0.5) for row in found.labels)
    unsure = replace(found, labels=rows, flagged=(), verdict=Verdict.INCONCLUSIVE, reason="label 8 stands out")
    done = repair(infected, unsure, digits)
    assert done.result.status is RepairStatus.NOTHING_TO_REPAIR
    assert "could not tell (label 8 stands out)" in done.result.reason
    assert "nothing to repair" not in done.result.reason and "--labels 8, or --labels all" in done.result.reason
    told = [step.what for step in after_repair(done.result, unsure)]
    assert told[0].startswith("Treat the model as unchecked") and not any("Leave the model" in what for what in told)
    by_margin = tuple(KindRow(label, None, 9.0, 1e-5 if label == 5 else 1.0) for label in range(10))
    margins = KindTest(Kind.MARGIN, 0.15, Verdict.INCONCLUSIVE, "label 5 stands out", 1e-5, rows=by_margin)
    sizes = KindTest(Kind.PATCH, 0.5, Verdict.CLEAN, "nothing", 0.02)
    assert "--labels 5," in repair(infected, replace(unsure, tests=(sizes, margins)), digits).result.reason
    assert "--labels 8," in repair(infected, replace(unsure, tests=(sizes,)), digits).result.reason


@pytest.mark.usefixtures("nothing_found_again")
def test_labels_can_be_named(infected: Classifier, found: ScanResult, digits: ImageSet) -> None:
    unsure = replace(found, flagged=(), verdict=Verdict.INCONCLUSIVE)
    settings = RepairSettings(method="quick", labels=(3,), rounds=1, max_drop=0.1, max_asr=0.5)
    done = repair(infected, unsure, digits, settings)
    assert [change.target for change in done.result.triggers] == [3] and done.result.rounds[0].targets == (3,)
    with pytest.raises(SettingsError, match="no trigger for label 12"):
        repair(infected, unsure, digits, replace(settings, labels=(3, 12)))


def test_a_scan_without_any_trigger_has_nothing_to_patch(
    infected: Classifier, found: ScanResult, digits: ImageSet
) -> None:
    bare = replace(found, labels=tuple(replace(row, size=None) for row in found.labels))
    done = repair(infected, bare, digits, RepairSettings(labels="all"))
    assert done.result.status is RepairStatus.NOTHING_TO_REPAIR and "no trigger for any label" in done.result.reason


@pytest.mark.usefixtures("nothing_found_again")
def test_a_clean_model_with_a_falsely_flagged_label_loses_little(clean: Classifier, digits: ImageSet) -> None:
    """The issue's bound is half a point; 125 images cannot tell that from one and a half."""
    flagged_pairs = replace(
        scan(clean, digits, ScanSettings(patches_only=True, labels=(1, 5), restarts=1)), flagged=(5,)
    )
    done = repair(clean, flagged_pairs, digits, RepairSettings(rounds=1))
    before, after = done.result.accuracy
    assert before - after <= 0.016
    low, _ = clopper_pearson(round(after * 125), 125, 0.99)
    assert low > 0.9


def with_idle(found: ScanResult, label: int, flagged: tuple[int, ...]) -> ScanResult:
    """The scan with a trigger for `label` that is nothing at all."""
    nothing = {"mask": torch.zeros(1, 1, 28, 28), "pattern": torch.zeros(1, 1, 28, 28)}
    return replace(found, flagged=flagged, triggers={**found.triggers, LabelPair(label): nothing})


def test_a_trigger_that_never_worked_is_nothing_to_repair(
    infected: Classifier, found: ScanResult, digits: ImageSet
) -> None:
    done = repair(infected, with_idle(found, 3, (3,)), digits)
    assert done.result.status is RepairStatus.NOTHING_TO_REPAIR and done.classifier is infected
    assert "no trigger of the scan works more often than" in done.result.reason and done.result.rounds == ()
    (trigger,) = done.result.triggers
    assert trigger.hits_before == trigger.hits_after <= 0.05 * trigger.trials
    assert any("label 3 never worked" in note for note in done.result.provenance.notes)


@pytest.mark.usefixtures("nothing_found_again")
def test_beside_one_that_works_it_is_measured_and_not_repaired(
    infected: Classifier, found: ScanResult, digits: ImageSet
) -> None:
    assert any(row.target == 5 and row.size is not None for row in found.labels)
    done = repair(infected, with_idle(found, 5, (3, 5)), digits, RepairSettings(method="quick"))
    assert done.result.status is RepairStatus.REPAIRED and done.result.rounds[0].targets == (3,)
    assert [change.target for change in done.result.triggers] == [3, 5]
    assert [change.found_in for change in done.result.triggers] == [1, 1]
    notes = [note for note in done.result.provenance.notes if "never worked" in note]
    assert len(notes) == 1 and "label 5" in notes[0] and "nothing was repaired for it" in notes[0]


# --- the new scan is judged as the first was ---


def test_the_new_scan_is_compared_with_the_baseline_too(
    infected: Classifier, found: ScanResult, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ScanResult | None] = []

    def screened(*_: object, baseline: ScanResult | None, **__: object) -> ScanResult:
        seen.append(baseline)
        return replace(found, flagged=(), labels=tuple(replace(row, anomaly_index=0.0) for row in found.labels))

    module = importlib.import_module("neural_cleanse.mitigation.repair")
    monkeypatch.setattr(module, "scan", screened)
    monkeypatch.setattr(module, "fresh_triggers", lambda *_: ())
    monkeypatch.setitem(METHODS, "quick", (Stubborn([]),))
    sized = tuple(replace(row, name=None, outcome=Outcome.CONVERGED) for row in found.labels)
    baseline_scan = replace(found, flagged=(), verdict=Verdict.CLEAN, labels=sized)
    record = {"baseline": baseline_record(baseline_scan)}
    settings = {**found.provenance.settings, **record}
    held = replace(found, provenance=replace(found.provenance, settings=settings))
    other = {**settings, "baseline": {"path": "other", "sha256": "0"}}
    of_another = replace(found, provenance=replace(found.provenance, settings=other))

    def notes(result: ScanResult, baseline: ScanResult | None) -> str:
        done = repair(infected, result, digits, RepairSettings(method="quick", rounds=1), baseline=baseline)
        return " ".join(note for note in done.result.provenance.notes if "baseline" in note)

    assert notes(held, baseline_scan) == notes(found, None) == ""
    assert "--baseline" in notes(held, None)
    assert "the scan that was given was not" in notes(found, baseline_scan)
    assert "another baseline" in notes(of_another, baseline_scan)
    assert seen == [baseline_scan, None, None, baseline_scan, baseline_scan]
    flagged = replace(baseline_scan, verdict=Verdict.INFECTED, flagged=(3,))
    assert notes(held, flagged) == "", "one that a scan flagged is taken: the caller says that it is clean"


def test_the_new_scan_looks_for_what_the_first_did(found: ScanResult) -> None:
    given = {**found.provenance.settings, "patches_only": True, "student": False, "seed": 4, "labels": [3]}
    again = _scan_settings(replace(found, provenance=replace(found.provenance, settings=given)), over_baseline=False)
    assert (again.patches_only, again.student, again.seed, again.labels) == (True, False, 4, None)
    every = replace(found, provenance=replace(found.provenance, settings={**given, "patches_only": False}))
    assert not _scan_settings(every, over_baseline=False).patches_only
    assert _scan_settings(found, over_baseline=False).student


def test_the_new_scan_has_the_users_own_plan(
    infected: Classifier, found: ScanResult, digits: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The record keeps the plan that was asked for beside what it came to with so few labels."""
    asked = ScanSettings(plan="adaptive", labels=(3,), patches_only=True, samples=100, student=False, max_seconds=60)
    first = scan(infected, digits, asked, inversion=Inversion(steps=20, restarts=1))
    storage.save_result(first, tmp_path)
    recorded = storage.load_result(tmp_path)
    assert asked_for(recorded.provenance) == asked
    assert recorded.provenance.settings["search"]["name"] != "Adaptive"
    plans = list[str]()

    def again(classifier: Classifier, data: ImageSet, settings: ScanSettings, **_: object) -> ScanResult:
        plans.append(settings.plan)
        return replace(found, verdict=Verdict.CLEAN, flagged=(), evidence=())

    module = importlib.import_module("neural_cleanse.mitigation.repair")
    monkeypatch.setattr(module, "scan", again)
    monkeypatch.setattr(module, "fresh_triggers", lambda *_: ())
    monkeypatch.setitem(METHODS, "quick", (Stubborn([]),))
    given = replace(found, provenance=replace(found.provenance, settings=recorded.provenance.settings))
    sized = tuple(replace(row, name=None, outcome=Outcome.CONVERGED) for row in found.labels)
    for baseline in (None, replace(found, labels=sized)):
        repair(infected, given, digits, RepairSettings(method="quick", rounds=1), baseline=baseline)
    assert plans == ["adaptive", "auto"], "a baseline leaves no choice"


@pytest.mark.parametrize(("recorded", "plan"), [("FullSweep", "full"), ("Sequential", "auto"), ("Adaptive", "auto")])
def test_a_record_of_before_says_what_the_plan_came_to(found: ScanResult, recorded: str, plan: str) -> None:
    settings = {**found.provenance.settings, "plan": {"name": recorded}}
    assert asked_for(replace(found.provenance, settings=settings)).plan == plan


# --- what is measured is what the file will hold ---


def halved(changed: Classifier) -> Classifier:
    return replace(changed, module=changed.module.half().float())


def test_figures_are_of_the_weights_as_the_file_holds_them(
    infected: Classifier, found: ScanResult, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned: list[Classifier] = []

    def screened(classifier: Classifier, *_: object, **__: object) -> ScanResult:
        scanned.append(classifier)
        return replace(found, flagged=(), labels=())

    monkeypatch.setattr(importlib.import_module("neural_cleanse.mitigation.repair"), "scan", screened)
    done = repair(infected, found, digits, RepairSettings(method="quick"), as_written=halved)
    rounded = {name: tensor.half().float() for name, tensor in state_of(done.classifier).items()}
    assert same(state_of(done.classifier), rounded) and same(state_of(scanned[0]), rounded)
    plain = repair(infected, found, digits, RepairSettings(method="quick"))
    assert not same(state_of(plain.classifier), state_of(done.classifier))


def test_a_file_whose_numbers_are_too_coarse_rolls_back(
    infected: Classifier, found: ScanResult, digits: ImageSet
) -> None:
    def ruined(changed: Classifier) -> Classifier:
        module = copy.deepcopy(changed.module)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
        return replace(changed, module=module)

    done = repair(infected, found, digits, RepairSettings(method="quick"), as_written=ruined)
    assert done.result.status is RepairStatus.FAILED and "rolled back" in done.result.reason
    trace = done.result.rounds[0].trace
    assert [point.method for point in trace] == ["unlearning", "as the file holds it"]
    assert trace[1].outcome == "undone: it costs more accuracy than it may" and trace[0].outcome != "kept"
    assert same(state_of(done.classifier), state_of(infected))


# --- reasons have numbers, and claim no more than so many images can tell ---


@pytest.mark.usefixtures("_still_flagged")
def test_a_reason_names_the_bound_that_failed(
    infected: Classifier, found: ScanResult, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "auto", (Stubborn([]),))
    worst = repair(infected, found, digits, RepairSettings(rounds=1)).result
    told = re.search(r"label 3 still works on ([\d.]+)% \((\d+) of (\d+)\) .* over ([\d.]+)%", worst.reason)
    assert told is not None, worst.reason
    assert float(told[1]) == pytest.approx(100 * int(told[2]) / int(told[3]), abs=0.06) and 2 <= float(told[4]) < 6
    assert "a clean accuracy of" in worst.reason and "still flags label 3" in worst.reason
    coarse = RepairSettings(method="quick")
    object.__setattr__(coarse, "max_drop", -1.0)
    reason = repair(infected, found, digits, coarse).result.reason
    assert re.search(r"clean accuracy of \d+\.\d% .* under the floor of 1\d\d\.\d%", reason), reason


def test_few_images_confirm_little(repaired: Repaired) -> None:
    """Of some 112 images not one is sent to the label; three in a hundred may be all the same."""
    told = re.search(
        r"(?:at most ([\d.]+)% of|not? .* any of) \d+ images that decided nothing "
        r"\(at 95 % confidence on at most ([\d.]+)%: too few",
        repaired.result.reason,
    )
    assert told is not None, repaired.result.reason
    assert float(told[1] or 0) < 5 and float(told[2]) > 3
    assert "0.0%" not in repaired.result.reason
    written = json.loads(storage.repair_dumps(repaired.result))
    for change in (*written["triggers"], *written["verified"]):
        assert change["asr_after_interval"] == list(clopper_pearson(change["hits_after"], change["trials"]))
    table = tables.trigger_table(repaired.result)
    low, high = clopper_pearson(repaired.result.triggers[0].hits_after, repaired.result.triggers[0].trials)
    assert f"({low:.1%} to {high:.1%}, " in table.rows[0][-1]


@pytest.mark.usefixtures("nothing_found_again")
def test_every_step_is_said(infected: Classifier, found: ScanResult, digits: ImageSet) -> None:
    steps: list[str] = []
    repair(infected, found, digits, RepairSettings(method="quick", rounds=1), on_step=steps.append)
    assert steps[0] == "round 1: unlearning, try 1 of up to 2, learning rate 0.002, epoch 1 of 4"
    recovering = "round 1: recovering other triggers from the model as it came"
    assert steps[-3:] == ["round 1: deciding", recovering, "round 1: scanning again"] and len(steps) == 8
    assert re.fullmatch(
        r"round 1: unlearning, try 1 of up to 2: clean accuracy [\d.]+%, the strongest trigger works on [\d.]+%; kept",
        steps[-4],
    )
    steps.clear()
    repair(infected, found, digits, RepairSettings(method="prune", max_drop=0.05), on_step=steps.append)
    assert "round 1: pruning, learning which neurons the trigger needs" in steps
    assert any(
        re.fullmatch(r"round 1: pruning, 11 of 560 neurons: the trigger works on [\d.]+%.*", step) for step in steps
    )
    assert any(step.startswith("round 1: fine-tuning without") for step in steps)


# --- the split ---


def test_the_three_parts_are_disjoint_and_cover(digits: ImageSet) -> None:
    for seed in (0, 7):
        parts = split(digits, seed)
        rows = [
            {image.numpy().tobytes() for image in part.images} for part in (parts.learn, parts.decide, parts.report)
        ]
        assert sum(map(len, rows)) == len(set.union(*rows)) == len(digits.distinct())
        assert [len(part) for part in rows] == [250, 125, 125]
    assert not torch.equal(split(digits, 0).learn.images, split(digits, 7).learn.images)


def test_every_part_says_what_it_is_of(digits: ImageSet) -> None:
    parts = split(digits, 0)
    for part, what in ((parts.learn, "learn from"), (parts.decide, "decide"), (parts.report, "report")):
        assert part.origin == f"{digits.origin}: the {len(part)} images to {what}"


def test_the_records_say_what_was_asked_for(repaired: Repaired, found: ScanResult) -> None:
    """The new scan is forced, since the first one read the same images."""
    assert repaired.scan is not None
    again = repaired.scan.provenance
    assert again.settings["force"] == found.provenance.settings["force"] is False
    assert again.data["origin"] != repaired.result.provenance.data["origin"]


def test_repetitions_are_in_one_part_alone(digits: ImageSet) -> None:
    twice = digits.take(torch.arange(200).repeat(2))
    parts = split(twice, 0)
    assert len(parts.learn) + len(parts.decide) + len(parts.report) == 200


def test_too_few_images_are_refused(infected: Classifier, found: ScanResult, digits: ImageSet) -> None:
    with pytest.raises(DataError, match="Too few different images to repair with: 99"):
        repair(infected, found, digits.take(torch.arange(99)))
    with pytest.raises(DataError, match="Too few different images to repair with: 50"):
        repair(infected, found, digits.take(torch.arange(50).repeat(10)))


def test_images_that_do_not_fit_are_refused(infected: Classifier, found: ScanResult, digits: ImageSet) -> None:
    with pytest.raises(DataError, match="28x28"):
        repair(infected, found, replace(digits, images=digits.images[:, :, :20, :20]))
    with pytest.raises(DataError, match="labels"):
        repair(infected, found, replace(digits, labels=torch.full((500,), 10)))
    with pytest.raises(DataError, match="scan is of images"):
        repair(infected, replace(found, image_shape=(1, 32, 32)), digits)


def test_a_trigger_that_no_image_could_measure_is_refused(
    infected: Classifier, found: ScanResult, digits: ImageSet
) -> None:
    """Else it would count as one that does not work."""
    with pytest.raises(DataError, match="label 3"):
        repair(infected, found, replace(digits, labels=torch.full((500,), 3)), RepairSettings(method="prune"))


@pytest.mark.parametrize("wrong", range(0, 120, 13))
def test_a_loss_of_just_what_is_allowed_is_allowed(infected: Classifier, digits: ImageSet, wrong: int) -> None:
    """Five of 250 images are two in a hundred, whatever float32 makes of both."""
    on_step = predict(infected, digits.images[:250])

    def with_mistakes(count: int) -> ImageSet:
        return ImageSet(digits.images[:250], torch.where(torch.arange(250) < count, (on_step + 1) % 10, on_step))

    before, after, worse = (with_mistakes(wrong + lost) for lost in (0, 5, 6))
    limits = _limits(infected, (), Splits(before, before, before), RepairSettings(max_drop=0.02))
    assert limits.satisfied(measure(infected, (), after))
    assert not limits.satisfied(measure(infected, (), worse))


# --- roll-back ---


@pytest.mark.parametrize("method", ["quick", "prune"])
def test_an_impossible_floor_rolls_back_to_the_very_weights(
    infected: Classifier, found: ScanResult, digits: ImageSet, method: str
) -> None:
    """The accuracy has to rise by one, which no mitigation can do."""
    before = state_of(infected)
    settings = RepairSettings(method=method)
    object.__setattr__(settings, "max_drop", -1.0)  # which settings themselves refuse
    done = repair(infected, found, digits, settings)
    assert done.result.status is RepairStatus.FAILED and "rolled back" in done.result.reason
    assert same(state_of(done.classifier), before)
    assert done.scan is None and len(done.result.rounds) == 1 and done.result.rounds[0].method is None
    assert done.result.rounds[0].trace, "what was tried is told"
    assert done.result.accuracy[0] == done.result.accuracy[1]
    (trigger,) = done.result.triggers
    assert trigger.hits_before == trigger.hits_after


# --- rounds ---


@dataclasses.dataclass(frozen=True)
class Stubborn(Mitigation):
    """Changes nothing and says that all is well."""

    seen: list[tuple[int, ...]]

    def __call__(self, classifier: Classifier, backdoors, limits, generator) -> Mitigated:  # type: ignore[no-untyped-def]
        self.seen.append(tuple(backdoor.pair.target for backdoor in backdoors))
        return Mitigated(classifier, (TracePoint("nothing", 0.0, 1.0, 1.0),))


@pytest.mark.usefixtures("_still_flagged")
@pytest.mark.parametrize("rounds", [1, 2])
def test_rounds_stop_and_each_knows_every_trigger_so_far(
    infected: Classifier, found: ScanResult, digits: ImageSet, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    stubborn = Stubborn([])
    monkeypatch.setitem(METHODS, "auto", (stubborn,))
    done = repair(infected, found, digits, RepairSettings(rounds=rounds))
    assert done.result.status is RepairStatus.FAILED
    assert f"after {rounds} round" in done.result.reason and "label 3" in done.result.reason
    assert [one.number for one in done.result.rounds] == list(range(1, rounds + 1))
    assert "recovered anew" in done.result.reason and done.result.rounds[-1].fresh_working > MOST_ADDED
    assert stubborn.seen == [(3,), (3,) * (1 + MOST_ADDED)][:rounds], "the strongest that the network answers to join"
    assert [change.found_in for change in done.result.triggers] == [1, *[2] * (MOST_ADDED * (rounds - 1))]


@dataclasses.dataclass(frozen=True)
class Powerless(Stubborn):
    """As stubborn, and no more triggers would help it."""

    gains_from_more = False


def test_what_no_more_triggers_can_help_ends_at_once(
    infected: Classifier, found: ScanResult, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither other triggers are recovered nor a scan is done: both cost minutes and change nothing."""
    monkeypatch.setitem(METHODS, "prune", (Powerless([]),))
    steps: list[str] = []
    done = repair(infected, found, digits, RepairSettings(method="prune"), on_step=steps.append)
    assert steps == ["round 1: deciding"]
    assert done.result.status is RepairStatus.FAILED and done.scan is None and len(done.result.rounds) == 1
    assert "the trigger of label 3 still works on" in done.result.reason
    one = done.result.rounds[0]
    assert (one.method, one.verdict, one.fresh_tried) == ("nothing", None, 0)


def test_beside_a_mitigation_that_more_triggers_help_rounds_go_on(
    infected: Classifier, found: ScanResult, digits: ImageSet, monkeypatch: pytest.MonkeyPatch, _still_flagged: None
) -> None:
    stubborn = Stubborn([])
    monkeypatch.setitem(METHODS, "auto", (stubborn, Powerless([])))
    done = repair(infected, found, digits, RepairSettings(rounds=2))
    assert len(done.result.rounds) == 2 and len(stubborn.seen) == 2


@pytest.mark.usefixtures("nothing_found_again")
def test_huge_numbers_of_rounds_end_when_nothing_is_flagged(
    infected: Classifier, found: ScanResult, digits: ImageSet
) -> None:
    done = repair(infected, found, digits, RepairSettings(method="quick", rounds=10**9))
    assert done.result.status is RepairStatus.REPAIRED and len(done.result.rounds) <= 3


@pytest.mark.usefixtures("nothing_found_again")
def test_with_other_triggers_the_recovered_ones_are_still_measured(
    infected: Classifier, found: ScanResult, digits: ImageSet, original: Backdoor
) -> None:
    settings = RepairSettings(method="quick", rounds=1, with_triggers=(original,))
    done = repair(infected, found, digits, settings)
    assert [(change.target, change.found_in) for change in done.result.triggers] == [(3, 1)]
    assert any("for comparison: 1 given trigger" in note for note in done.result.provenance.notes)
    storage.repair_dumps(done.result)


@pytest.mark.usefixtures("nothing_found_again")
def test_plain_fine_tuning_is_a_comparison_and_has_no_neurons_to_rank(
    infected: Classifier, found: ScanResult, digits: ImageSet
) -> None:
    done = repair(infected, found, digits, RepairSettings(method="quick", rounds=1, with_triggers=()))
    assert done.result.triggers[0].hits_before > 0.9 * done.result.triggers[0].trials
    with pytest.raises(SettingsError, match="nothing to prune"):
        repair(infected, found, digits, RepairSettings(method="prune", with_triggers=()))


# --- networks of other kinds ---


@pytest.mark.usefixtures("nothing_found_again")
def test_a_network_that_ends_in_a_softmax(infected: Classifier, found: ScanResult, digits: ImageSet) -> None:
    module = nn.Sequential(infected.module, nn.Softmax(1))
    softened = Classifier(module, (1, 28, 28), 10, outputs=OutputKind.PROBABILITIES)
    done = repair(softened, found, digits, RepairSettings(method="quick"))
    assert done.result.status is RepairStatus.REPAIRED
    assert done.classifier.outputs is OutputKind.PROBABILITIES


def test_a_network_without_a_linear_layer_can_be_unlearned_and_not_pruned(
    planted: Classifier, grey_images: ImageSet
) -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 9:12, 9:12] = 1
    pair = LabelPair(6)
    screened = scan(planted, grey_images, ScanSettings(patches_only=True, labels=(5, 6), restarts=1))
    trigger = {pair: {"mask": mask, "pattern": torch.ones(1, 1, 16, 16)}}
    rows = tuple(replace(row, size=9.0) for row in screened.labels if row.target == 6)
    result = replace(screened, flagged=(6,), triggers=trigger, labels=rows)
    with pytest.raises(SettingsError, match="no linear layer"):
        repair(planted, result, grey_images, RepairSettings(method="prune"))
    done = repair(planted, result, grey_images, RepairSettings(method="auto", rounds=1))
    assert {point.method for point in done.result.rounds[0].trace} == {"unlearning"}


# --- bounds, records ---


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "magic"}, {"labels": "some"}, {"labels": ()}, {"labels": (-1,)}, {"labels": ("3",)},
        {"max_drop": -0.1}, {"max_drop": 1.0}, {"max_drop": float("nan")},
        {"max_asr": float("nan")}, {"max_asr": float("inf")}, {"max_asr": -0.5}, {"rounds": 0}, {"seed": -1},
    ],
    ids=str,
)  # fmt: skip
def test_bounds_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        RepairSettings(**wrong)  # type: ignore[arg-type]


def test_a_scan_whose_settings_are_of_other_types_is_damaged() -> None:
    made = made_scans.result()
    changed = replace(made, provenance=replace(made.provenance, settings={"samples": "5"}))
    with pytest.raises(OutputError, match="its settings"):
        asked_for(changed.provenance)


BAD_TRIGGERS = {
    "no pattern": {"mask": torch.zeros(1, 1, 28, 28)},
    "another size": {"mask": torch.zeros(1, 1, 8, 8), "pattern": torch.zeros(1, 1, 8, 8)},
    "two at once": {"mask": torch.zeros(2, 1, 28, 28), "pattern": torch.zeros(2, 1, 28, 28)},
    "nan": {"mask": torch.full((1, 1, 28, 28), float("nan")), "pattern": torch.zeros(1, 1, 28, 28)},
    "above 1": {"mask": torch.full((1, 1, 28, 28), 2.0), "pattern": torch.zeros(1, 1, 28, 28)},
    "one more": {name: torch.zeros(1, 1, 28, 28) for name in ("mask", "pattern", "extra")},
}


@pytest.mark.parametrize("case", BAD_TRIGGERS)
def test_a_scan_whose_triggers_are_none_is_damaged(found: ScanResult, case: str) -> None:
    with pytest.raises(OutputError, match="damaged"):
        known_backdoors(replace(found, triggers={LabelPair(3): BAD_TRIGGERS[case]}), (3,))


def test_known_backdoors_are_those_of_the_labels_that_have_a_size(found: ScanResult) -> None:
    (one,) = known_backdoors(found, (3,))
    assert one.pair == LabelPair(3) and isinstance(one.trigger, PatchTrigger)
    assert torch.equal(one.trigger.mask, found.triggers[LabelPair(3)]["mask"])
    every = [backdoor.pair.target for backdoor in known_backdoors(found, None)]
    assert every == [row.target for row in found.labels if row.size is not None]
    assert known_backdoors(found, ()) == known_backdoors(found, (99,)) == ()


def test_a_record_comes_back_as_it_was(repaired: Repaired, tmp_path: Path) -> None:
    assert storage.load_repair(tmp_path) is None
    text = storage.repair_dumps(repaired.result)
    (tmp_path / storage.REPAIR_FILE).write_text(text)
    again = storage.load_repair(tmp_path)
    assert again is not None
    for field in dataclasses.fields(again):
        if field.name != "provenance":
            assert getattr(again, field.name) == getattr(repaired.result, field.name), field.name
    assert storage.repair_dumps(again) == text
    told = json.loads(text)
    assert told["status"] == "repaired" and told["clean_accuracy"]["before"] == repaired.result.accuracy[0]
    assert told["rounds"][0]["verdict"] in ("clean", "inconclusive")
