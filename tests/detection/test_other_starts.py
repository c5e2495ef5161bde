"""Where the sizes leave a verdict open, all labels are searched again, and the smaller trigger of each stands."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.other_starts import LEFT_OPEN, MOST_SEARCHES, search_again
from neural_cleanse.detection.prepare import PreparedScan, prepare
from neural_cleanse.detection.progress import Budget, BudgetTracker, Part, Work
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.detection.stages import Stages, Subject
from neural_cleanse.detection.student_test import Compared
from neural_cleanse.engines import InProcess
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.batching import Invert
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.results.records import LabelPair, Outcome, Recovered, Verdict

APART = [22.0, 240.0, 48.0, 45.0, 90.0, 49.0, 200.0, 47.0, 155.0, 150.0]  # too far apart to see a small one
AGAIN = [2.0, 62.0, 45.0, 41.0, 44.0, 41.0, 47.0, 39.0, 58.0, 44.0]


def record(label: int, size: float | None, passes: int = 100) -> Recovered:
    outcome = Outcome.ASR_NOT_REACHED if size is None else Outcome.CONVERGED
    return replace(Recovered.skipped(LabelPair(label), outcome), size=size, image_passes=passes)


@dataclass(frozen=True)
class Told(Stages):
    """Stages whose searches come to what they are told; `seeds` are those of the searches."""

    sizes: Sequence[float | None] = ()
    seeds: list[int] = field(default_factory=list)

    def invert(self, subject: Subject, report: Part) -> Invert:
        def run(
            inversion: Inversion, pairs: Sequence[LabelPair], resume: bool = False, record_: bool = True
        ) -> Iterator[Recovered]:
            self.seeds.append(subject.images.seed)
            yield from (record(pair.target, size) for pair, size in zip(pairs, self.sizes, strict=False))

        return run


def prepared_scan(model: Classifier, digits: ImageSet, work: Work, settings: ScanSettings) -> PreparedScan:
    return prepare(model, digits, settings, work)


def searched_again(
    model: Classifier,
    digits: ImageSet,
    first: Sequence[float | None],
    second: Sequence[float | None],
    **changes: object,
) -> tuple[tuple[Recovered, ...], Compared, list[int]]:
    work = Work(lambda _: None, BudgetTracker(Budget()))
    prepared = replace(prepared_scan(model, digits, work, ScanSettings(patches_only=True, samples=100)), **changes)  # type: ignore[arg-type]
    found = tuple(record(label, size) for label, size in enumerate(first))
    stages = Told(InProcess(), prepared.batch_limit, work, sizes=second)
    both, compared = search_again(prepared, found, Compared(prepared.decide(found)), stages)
    return both, compared, stages.seeds


def test_a_trigger_that_other_starts_find_is_flagged(clean: Classifier, digits: ImageSet) -> None:
    both, compared, seeds = searched_again(clean, digits, APART, AGAIN)
    smaller = [min(pair) for pair in zip(APART, AGAIN, strict=True)]
    assert [one.size for one in both] == smaller and {one.image_passes for one in both} == {200}
    assert compared.decision.verdict is Verdict.INFECTED and compared.decision.flagged == (0,)
    assert len(compared.notes) == 1 and compared.notes[0].startswith(LEFT_OPEN) and "2 times" in compared.notes[0]
    assert len(seeds) == 1 and seeds[0] != 0, "no third search where the second has settled it"


def test_the_second_look_pays_for_the_first(clean: Classifier, digits: ImageSet) -> None:
    both, compared, _ = searched_again(clean, digits, APART, AGAIN)
    work = Work(lambda _: None, BudgetTracker(Budget()))
    once = prepared_scan(clean, digits, work, ScanSettings(patches_only=True, samples=100)).decide(both)
    assert once.p_value is not None and compared.decision.p_value == pytest.approx(2 * once.p_value)


def test_a_verdict_that_stays_open_gets_a_last_search(clean: Classifier, digits: ImageSet) -> None:
    both, compared, seeds = searched_again(clean, digits, APART, APART)
    assert len(seeds) == len(set(seeds)) == MOST_SEARCHES - 1 and {one.image_passes for one in both} == {300}
    assert compared.decision.verdict is Verdict.INCONCLUSIVE
    assert len(compared.notes) == 1 and f"{MOST_SEARCHES} times" in compared.notes[0]


def test_a_label_without_a_trigger_may_get_one(clean: Classifier, digits: ImageSet) -> None:
    both, _, _ = searched_again(clean, digits, [*APART[:-1], None], AGAIN)
    assert both[-1].size == AGAIN[-1]
    both, _, _ = searched_again(clean, digits, APART, [None, *AGAIN[1:]])
    assert both[0].size == APART[0]


def test_a_search_that_a_budget_ends_decides_nothing_and_is_paid_for(clean: Classifier, digits: ImageSet) -> None:
    both, compared, _ = searched_again(clean, digits, APART, AGAIN[:4])
    assert [one.size for one in both] == APART and [one.image_passes for one in both] == [200] * 4 + [100] * 6
    assert compared.decision.verdict is Verdict.INCONCLUSIVE and not compared.notes


@pytest.mark.parametrize("first", [[45.0 + label for label in range(10)], [2.0, *AGAIN[1:]]], ids=["clean", "infected"])
def test_a_verdict_that_is_not_open_takes_no_second_search(
    clean: Classifier, digits: ImageSet, first: list[float]
) -> None:
    both, _, seeds = searched_again(clean, digits, first, AGAIN)
    assert [one.size for one in both] == first and not seeds


def test_nor_does_one_that_the_input_forbids_or_a_baseline_decides(clean: Classifier, digits: ImageSet) -> None:
    assert not searched_again(clean, digits, APART, AGAIN, doubt="the input is wrong")[2]
    sizes = {LabelPair(label): 40.0 for label in range(9)}
    assert not searched_again(clean, digits, APART, AGAIN, baseline_sizes=sizes)[2]
