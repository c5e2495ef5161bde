"""A student has the suspect's architecture, learns from clean images alone, and does not inherit what was planted."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import OutOfTime
from neural_cleanse.detection import other_starts, student_test, teaching
from neural_cleanse.detection.plans import FullSweep
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.detection.student import Student, StudentPlan, make_student
from neural_cleanse.detection.students import StudentScan, ask
from neural_cleanse.detection.verdict import Decision
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.checkpoint import Checkpoint
from neural_cleanse.metrics import attack_hits
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.results.records import LabelPair, Outcome, PaperRule, Recovered, ScanResult, Verdict

SHORT = StudentPlan(steps=250)
WITH_STUDENT = ScanSettings(patches_only=True, samples=400, plan="full", restarts=1)


def in_doubt(patch: pytest.MonkeyPatch, plan: StudentPlan = SHORT, *, clear: bool | None = None) -> None:
    """Sizes always leave doubt, and `plan` makes the students; `clear` says whether one settles it (None: as it is)."""
    patch.setattr(student_test, "leaves_doubt", lambda *_: True)
    patch.setattr(teaching, "StudentPlan", lambda: plan)
    if clear is not None:
        patch.setattr(student_test, "_is_clear", lambda *_: clear)


@dataclass(frozen=True)
class Known(FullSweep):
    """Stands for a search of all labels: their records, where they are known; else it makes and keeps them."""

    records: list[Recovered]

    def run(self, *given: Any) -> Iterator[Recovered]:
        if not self.records:
            self.records.extend({one.pair: one for one in super().run(*given)}.values())
        yield from self.records

    def describe(self) -> dict[str, Any]:
        return FullSweep().describe()


@dataclass(frozen=True)
class Confirmed:
    """A scan whose student confirmed what it found, the directory of its checkpoint, and what was found of labels."""

    result: ScanResult
    kept: Path
    searched: list[Recovered]

    def copy(self, directory: Path) -> Checkpoint:
        """A checkpoint of its own for a scan that goes on from there."""
        return Checkpoint(shutil.copytree(self.kept, directory / "kept"))


@pytest.fixture(scope="module")
def confirmed(infected: Classifier, digits: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Confirmed:
    kept = tmp_path_factory.mktemp("confirmed") / "kept"
    with pytest.MonkeyPatch.context() as patch:
        in_doubt(patch)
        known = Known([])
        return Confirmed(
            scan(infected, digits, WITH_STUDENT, search=known, checkpoint=Checkpoint(kept)), kept, known.records
        )


def test_a_network_without_weights_has_no_student(digits: ImageSet) -> None:
    class Fixed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :10]

    assert make_student(Classifier(Fixed(), (1, 28, 28), 10), digits.images, digits.images, 0, SHORT) is None


@pytest.fixture(scope="module")
def student(infected: Classifier, digits: ImageSet) -> Student:
    """Of the infected demo model, from 400 digits."""
    unseen = torch.arange(len(digits.images)) % 5 == 0
    made = make_student(infected, digits.images[~unseen], digits.images[unseen], 0, SHORT)
    assert made is not None
    return made


def test_a_student_answers_as_the_suspect_does_on_clean_images(student: Student) -> None:
    low, high = student.interval
    assert student.trials == 100 and low <= student.agreement <= high
    assert student.agreement > 0.8


def test_a_planted_trigger_is_not_inherited(
    student: Student, infected: Classifier, digits: ImageSet, original: Backdoor
) -> None:
    rows = digits.images[digits.labels != 3] if digits.labels is not None else digits.images
    assert attack_hits(infected, original.trigger, rows, 3) > 0.95 * len(rows)
    assert attack_hits(student.classifier, original.trigger, rows, 3) < 0.5 * len(rows)


def test_the_same_seed_gives_the_same_student(infected: Classifier, digits: ImageSet) -> None:
    plan = StudentPlan(steps=4)
    made = [make_student(infected, digits.images[:50], digits.images[50:60], seed, plan) for seed in (1, 1, 2)]
    first, second, third = (next(one.classifier.module.parameters()) for one in made if one is not None)
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_a_spent_budget_ends_the_lesson(infected: Classifier, digits: ImageSet) -> None:
    taken: list[int] = []

    def advance(passes: int) -> bool:
        taken.append(passes)
        return len(taken) < 3

    assert make_student(infected, digits.images[:50], digits.images[50:60], 0, SHORT, advance) is None
    assert taken == [64, 64, 64]


def test_the_student_never_sees_the_images_that_judge(
    confirmed: Confirmed, infected: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def spy(suspect: Classifier, images: torch.Tensor, unseen: torch.Tensor, *_: object) -> None:
        seen.update(images=images, unseen=unseen)

    monkeypatch.setattr(teaching, "make_student", spy)
    in_doubt(monkeypatch)
    result = scan(infected, digits, ScanSettings(patches_only=True, samples=300), search=Known(confirmed.searched))
    learnt = {bytes(image.numpy().tobytes()) for image in seen["images"]}
    judged = {bytes(image.numpy().tobytes()) for image in seen["unseen"]}
    assert len(learnt) == 150 + 200 and len(judged) == 150 and not learnt & judged
    assert any("no student network could be made" in note for note in result.provenance.notes)


def test_a_poor_student_decides_nothing(
    confirmed: Confirmed, infected: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_doubt(monkeypatch, StudentPlan(steps=2))
    result = scan(infected, digits, WITH_STUDENT, search=Known(confirmed.searched))
    assert result.flagged == (3,)
    assert result.student_test is not None and not result.student_test.decides
    assert any("answers as the model does on only" in note for note in result.provenance.notes)


def test_a_good_student_confirms_a_planted_label(confirmed: Confirmed) -> None:
    result = confirmed.result
    record = result.student_test
    assert result.flagged == (3,) and record is not None and record.decides and set(record.sizes) == set(range(10))
    assert result.image_passes >= SHORT.passes
    assert any("the trigger of label 3 sends" in note for note in result.provenance.notes)


def test_images_that_a_trigger_is_tried_on_in_a_student_are_counted(
    confirmed: Confirmed, infected: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    in_doubt(monkeypatch)
    monkeypatch.setattr(student_test, "_tried", lambda *_: ((), 0))
    untried = scan(infected, digits, WITH_STUDENT, checkpoint=confirmed.copy(tmp_path))
    notes = " ".join(confirmed.result.provenance.notes)
    (tried_on,) = re.findall(r"the trigger of label 3 sends [\d,]+ of (\d+) images there in the student", notes)
    assert confirmed.result.forward_passes == untried.forward_passes + int(tried_on)


def test_whoever_wants_no_student_gets_none(
    confirmed: Confirmed, infected: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_doubt(monkeypatch)
    monkeypatch.setattr(teaching, "make_student", lambda *_: pytest.fail("a student is taught"))
    without = scan(infected, digits, replace(WITH_STUDENT, student=False), search=Known(confirmed.searched))
    assert without.flagged == (3,) and without.student_test is None


def test_students_that_leave_doubt_are_averaged(
    confirmed: Confirmed, infected: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    in_doubt(monkeypatch, clear=False)
    several = scan(infected, digits, WITH_STUDENT, checkpoint=confirmed.copy(tmp_path))
    monkeypatch.setattr(student_test, "MOST_STUDENTS", 1)
    one = scan(infected, digits, WITH_STUDENT, checkpoint=Checkpoint(tmp_path / "kept"))
    of_several, of_one = several.student_test, one.student_test
    assert of_several is not None and of_one is not None
    assert (of_several.students, of_one.students) == (3, 1)
    assert of_several.sizes != of_one.sizes and several.flagged == (3,)
    assert several.image_passes - one.image_passes > 2 * SHORT.passes
    assert any("compared with those of 3 student networks" in note for note in several.provenance.notes)


def test_students_that_agree_less_decide_only_together(
    confirmed: Confirmed, infected: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    in_doubt(monkeypatch, replace(SHORT, least_agreement=0.5, alone=1.0), clear=True)
    made = list[StudentScan]()

    def first_again(*given: Any) -> StudentScan | None:
        made.extend([] if made else [one] if (one := ask(*given)) else [])
        return made[0]

    monkeypatch.setattr(student_test, "ask", first_again)
    found = scan(infected, digits, WITH_STUDENT, checkpoint=confirmed.copy(tmp_path))
    record = found.student_test
    assert record is not None and record.decides and record.students == 3
    monkeypatch.setattr(student_test, "ask", lambda *given: None if given[-1] else made[0])
    found = scan(infected, digits, WITH_STUDENT, search=Known(confirmed.searched))
    assert found.student_test is not None and not found.student_test.decides


def test_fewer_students_than_wanted_are_said(
    confirmed: Confirmed, infected: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    in_doubt(monkeypatch, clear=False)

    def late(*given: Any) -> StudentScan | None:
        if given[-1]:
            raise OutOfTime
        return ask(*given)

    for second, truncated in ((late, True), (lambda *given: None, False)):
        why = teaching.why_none(1, truncated=truncated)
        monkeypatch.setattr(student_test, "ask", lambda *given, second=second: (second if given[-1] else ask)(*given))
        found = scan(infected, digits, WITH_STUDENT, checkpoint=confirmed.copy(tmp_path / why[:9]))
        assert found.flagged == (3,) and found.student_test is not None and found.student_test.students == 1
        assert f"{why}; 1 of up to 3 decided" in found.provenance.notes
    assert not any("of up to" in note for note in confirmed.result.provenance.notes)


def test_a_student_whose_labels_the_budget_cut_off_says_so(confirmed: Confirmed) -> None:
    student = Student(None, 99, 100)  # type: ignore[arg-type]
    begun = StudentScan(student, None, {LabelPair(0): Recovered.skipped(LabelPair(0), Outcome.NOT_SEARCHED)}, SHORT)  # type: ignore[arg-type]
    assert "the budget was spent after 0 of 10 labels" in (begun.lacking(10) or "")
    assert "the budget was spent after 0 of 10 labels" in (replace(begun, found={}).lacking(10) or "")


def test_a_label_that_barely_stands_out_is_not_flagged_without_a_good_student(
    confirmed: Confirmed, infected: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clean networks with batch norm have labels so small by nature; what stands out clearly needs no student."""
    in_doubt(monkeypatch, StudentPlan(steps=2))
    monkeypatch.setattr(other_starts, "MANY_LABELS", 0)  # one search is enough to tell
    settings, known = WITH_STUDENT, Known(confirmed.searched)
    found = scan(infected, digits, settings, search=known)
    assert found.p_value is not None and found.verdict is Verdict.INFECTED
    barely = scan(infected, digits, replace(settings, alpha=2 * found.p_value), search=known)
    assert barely.p_value == found.p_value
    assert barely.verdict is Verdict.INCONCLUSIVE and barely.flagged == ()
    assert "no good student" in barely.reason
    told_to = scan(infected, digits, replace(settings, alpha=2 * found.p_value, student=False), search=known)
    assert told_to.flagged == (3,), "without a student the sizes alone decide"


def test_a_scan_that_goes_on_does_not_teach_its_student_again(
    confirmed: Confirmed, infected: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    in_doubt(monkeypatch)
    monkeypatch.setattr(teaching, "make_student", lambda *_: pytest.fail("taught again"))
    first, checkpoint = confirmed.result, confirmed.copy(tmp_path)
    assert (tmp_path / "kept" / "student-0.safetensors").exists()
    again = scan(infected, digits, WITH_STUDENT, checkpoint=checkpoint)
    assert again.student_test == first.student_test
    assert (again.flagged, again.p_value, again.image_passes) == (first.flagged, first.p_value, first.image_passes)
    (tmp_path / "kept" / "student-0.safetensors").write_bytes(b"torn")
    assert checkpoint.tensors("student-0") is None, "a damaged one is taught again"


@pytest.mark.parametrize(("size", "flagged"), [(40.0, ()), (10.0, (1,))])
def test_a_label_that_takes_as_much_as_others_is_not_flagged_for_taking_less_than_in_a_student(
    size: float, flagged: tuple[int, ...]
) -> None:
    """Of a stranger's clean network one label had 39 px, the others 13 to 46, and far more in three students."""
    sizes = [25.0, size, 20.0, 30.0, 28.0, 22.0]
    found = [
        replace(Recovered.skipped(LabelPair(label), Outcome.CONVERGED), size=one) for label, one in enumerate(sizes)
    ]
    pairs, paper = [one.pair for one in found], PaperRule(2.0, 1.0, ())
    p_values = {pair: 0.0001 if pair.target == 1 else 0.5 for pair in pairs}
    over = Decision(Verdict.INFECTED, "label 1", (pairs[1],), 0.0001, 5.0, {}, p_values, paper, 0.01)
    decided = student_test._small_enough(over, found)
    assert decided.flagged == flagged
    assert decided.verdict is (Verdict.INFECTED if flagged else Verdict.CLEAN)
    assert decided.p_value == (0.0001 if flagged else 0.5)
    assert ("as much as other labels" in decided.reason) is not bool(flagged)


@pytest.mark.parametrize("p_value", [0.0, 1e-9])
def test_a_label_that_stands_out_beyond_doubt_is_never_clean_for_the_student_alone(p_value: float) -> None:
    """A p-value of zero is one of the smallest, not one that is lacking."""
    paper, small = PaperRule(2.0, 1.0, ()), LabelPair(1)
    own = Decision(Verdict.INFECTED, "label 1", (small,), p_value, 0.0, {}, {small: p_value}, paper, 0.01)
    over = Decision(Verdict.CLEAN, "nothing", (), 0.9, 0.0, {}, {small: 0.9}, paper, 0.01)
    prepared: Any = SimpleNamespace(share=0.5, settings=ScanSettings())
    assert student_test._settled(own, over, prepared).verdict is Verdict.INCONCLUSIVE
    assert student_test._settled(replace(own, p_value=0.009), over, prepared).verdict is Verdict.CLEAN


@pytest.mark.parametrize(("own", "p_value", "clear"), [(0.19, 4e-4, True), (0.31, 4e-4, False), (0.01, 6e-4, False)])
def test_one_student_alone_flags_no_label_that_does_not_stand_out_by_itself(
    own: float, p_value: float, clear: bool
) -> None:
    """Of a clean network one label, no smaller than others, had 4e-4 over the first student, .14 over two."""
    paper, small = PaperRule(2.0, 1.0, ()), LabelPair(1)
    alone = Decision(Verdict.CLEAN, "nothing", (), own, 0.0, {}, {small: own}, paper, 0.01)
    over = Decision(Verdict.INFECTED, "label 1", (small,), p_value, 0.0, {}, {small: p_value}, paper, 0.01)
    prepared: Any = SimpleNamespace(share=0.5, settings=ScanSettings())
    assert student_test._is_clear(over, alone, prepared) is clear
    assert student_test._is_clear(over, replace(alone, p_values={}), prepared) is False
