"""A time limit ends a scan wherever it is: within the checks, a search, a student's training, or the evidence."""

import copy
import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import Deadline, OutOfTime
from neural_cleanse.detection import progress as module
from neural_cleanse.detection import student_test, teaching
from neural_cleanse.detection.progress import Progress, Work
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.detection.student import StudentPlan
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.checkpoint import Checkpoint
from neural_cleanse.results import storage
from neural_cleanse.results.records import LabelPair, Outcome, Recovered, ScanResult, Verdict

QUICK = ScanSettings(samples=150, restarts=1)
OVERRUN = 400  # images that may still be looked at: a batch, some that tell shapes, evidence on few


class AfterPasses(Deadline):
    """Past after so many passes over images."""

    def __init__(self, passes: float) -> None:
        super().__init__(3600)
        self.passes = int(passes)

    @property
    def left(self) -> float:
        return float(self.passes)

    def check(self) -> None:
        if not self.passes:
            raise OutOfTime
        self.passes -= 1


class Counting(nn.Module):
    """A network that counts the images that it sees once `clock` is past."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.late = inner, [0]
        self.clock: Callable[[], bool] = lambda: False

    def __deepcopy__(self, memo: Any) -> "Counting":
        """One count for all copies."""
        other = Counting(copy.deepcopy(self.inner, memo))
        other.late, other.clock = self.late, self.clock
        return other

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.late[0] += len(images) * self.clock()
        return self.inner(images)


def ended_after(
    passes: int, model: Classifier, data: ImageSet, patched: pytest.MonkeyPatch, **changed: Any
) -> tuple[ScanResult, int]:
    """A scan whose time is over after so many passes; and the images that were looked at later."""
    made: list[AfterPasses] = []

    def deadline(seconds: float) -> AfterPasses:
        made.append(AfterPasses(seconds))
        return made[-1]

    patched.setattr(module, "Deadline", deadline)
    counting = Counting(model.module)
    counting.clock = lambda: bool(made) and made[0].left == 0
    watched = Classifier(counting, model.input_shape, model.num_classes)
    return scan(watched, data, replace(QUICK, max_seconds=passes, **changed)), counting.late[0]


@pytest.mark.parametrize("passes", [1, 3, 40, 95, 340])
def test_wherever_time_is_over_nothing_more_is_done_and_the_answer_says_what_was(
    passes: int, clean: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks take some four passes, screening 84, some two a label to measure it, a longer search 166."""
    result, late = ended_after(passes, clean, digits, monkeypatch)
    assert late <= OVERRUN and result.cut_off and result.verdict is Verdict.INCONCLUSIVE
    (said,) = (note for note in result.provenance.notes if note.startswith("the budget was spent after"))
    untouched = sum(label.outcome is Outcome.NOT_SEARCHED for label in result.labels)
    assert f"{10 - untouched} of 10 labels" in said and ("could still hide" in said) is (untouched > 0)
    assert storage.to_json(result)["cut_off"] is True


def test_a_student_that_time_ends_decides_nothing(
    clean: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student_test, "leaves_doubt", lambda *_: True)
    result, late = ended_after(700, clean, digits, monkeypatch, patches_only=True, plan="full")
    assert late <= OVERRUN and result.cut_off
    assert any(note == teaching.why_none(0, truncated=True) for note in result.provenance.notes)
    assert result.image_passes == sum(test.image_passes for test in result.tests), "it ended before the first lesson"


def test_time_that_suffices_changes_nothing(infected: Classifier, digits: ImageSet) -> None:
    settings = replace(QUICK, patches_only=True, labels=(2, 3))
    bound, free = (scan(infected, digits, replace(settings, max_seconds=limit)) for limit in (1e6, None))
    assert not bound.cut_off
    assert [(row.size, row.asr) for row in bound.labels] == [(row.size, row.asr) for row in free.labels]


def test_a_scan_that_ended_before_it_began_can_go_on(
    infected: Classifier, digits: ImageSet, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What kind of scan it is was not known then."""
    settings, kept = replace(QUICK, patches_only=True, labels=(2, 3)), Checkpoint.within(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(module, "Deadline", AfterPasses)
        ended = scan(infected, digits, replace(settings, max_seconds=1), checkpoint=kept)
    assert ended.cut_off and kept.exists() and not kept.has_records()
    whole = scan(infected, digits, settings, checkpoint=kept)
    assert not whole.cut_off and kept.has_records()


def test_a_deadline_is_a_moment_also_for_whoever_unpickles_it(infected: Classifier) -> None:
    soon = Deadline(100)
    assert 90 < pickle.loads(pickle.dumps(soon)).left <= 100
    with pytest.raises(OutOfTime):
        infected.changed(deadline=Deadline(0))(torch.zeros(1, *infected.input_shape))


def test_a_label_that_could_not_be_searched_tells_nothing_of_the_others() -> None:
    seen = list[Progress]()
    work = Work(seen.append)
    part = work.begin("patches", 1000, 10)
    part.finish(Recovered.skipped(LabelPair(0), Outcome.NOT_ENOUGH_IMAGES))
    part.advance(100)
    assert seen[-1].passes_planned == 1000 and len(seen[-1].finished) == 1
    part.finish(Recovered.skipped(LabelPair(1), Outcome.NOT_SEARCHED))
    assert len(part.finished) == 2 and len(seen[-1].finished) == 1, "one that a budget left out is not finished"


def test_what_is_left_is_told_by_measured_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = [0.0], list[Progress]()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    work = Work(seen.append)
    work.plan("patches", 900)
    checks = work.begin("checking the input", 100, 10, "images")
    clock[0] = 10.0
    checks.advance(50)
    assert seen[-1].seconds_left == pytest.approx(190) and str(seen[-1].phase) == "checking the input: 5 of 10 images"
    patches = work.begin("patches", 900, 10)
    work.tell(patches)
    assert seen[-1].passes_planned == 950, "the checks took less than was planned"
    work.plan("one-class patches", 1000)
    patches.advance(450)
    assert seen[-1].share == pytest.approx(500 / 1950)


def test_what_an_earlier_run_did_tells_nothing_of_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = [0.0], list[Progress]()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    part = Work(seen.append).begin("patches", 1000, 10)
    part.recall(800)
    clock[0] = 10.0
    part.recall(-300)  # searched again from the start
    assert seen[-1].passes_done == 500 and seen[-1].seconds_left is None
    part.advance(100)
    assert seen[-1].seconds_left == pytest.approx(40), "100 passes in 10 s, 400 to go"


def test_a_search_of_which_the_plan_did_not_know_is_planned_when_it_begins() -> None:
    seen = list[Progress]()
    part = Work(seen.append).begin("patches", 1000, 10)
    part.searching(10, 42, 900)
    part.advance(900)
    part.searching(10, 500, 3000)
    assert seen[-1].passes_planned == 3900 and str(seen[-1]) == " 23%, patches, 500 steps: 0 of 10 labels"


def test_a_search_after_all_labels_are_finished_is_not_over_before_it_is() -> None:
    seen = list[Progress]()
    part = Work(seen.append).begin("patches", 1000, 1)
    part.searching(1, 250, 100)
    part.advance(100)
    part.searched()
    part.finish(replace(Recovered.skipped(LabelPair(0), Outcome.STEP_LIMIT), image_passes=100))
    assert seen[-1].share == 1
    part.searching(1, 500, 100)
    part.advance(50)
    assert seen[-1].share < 0.5


def test_a_student_is_planned_until_none_is_needed(
    clean: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, lesson = replace(QUICK, patches_only=True), StudentPlan(steps=20)
    monkeypatch.setattr(teaching, "StudentPlan", lambda: lesson)
    for doubt in (False, True):
        monkeypatch.setattr(student_test, "leaves_doubt", lambda *_, doubt=doubt: doubt)
        monkeypatch.setattr(student_test, "_is_clear", lambda *_: True)
        seen: list[Progress] = []
        scan(clean, digits, settings, progress=seen.append)
        patches = [one for one in seen if one.phase.name == "patches"]
        assert all(one.passes_planned > one.passes_done + lesson.passes and not one.at_most for one in patches)
        lessons = [one for one in seen if one.phase.name == "training a student network"]
        assert bool(lessons) is doubt and all(one.at_most for one in lessons), "another two may be needed"
        assert not seen[-1].at_most and seen[-1].share == 1
