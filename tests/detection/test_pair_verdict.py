"""The verdict on pairs, alone and with that on labels: found by either, clean by both, else could not tell."""

import itertools

import numpy as np
import pytest

from neural_cleanse.detection.combined import combine_kinds
from neural_cleanse.detection.kinds_found import KindFound
from neural_cleanse.detection.pair_verdict import judge_pairs, unsearched_words
from neural_cleanse.detection.verdict import Decision, decide
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import KindTest, LabelPair, Outcome, Recovered, Verdict

AREA = 784


def recovered(sizes: dict[LabelPair, float | None]) -> list[Recovered]:
    return [
        Recovered(
            pair, None, size, None, 0, 0, Outcome.CONVERGED if size else Outcome.NOT_ENOUGH_IMAGES, 1000, 0
        )
        for pair, size in sizes.items()
    ]  # fmt: skip


def usual(scale: float = 60.0) -> dict[LabelPair, float | None]:
    random = np.random.default_rng(0)
    return {
        LabelPair(target, source): scale * float(np.exp(random.normal(0, 0.2)))
        for source, target in itertools.permutations(range(8), 2)
    }


def judged(
    sizes: dict[LabelPair, float | None], unsearched: str | None = None, doubt: str | None = None
) -> tuple[KindTest, dict[LabelPair, float]]:
    return judge_pairs(
        recovered(sizes), 0.01, AREA, reference=frozenset(sizes), candidates=len(sizes), unsearched=unsearched,
        doubt=doubt,
    )  # fmt: skip


def across(sizes: dict[LabelPair, float | None], unsearched: str | None = None, doubt: str | None = None) -> KindTest:
    return judged(sizes, unsearched, doubt)[0]


def combine(labels: Decision, pairs: KindTest, doubt: str | None) -> Decision:
    return combine_kinds(labels, [KindFound(pairs)], doubt)


def of_labels(smallest: float = 90.0, doubt: str | None = None) -> Decision:
    sizes = [100.0, 110.0, 90.0, 120.0, 95.0, 105.0, 115.0, smallest]
    found = recovered({LabelPair(label): size for label, size in enumerate(sizes)})
    decision = decide(found, 0.01, AREA, share=0.5)
    return decision if doubt is None else decision.in_doubt(doubt)


PLANTED = {**usual(), LabelPair(3, 5): 6.0}


def test_found_by_pairs_alone() -> None:
    both = combine(of_labels(), across(PLANTED), None)
    assert both.verdict is Verdict.INFECTED and both.flagged == (3,) and both.flagged_pairs == (LabelPair(3, 5),)
    assert both.reason.startswith("images of label 5 go to label 3 with a trigger of 6.0 px")
    test, p_values = judged(PLANTED)
    assert both.p_value == test.p_value == p_values[LabelPair(3, 5)] < 0.01 and test.kind is Kind.PAIRS
    assert test.share == 0.1 and "of patches for images of any class" in both.reason


def test_found_by_labels_alone_and_by_both() -> None:
    assert combine(of_labels(4.0), across(usual()), None).flagged_pairs == (LabelPair(7),)
    both = combine(of_labels(4.0), across(PLANTED), None)
    assert both.flagged_pairs == (LabelPair(7), LabelPair(3, 5)) and both.flagged == (3, 7)


def test_clean_only_if_both_say_so() -> None:
    assert combine(of_labels(), across(usual()), None).verdict is Verdict.CLEAN
    assert combine(of_labels(), across(usual(), "4 pairs were beyond the budget"), None).verdict is Verdict.INCONCLUSIVE
    assert across(usual(scale=8.0)).verdict is Verdict.INCONCLUSIVE  # a trigger of 1 % of the image would be no outlier
    half = {pair: size if number % 2 else None for number, (pair, size) in enumerate(usual().items())}
    assert across(half).verdict is Verdict.INCONCLUSIVE
    assert across({}).verdict is Verdict.INCONCLUSIVE and across({}).p_value is None


def test_a_doubt_about_the_images_forbids_a_verdict() -> None:
    doubt = "the input is wrong"
    pairs = across(PLANTED, doubt=doubt)
    assert pairs.verdict is Verdict.INCONCLUSIVE and pairs.flagged == () and pairs.reason.startswith(doubt)
    doubted = combine(of_labels(4.0, doubt), pairs, doubt)
    assert doubted.verdict is Verdict.INCONCLUSIVE and doubted.flagged_pairs == ()


def test_the_two_tests_share_alpha() -> None:
    """A pair whose own p lies between alpha / 2 and alpha is not flagged, and its doubled p says why."""
    sizes = usual()
    pair = LabelPair(3, 5)
    low, high = 1.0, 60.0
    for _ in range(60):  # the size at which the doubled p is 1.5 alpha
        middle = (low + high) / 2
        low, high = (middle, high) if judged({**sizes, pair: middle})[1][pair] < 0.015 else (low, middle)
    test, p_values = judged({**sizes, pair: high})
    assert p_values[pair] == pytest.approx(0.015, rel=1e-3) and test.flagged == ()


def test_what_was_not_searched_in_words() -> None:
    assert unsearched_words((), 0, 90, 30) is None
    words = unsearched_words((2, 5), 1200, 1806, 30)
    assert words is not None and "labels 2, 5 have fewer than 30 images" in words and "1,200 of 1,806 pairs" in words
    leaking = unsearched_words((), 0, 90, 30, [LabelPair(7, 3)])
    assert leaking is not None and leaking.startswith("3 to 7: ") and "without any trigger" in leaking
