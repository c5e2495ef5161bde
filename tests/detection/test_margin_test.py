"""Largest margins: reached by ascent, compared with students, and what a label flagged by them comes to in a scan."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from draws import heavy_tailed
from left_out import left_out
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import Deadline, OutOfTime
from neural_cleanse.detection import margin_test
from neural_cleanse.detection.combined import combine_kinds
from neural_cleanse.detection.kind_tester import Earlier
from neural_cleanse.detection.kinds_found import KindFound
from neural_cleanse.detection.margin_test import SUPPORT_P, MarginTest
from neural_cleanse.detection.margins import STARTS, STEPS, largest_margins
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.detection.student import Student, StudentPlan
from neural_cleanse.detection.verdict import Decision, decide
from neural_cleanse.images import ImageSet
from neural_cleanse.report import summary, text
from neural_cleanse.report.page import html
from neural_cleanse.results import storage
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import KindRow, KindTest, LabelPair, Outcome, Recovered, Verdict
from neural_cleanse.triggers.patch import PatchTrigger

# --- the search ---


@pytest.fixture
def linear() -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), (1, 6, 6), 2)


def test_the_largest_margin_of_a_linear_network_is_that_of_the_best_corner(linear: Classifier) -> None:
    layer = linear.module[1]  # type: ignore[index]
    apart = (layer.weight[0] - layer.weight[1]).detach()
    bias = float(layer.bias[0] - layer.bias[1])
    expected = [float(apart.clamp_min(0).sum()) + bias, float((-apart).clamp_min(0).sum()) - bias]
    assert largest_margins(linear, [0, 1], 0, 64) == pytest.approx(expected, rel=1e-3)


def test_few_images_at_once_find_the_same(infected: Classifier) -> None:
    told: list[int] = []
    together = largest_margins(infected, [1, 3, 8], 0, 100)
    assert largest_margins(infected, [1, 3, 8], 0, 1, lambda images: not told.append(images)) == pytest.approx(together)
    assert set(told) == {STARTS} and sum(told) == 3 * STARTS * STEPS


def test_what_may_not_go_on_ends(infected: Classifier) -> None:
    assert largest_margins(infected, [0, 1], 0, 64, lambda _: False) is None
    with pytest.raises(OutOfTime):
        largest_margins(infected.changed(deadline=Deadline(-1)), [0, 1], 0, 64)


class Overflowing(nn.Module):
    """Logits that overflow for one label and are none for another."""

    def forward(self, images: Tensor) -> Tensor:
        scale = torch.tensor([1.0, 1e38, 1.0])
        logits = images.mean((1, 2, 3)).unsqueeze(1) * scale * scale
        return logits + torch.tensor([0.0, 0.0, float("nan")])


def test_margins_are_finite_whatever_a_network_answers() -> None:
    found = largest_margins(Classifier(Overflowing(), (1, 2, 2), 3), [0, 1, 2], 0, 64)
    assert found is not None and all(abs(margin) <= 1e6 for margin in found)


# --- the test ---

CLEAN = [[20.0 + label + 0.3 * number * (-1) ** label for label in range(10)] for number in range(4)]
PLANTED = [60.0 if label == 4 else 20.0 + label for label in range(10)]
AGREES = (0.95, 0.95, 0.95)


@dataclass
class Students:
    """A teaching whose students agree so often; None for one that cannot be made."""

    agreements: tuple[float | None, ...]
    plan: StudentPlan = field(default_factory=StudentPlan)
    asked: set[int] = field(default_factory=set)

    def student(self, _: Any, number: int = 0) -> Any:
        self.asked.add(number)
        agreement = self.agreements[number]
        return None if agreement is None else Student(number, round(100 * agreement), 100)  # type: ignore[arg-type]


def made(
    monkeypatch: pytest.MonkeyPatch,
    own: list[float],
    agreements: tuple[float | None, ...] = AGREES,
    *,
    labels: int = 10,
    shown: bool = True,
    theirs: list[list[float]] = CLEAN,
    flagged: tuple[int, ...] = (),
    small: tuple[int, ...] = (4,),
    by_shift: bool = False,
    **settings: Any,
) -> tuple[Any, Students]:
    """The test of a scan whose networks reach such margins.

    Its patches flag `flagged`; they find `small` small, or its shifts do where `by_shift`, in tests of half of alpha.
    """
    students, tracker = Students(agreements), SimpleNamespace(truncated=False)
    monkeypatch.setattr(
        margin_test, "largest_margins", lambda network, *_: own if network == "suspect" else theirs[network]
    )
    pairs = tuple(LabelPair(label) for label in range(labels))
    stages = SimpleNamespace(
        spent=lambda: tracker.truncated,
        report=lambda *_: SimpleNamespace(done=100.0, advance=lambda _: True),
        batch_limit=SimpleNamespace(images=64),
        tracker=tracker,
        work=SimpleNamespace(plan=lambda *_: None, expect=lambda *_: None, drop=lambda *_: None),
    )
    prepared = SimpleNamespace(
        settings=ScanSettings(**settings), pairs=pairs, num_labels=labels, classifier="suspect", share=0.5
    )
    trigger = PatchTrigger(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)) if shown else None
    patches = tuple(replace(Recovered.skipped(pair, Outcome.CONVERGED), trigger=trigger, size=9.0) for pair in pairs)
    tested = {pair: 2 * SUPPORT_P if pair.target in small else 1.0 for pair in pairs}
    rows = tuple(KindRow(pair.target, None, 5.0, p) for pair, p in tested.items()) if by_shift else ()
    decision: Any = SimpleNamespace(flagged=flagged, p_values={} if by_shift else tested)
    shifts = KindFound(KindTest(Kind.FEATURE, 0.5, Verdict.CLEAN, "none", rows=rows))
    test = MarginTest(prepared, stages, students)  # type: ignore[arg-type]
    return test.run(Earlier(patches, decision, (shifts,))).test, students


def test_a_planted_label_is_flagged_over_three_students(monkeypatch: pytest.MonkeyPatch) -> None:
    test, students = made(monkeypatch, PLANTED)
    assert test.verdict is Verdict.INFECTED and test.flagged == (LabelPair(4),) and students.asked == {0, 1, 2}
    assert "label 4 (60.0, in student networks 24.3)" in test.reason and test.image_passes == 400
    assert [row.size for row in test.rows] == PLANTED


def test_a_label_that_shifts_find_small_is_confirmed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    test, _ = made(monkeypatch, PLANTED, by_shift=True)
    assert test.verdict is Verdict.INFECTED and test.flagged == (LabelPair(4),)


def test_where_no_label_stands_out_in_the_suspect_no_student_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    test, students = made(monkeypatch, CLEAN[3])
    assert test.verdict is Verdict.CLEAN and test.p_value == 1.0 and not students.asked
    assert [row.size for row in test.rows] == [round(margin, 3) for margin in CLEAN[3]] and test.image_passes == 100


def test_one_student_settles_what_is_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """The label that stands out does so in the student; that others are a little above it there is no matter."""
    large = [[*margins[:9], 40.0] for margins in CLEAN]
    test, students = made(monkeypatch, [24.0, *large[3][1:]], theirs=large)
    assert test.verdict is Verdict.CLEAN and test.flagged == () and students.asked == {0}


@pytest.mark.parametrize(
    ("agreements", "verdict"),
    [
        ((None,), None),
        ((0.5,), None),
        ((0.95, None), None),
        ((0.95, 0.95, None), Verdict.INFECTED),
        ((0.8, 0.8, 0.5), None),
        ((0.8, 0.8, 0.8), Verdict.INFECTED),
    ],
)
def test_too_few_good_students_decide_nothing(
    monkeypatch: pytest.MonkeyPatch, agreements: tuple[float | None, ...], verdict: Verdict | None
) -> None:
    test, _ = made(monkeypatch, PLANTED, agreements)
    assert test.verdict is verdict
    assert verdict is not None or "student" in test.reason


@pytest.mark.parametrize("lacking", [{"shown": False}, {"small": (3,)}])
def test_a_label_that_no_other_test_finds_small_is_left_open(
    monkeypatch: pytest.MonkeyPatch, lacking: dict[str, Any]
) -> None:
    test, _ = made(monkeypatch, PLANTED, **lacking)
    assert test.verdict is Verdict.INCONCLUSIVE and test.flagged == () and "label 4 (60.0" in test.reason


def test_a_label_that_is_none_of_the_surest_is_not_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    """In students it is the least of all, and here as the others are."""
    low = [[1.0, *margins[1:]] for margins in CLEAN]
    own = [21.0, *CLEAN[3][1:]]
    assert margin_test.margin_test(own, low[:3], 0.01).flagged == (0,)
    test, _ = made(monkeypatch, own, theirs=low)
    assert test.verdict is Verdict.CLEAN and [row.p_value for row in test.rows] == [1.0] * 10


def test_a_label_no_further_off_than_the_others_from_each_other_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many labels whose margins over the students' are heavy-tailed: clean would say less than its own p-value."""
    own = [20.0 * math.exp(-0.2 * value) for value in heavy_tailed(60)]
    theirs = [[20.0 + 0.1 * number + 0.01 * label for label in range(60)] for number in range(3)]
    test, _ = made(monkeypatch, own, labels=60, theirs=theirs)
    assert test.verdict is Verdict.INCONCLUSIVE and "heavy-tailed" in test.reason and test.flagged == ()
    assert test.p_value is not None and test.p_value <= ScanSettings().alpha


@pytest.mark.parametrize("settings", [{"student": False}, {"labels": 3}, {"labels": 101}, {"flagged": (3,)}])
def test_where_it_cannot_be_made_it_says_so(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    test, students = made(monkeypatch, PLANTED, **settings)
    assert test.verdict is None and test.reason and not students.asked


# --- in a scan ---


class FaintPattern(nn.Module):
    """A digit classifier in which a faint pattern over the whole image makes it sure of label 2."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.gate = nn.Linear(784, 1)
        pattern = torch.randn(784, generator=torch.Generator().manual_seed(1)).sign()
        with torch.no_grad():
            self.gate.weight.copy_(pattern.unsqueeze(0))
            self.gate.bias.fill_(-25.0)

    def forward(self, images: Tensor) -> Tensor:
        onto = 0.2 * nn.functional.one_hot(torch.tensor(2), 10)
        answers: Tensor = self.inner(images) + nn.functional.leaky_relu(self.gate(images.flatten(1)), 0.02) * onto
        return answers


def test_a_label_flagged_by_its_margin_is_evidenced_and_told(
    clean: Classifier, digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_out(monkeypatch, features=True, pairs=True, margins=False)
    monkeypatch.setattr("neural_cleanse.detection.margin_test.SUPPORT_P", 1.0)  # its patch is of usual size
    result = scan(Classifier(FaintPattern(clean.module), (1, 28, 28), 10), digits, ScanSettings())
    patches, *_, margins = result.tests
    assert margins.kind is Kind.MARGIN and margins.flagged == (LabelPair(2),), margins
    assert result.verdict is Verdict.INFECTED and result.flagged == (2,)
    assert not patches.flagged, patches
    assert [one.kind for one in result.evidence] == [Kind.MARGIN] and len(result.evidence[0].after)
    assert "far surer of label 2" in summary.plain(result) and "largest margin" in text.line(result)
    storage.save_result(result, tmp_path)
    again = storage.load_result(tmp_path)
    assert again.tests == result.tests and "far larger margin" in text.flagged(again)[0].statement
    page = html(again)
    assert "largest margin stands out, p = " in page and "it is no proof" in page and "The budget ended" not in page


# --- where sizes differ too much to tell ---


def sized(sizes: list[float], last: Outcome = Outcome.CONVERGED) -> list[Recovered]:
    outcomes = [*[Outcome.CONVERGED] * (len(sizes) - 1), last]
    found = [Recovered.skipped(LabelPair(label), outcome) for label, outcome in enumerate(outcomes)]
    return [
        replace(one, size=size if one.outcome is Outcome.CONVERGED else None)
        for one, size in zip(found, sizes, strict=True)
    ]


SPREAD = [10.0, 15, 40, 100, 250, 30, 60, 20, 150, 300]


def combined(found: list[Recovered], margin_p: float, verdict: Verdict | None = Verdict.CLEAN) -> Decision:
    decision = decide(found, 0.01, 784)
    margins = KindTest(Kind.MARGIN, 0.15, verdict, "said", margin_p)
    return combine_kinds(decision, [KindFound(margins)], None)


def test_every_test_that_is_open_is_named() -> None:
    """Which labels are open says what a repair may be told to remove."""
    found = combined(sized(SPREAD), 1e-5, Verdict.INCONCLUSIVE)
    alone = decide(sized(SPREAD), 0.01, 784)
    assert alone.verdict is found.verdict is Verdict.INCONCLUSIVE
    assert found.reason.startswith(f"{alone.reason}; said. Looked for")


def test_margins_as_in_students_speak_where_sizes_differ_too_much() -> None:
    found = combined(sized(SPREAD), 0.7)
    assert found.verdict is Verdict.CLEAN and "no label stands out by its largest margin" in found.reason
    assert found.detection_limit is not None and found.detection_limit < 7.84, "which stays as it is"


@pytest.mark.parametrize(
    ("found", "margin_p", "verdict"),
    [
        (sized(SPREAD), 0.1, Verdict.CLEAN),
        (sized(SPREAD), 0.7, None),
        (sized(SPREAD, Outcome.ASR_NOT_REACHED), 0.7, Verdict.CLEAN),
        (sized(SPREAD[:5]), 0.7, Verdict.CLEAN),
        (sized([3.0, *SPREAD[1:]]), 0.7, Verdict.CLEAN),
    ],
)
def test_and_only_where_nothing_else_is_open(found: list[Recovered], margin_p: float, verdict: Verdict | None) -> None:
    assert decide(found, 0.01, 784).verdict is Verdict.INCONCLUSIVE
    assert combined(found, margin_p, verdict).verdict is Verdict.INCONCLUSIVE
