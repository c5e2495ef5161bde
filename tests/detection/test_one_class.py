"""A patch between two labels: what stands out among the pairs is compared with students, after more steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.kind_search import KindSearch
from neural_cleanse.detection.kind_tester import Earlier
from neural_cleanse.detection.kinds_found import KindFound, Searched, StudentRatios, Unfinished
from neural_cleanse.detection.one_class import FEW_STEPS, MORE_STEPS, OneClass
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.detection.stages import Subject
from neural_cleanse.detection.statistics.one_class import NATURAL
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import LabelPair, Outcome, Recovered, Verdict

PAIR = LabelPair(7, 1)


def recovered(pair: LabelPair, size: float | None) -> Recovered:
    return replace(Recovered.skipped(pair, Outcome.CONVERGED), size=size, image_passes=10, last_size=size or 50.0)


@dataclass(frozen=True)
class Told(KindSearch):
    """A search that comes to what it is told, in the suspect and in each student."""

    size: float | None = 8.0
    ratios: Sequence[Mapping[LabelPair, float] | None] = ()
    steps: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    def run(
        self, inversion: Inversion, pairs: Sequence[LabelPair], subject: Subject, said: str = ""
    ) -> Searched | Unfinished:
        self.steps.append(inversion.steps)
        return Searched(tuple(recovered(pair, self.size) for pair in pairs), subject, inversion)

    def over_student(self, searched: Searched, pairs: Sequence[LabelPair], number: int) -> StudentRatios:
        self.asked.append(number)
        return StudentRatios(self.ratios[number], 100, 5)


def judged(clean: Classifier, digits: ImageSet, p_value: float, told: Told) -> KindFound:
    searched = Searched((recovered(PAIR, 10.4),), Subject(clean, ScanImages.of(clean, digits, 0)), Inversion())
    return OneClass(told)._judged(searched, {PAIR: p_value}, [PAIR])


def told(*ratios: float | None, size: float | None = 8.0, truncated: bool = False) -> Told:
    stages: Any = SimpleNamespace(tracker=SimpleNamespace(truncated=truncated))
    prepared: Any = SimpleNamespace(settings=ScanSettings(), inversion=Inversion())
    each = [None if ratio is None else {PAIR: ratio} for ratio in ratios]
    return Told(Kind.PAIRS, prepared, stages, SimpleNamespace(), size, each)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("p_value", "ratio", "verdict"),
    [
        (1e-5, 0.1, Verdict.INFECTED),
        (0.04, 0.1, Verdict.INFECTED),  # by the students
        (1e-5, 0.45, Verdict.INCONCLUSIVE),
        (0.04, 0.45, Verdict.CLEAN),  # stands out in neither
        (0.2, 0.39, Verdict.CLEAN),
        (1e-5, 0.55, Verdict.CLEAN),  # the classes have it
    ],
)
def test_a_pair_must_be_far_smaller_than_in_students(
    p_value: float, ratio: float, verdict: Verdict, clean: Classifier, digits: ImageSet
) -> None:
    """Digits that are near each other have a small patch between them in some clean networks and not in others."""
    search = told(ratio, ratio, ratio)
    found = judged(clean, digits, p_value, search)
    asked = [0] if ratio >= NATURAL else [0, 1, 2]
    assert found.test.verdict is verdict and search.asked == asked and search.steps == [MORE_STEPS]
    assert (found.test.flagged == (PAIR,)) is (verdict is Verdict.INFECTED)
    assert found.test.image_passes == 10 + 10 + 100 * len(asked)
    assert (found.test.p_value or 0.0) > 0.01 or verdict is not Verdict.CLEAN, "a clean test has no p-value that flags"
    if verdict is Verdict.INFECTED:
        assert found.test.p_value is not None and found.test.p_value <= 0.01
        assert found.test.rows[0].p_value == found.test.p_value
        assert [one.size for one in found.flagged] == [8.0], "the trigger of the longer search"


def test_one_student_is_enough_where_it_has_as_small_a_patch(clean: Classifier, digits: ImageSet) -> None:
    search = told(0.9)
    assert judged(clean, digits, 1e-5, search).test.verdict is Verdict.CLEAN and search.asked == [0]


@pytest.mark.parametrize("ratios", [(0.0, 0.9, 1.1), (0.0, 0.0, 1.1), (0.24, 0.28, 0.51)])
def test_one_student_with_as_small_a_patch_outweighs_two_without(
    ratios: Sequence[float], clean: Classifier, digits: ImageSet
) -> None:
    """What one student of the classes has belongs to the classes."""
    assert judged(clean, digits, 1e-5, told(*ratios)).test.verdict is Verdict.CLEAN
    assert judged(clean, digits, 1e-5, told(0.0, 0.1, 0.38)).test.verdict is Verdict.INFECTED


@pytest.mark.parametrize(("truncated", "why"), [(True, "the budget was spent"), (False, "no other could be")])
def test_fewer_students_than_wanted_are_said(clean: Classifier, digits: ImageSet, truncated: bool, why: str) -> None:
    found = judged(clean, digits, 1e-5, told(0.1, None, truncated=truncated))
    assert found.test.verdict is Verdict.INFECTED
    assert [note for note in found.notes if "1 of 3 student networks decided" in note and why in note]
    for enough in (told(0.1, 0.1, 0.1), told(0.9)):
        assert not judged(clean, digits, 1e-5, enough).notes


@pytest.mark.parametrize(("p_value", "verdict"), [(1e-5, Verdict.INCONCLUSIVE), (0.1, Verdict.CLEAN)])
def test_without_a_student_what_stands_out_clearly_stays_open(
    p_value: float, verdict: Verdict, clean: Classifier, digits: ImageSet
) -> None:
    assert judged(clean, digits, p_value, told(None)).test.verdict is verdict


def test_a_patch_that_more_steps_do_not_keep_is_none(clean: Classifier, digits: ImageSet) -> None:
    search = told(size=None)
    found = judged(clean, digits, 1e-5, search)
    assert found.test.verdict is Verdict.CLEAN and not search.asked and FEW_STEPS < MORE_STEPS
    assert "with more steps and images none works" in found.test.reason and "student" not in found.test.reason


@dataclass(frozen=True)
class CutOff(Told):
    """A search that the budget ends."""

    def run(
        self, inversion: Inversion, pairs: Sequence[LabelPair], subject: Subject, said: str = ""
    ) -> Searched | Unfinished:
        return Unfinished(7, 3, "the budget was spent after 0 of 1 pairs")


def test_a_budget_that_ends_the_longer_search_is_said_and_counted(clean: Classifier, digits: ImageSet) -> None:
    search = told()
    ended = CutOff(search.kind, search.prepared, search.stages, search.teaching)
    test = judged(clean, digits, 1e-5, ended).test
    assert test.verdict is Verdict.INCONCLUSIVE and test.reason.endswith("but the budget was spent after 0 of 1 pairs")
    assert test.image_passes == 10 + 7 and test.forward_passes == 3


@dataclass(frozen=True)
class Early(Told):
    """A search of all pairs whose masks still shrink: so many have a trigger that works, one mask is far smaller."""

    working: int = 40

    def run(
        self, inversion: Inversion, pairs: Sequence[LabelPair], subject: Subject, said: str = ""
    ) -> Searched | Unfinished:
        if len(pairs) == 1:
            return super().run(inversion, pairs, subject, said)
        self.steps.append(inversion.steps)
        noise = np.random.default_rng(0).normal(0, 0.2, len(pairs))
        masks = [5.0 if pair == PAIR else 50.0 * math.exp(error) for pair, error in zip(pairs, noise, strict=True)]
        found = [
            replace(recovered(pair, 60.0 if number < self.working and pair != PAIR else None), last_size=mask)
            for number, (pair, mask) in enumerate(zip(pairs, masks, strict=True))
        ]
        return Searched(tuple(found), subject, inversion)


@pytest.mark.parametrize(("working", "verdict"), [(40, Verdict.INFECTED), (20, None)])
def test_pairs_are_told_apart_by_the_masks_that_few_steps_end_at(
    working: int, verdict: Verdict | None, clean: Classifier, digits: ImageSet
) -> None:
    """The planted pair has no trigger yet that works: its mask is far smaller than the others' all the same."""
    pairs = [LabelPair(target) for target in range(10)]
    prepared: Any = SimpleNamespace(
        settings=ScanSettings(), inversion=Inversion(), images=ScanImages.of(clean, digits, 0), classifier=clean,
        pairs=pairs, num_labels=10,
    )  # fmt: skip
    nothing: Any = SimpleNamespace()
    search = Early(Kind.PAIRS, prepared, nothing, nothing, ratios=[{PAIR: 0.1}] * 3, working=working)
    decision: Any = SimpleNamespace(flagged=())
    found = OneClass(search).run(Earlier((), decision))
    assert found.test.verdict is verdict
    assert search.steps == ([FEW_STEPS, MORE_STEPS] if verdict else [FEW_STEPS])
    assert found.test.flagged == ((PAIR,) if verdict else ())


@pytest.mark.parametrize("restarts", [1, 2, 4])
def test_fewer_restarts_leave_the_pairs_in(restarts: int, clean: Classifier, digits: ImageSet) -> None:
    prepared: Any = SimpleNamespace(
        settings=ScanSettings(), inversion=Inversion(restarts=restarts), images=ScanImages.of(clean, digits, 0),
        classifier=clean, pairs=[LabelPair(target) for target in range(10)], num_labels=10,
    )  # fmt: skip
    nothing: Any = SimpleNamespace()
    assert OneClass(Told(Kind.PAIRS, prepared, nothing, nothing)).planned()["one-class patches"] > 0
