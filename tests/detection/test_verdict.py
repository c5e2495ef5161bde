"""The verdict's rules, each on sizes made for it."""

import numpy as np
import pytest

from neural_cleanse.detection.verdict import Baseline, decide
from neural_cleanse.results.records import BelowLimit, LabelPair, Outcome, Recovered, Verdict

AREA = 784


def recovered(sizes: list[float | None], outcome: Outcome = Outcome.CONVERGED) -> list[Recovered]:
    """One record a label; None is a label for which no trigger worked."""
    return [
        Recovered(LabelPair(target), None, size, None, 0, 0, outcome if size else Outcome.ASR_NOT_REACHED, 1, 1)
        for target, size in enumerate(sizes)
    ]


def usual(count: int, seed: int = 0) -> list[float]:
    """Sizes of clean labels: a median of 100 px, log sd 0.15."""
    return list(100 * np.exp(0.15 * np.random.default_rng(seed).normal(size=count)))


def test_nothing_small_is_clean_and_says_what_would_have_been_seen() -> None:
    decision = decide(recovered(usual(10)), 0.01, AREA)
    assert decision.verdict is Verdict.CLEAN and decision.flagged == ()
    assert decision.detection_limit is not None and f"{decision.detection_limit:.1f} px" in decision.reason


def test_a_small_label_is_infected_and_named() -> None:
    decision = decide(recovered([*usual(9), 9.0]), 0.01, AREA)
    assert decision.verdict is Verdict.INFECTED and decision.flagged == (9,)
    assert "label 9 is reached by a 9.0-pixel trigger" in decision.reason
    assert decision.p_values[LabelPair(9)] == decision.p_value


def test_several_infected_labels_are_reported_in_order() -> None:
    sizes = usual(43)
    sizes[30], sizes[4], sizes[17] = 5.0, 7.0, 6.0
    decision = decide(recovered(sizes), 0.01, AREA)
    assert decision.verdict is Verdict.INFECTED and decision.flagged == (4, 17, 30)


@pytest.mark.parametrize("count", [2, 3])
def test_two_or_three_labels_are_never_clean(count: int) -> None:
    decision = decide(recovered([100.0, 30.0, 120.0][:count]), 0.01, AREA)
    assert decision.verdict is Verdict.INCONCLUSIVE


def test_every_label_small_is_inconclusive() -> None:
    """As in all-to-all or all-infected models."""
    decision = decide(recovered([size / 20 for size in usual(10)]), 0.01, AREA)
    assert decision.verdict is Verdict.INCONCLUSIVE and "every label has a small trigger" in decision.reason


def test_a_detection_limit_under_a_hundredth_of_the_image_is_inconclusive() -> None:
    wild = [20.0, 60.0, 100.0, 180.0, 300.0, 40.0, 120.0, 500.0, 30.0, 250.0]
    decision = decide(recovered(wild), 0.01, AREA)
    assert decision.verdict is Verdict.INCONCLUSIVE and "would have been" in decision.reason


def test_labels_without_a_trigger_stay_out_of_the_reference_and_are_counted() -> None:
    few = decide(recovered([*usual(50), None, None]), 0.01, AREA)
    assert few.verdict is Verdict.CLEAN and "2 without a trigger that works" in few.reason
    assert LabelPair(50) not in few.p_values
    many = decide(recovered([*usual(50), *[None] * 13]), 0.01, AREA)
    assert many.verdict is Verdict.INCONCLUSIVE and "13 of 63" in many.reason


def test_with_few_labels_none_may_lack_a_trigger() -> None:
    """A model made to mislead the search would hide its label there."""
    one = decide(recovered([*usual(9), None]), 0.01, AREA)
    assert one.verdict is Verdict.INCONCLUSIVE and "no trigger works for 1 of 10 labels" in one.reason
    assert decide(recovered([*usual(9), 9.0, None]), 0.01, AREA).flagged == (9,)


def test_labels_without_a_trigger_count_whether_or_not_they_are_of_the_reference() -> None:
    found = recovered([*usual(70), *[None] * 30])
    reference = frozenset(LabelPair(target) for target in range(70))
    outside = decide(found, 0.01, AREA, reference=reference)
    assert outside.verdict is Verdict.INCONCLUSIVE and "30 of 100" in outside.reason
    within = decide(found, 0.01, AREA, reference=frozenset(LabelPair(target) for target in range(5, 90)))
    assert within.verdict is Verdict.INCONCLUSIVE


def test_a_flag_says_that_labels_were_left_out() -> None:
    decision = decide(recovered([*usual(9), 9.0]), 0.01, AREA, num_classes=12)
    assert decision.verdict is Verdict.INFECTED
    assert "2 of the model's labels were not searched" in decision.reason


def test_labels_that_could_not_be_searched_forbid_clean() -> None:
    found = recovered(usual(10))
    found.append(Recovered(LabelPair(10), None, None, None, 0, 0, Outcome.NOT_ENOUGH_IMAGES, 0, 0))
    assert decide(found, 0.01, AREA).verdict is Verdict.INCONCLUSIVE


def test_doubt_about_the_input_forbids_every_verdict() -> None:
    decision = decide(recovered([*usual(9), 9.0]), 0.01, AREA).in_doubt("the input is wrong")
    assert decision.verdict is Verdict.INCONCLUSIVE and decision.flagged == ()
    assert decision.reason.startswith("the input is wrong")


def test_many_labels_with_a_slow_tail_are_inconclusive() -> None:
    """Normal log sizes, then a tail that thins out exponentially: the smallest is no outlier of that tail."""
    tail = [100 * np.exp(-0.35 * step) for step in (0.6, 0.8, 1.1, 1.4, 1.8, 2.3, 3.0, 4.0, 5.0)]
    decision = decide(recovered([*usual(80), *tail]), 0.01, AREA)
    assert decision.verdict is Verdict.INCONCLUSIVE and "heavy-tailed" in decision.reason


def test_the_papers_rule_stands_beside() -> None:
    """Threshold 2 on raw sizes, low side only (Wang et al. 2019, section IV)."""
    decision = decide(recovered([100.0, 101.0, 99.0, 102.0, 98.0, 95.0, 160.0]), 0.01, AREA)
    assert decision.paper_rule.threshold == 2.0
    assert decision.paper_rule.flagged == tuple(
        pair.target for pair, index in decision.anomaly_index.items() if index > 2
    )
    assert 6 not in decision.paper_rule.flagged


NATURAL = [100.0, 140.0, 40.0, 120.0, 95.0, 160.0, 105.0, 130.0, 90.0, 150.0]  # label 2 is naturally small
BASELINE = {LabelPair(label): size for label, size in enumerate(NATURAL)}
ANOTHER_SEED = [size * (wobble / 100) ** 0.5 for size, wobble in zip(NATURAL, usual(10, seed=2), strict=True)]


def test_a_baseline_takes_away_what_belongs_to_the_classes() -> None:
    same = decide(recovered(ANOTHER_SEED), 0.01, AREA, baseline=Baseline(BASELINE))
    assert same.verdict is Verdict.CLEAN and same.p_value is not None and same.p_value > 0.2
    small = [size * (0.4 if label == 5 else 1.0) for label, size in enumerate(ANOTHER_SEED)]
    assert decide(recovered(small), 0.01, AREA, baseline=Baseline(BASELINE)).flagged == (5,)
    assert decide(recovered(small), 0.01, AREA).flagged != (5,)


def test_a_limit_over_a_baseline_holds_for_every_label() -> None:
    limit = decide(recovered(ANOTHER_SEED), 0.01, AREA, baseline=Baseline(BASELINE)).detection_limit
    assert limit is not None and 0 < limit < 40
    for label in range(10):
        sizes = [0.9 * limit if other == label else size for other, size in enumerate(ANOTHER_SEED)]
        assert decide(recovered(sizes), 0.01, AREA, baseline=Baseline(BASELINE)).flagged == (label,)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_baseline_serves_models_with_few_labels(count: int) -> None:
    baseline_sizes = {LabelPair(label): 100.0 + 10 * label for label in range(count)}
    same = [101.0, 113.0, 118.0, 131.0][:count]
    assert decide(recovered(same), 0.01, AREA, baseline=Baseline(baseline_sizes)).verdict is Verdict.CLEAN
    found = decide(recovered([20.0, *same[1:]]), 0.01, AREA, baseline=Baseline(baseline_sizes))
    assert found.flagged == (0,)
    assert decide(recovered([20.0, *same[1:]])[:2], 0.01, AREA).verdict is Verdict.INCONCLUSIVE


def test_labels_that_the_baseline_lacks_are_left_out() -> None:
    baseline_sizes = {LabelPair(1): 100.0}
    judged = decide(recovered([100.0, 10.0, 90.0, 110.0]), 0.01, AREA, baseline=Baseline(baseline_sizes))
    assert judged.verdict is Verdict.INCONCLUSIVE


def test_a_label_that_only_the_baseline_lacks_forbids_clean() -> None:
    baseline_sizes = {pair: size for pair, size in BASELINE.items() if pair.target != 7}
    small = [10.0 if label == 7 else size for label, size in enumerate(ANOTHER_SEED)]
    judged = decide(recovered(small), 0.01, AREA, baseline=Baseline(baseline_sizes))
    assert judged.verdict is Verdict.INCONCLUSIVE and "label 7" in judged.reason


def test_screening_flags_at_a_share_of_alpha_only() -> None:
    screened = Outcome.SCREENED
    clear = decide(recovered([*usual(9), 25.0], screened), 0.01, AREA)
    assert clear.verdict is Verdict.INFECTED and clear.flagged == (9,) and "screening" in clear.reason
    assert clear.p_value is not None and clear.p_value < 0.001
    unclear = decide(recovered([*usual(9), 46.0], screened), 0.01, AREA)
    assert unclear.p_value is not None and 0.001 < unclear.p_value < 0.01
    assert unclear.verdict is Verdict.INCONCLUSIVE and unclear.flagged == () and unclear.flagged_pairs == ()
    assert unclear.below_limit is BelowLimit.FLAGGED, "the limit is that of one more label beside it"
    assert "screening flags a label only at" in unclear.reason
    assert decide(recovered([*usual(9), 46.0]), 0.01, AREA).flagged == (9,)


def test_screening_flags_no_label_that_is_nearly_as_large_as_the_others() -> None:
    """Sizes are alike after screening: a clean label was .62 of the median at p = 1e-4, and usual in the end."""
    sizes = [float(size) for size in 200 * np.exp(0.05 * np.random.default_rng(0).normal(size=39))]
    look = decide(recovered([*sizes, 110.0], Outcome.SCREENED), 0.01, AREA)
    assert look.p_value is not None and look.p_value < 0.001 and look.verdict is Verdict.INCONCLUSIVE
    assert decide(recovered([*sizes, 70.0], Outcome.SCREENED), 0.01, AREA).flagged == (39,)


def test_screening_flags_nothing_among_many_labels_and_clears_nothing_while_one_has_no_size() -> None:
    """Above 40 labels the tail of the others decides, which is not known after screening."""
    sizes = usual(50)
    assert decide(recovered([*sizes, 10.0]), 0.01, AREA).flagged == (50,)
    look = decide(recovered([*sizes, 10.0], Outcome.SCREENED), 0.01, AREA)
    assert look.verdict is Verdict.INCONCLUSIVE and look.flagged_pairs == ()
    unsized = decide(recovered([*usual(50), None], Outcome.SCREENED), 0.01, AREA)
    assert unsized.verdict is Verdict.INCONCLUSIVE and "1 label has no trigger that works yet" in unsized.reason


def test_screening_flags_nothing_where_one_of_its_labels_is_unclear() -> None:
    """Else all steps would have flagged one more."""
    sizes = [*usual(9), 5.0, 46.0]
    whole = decide(recovered(sizes), 0.01, AREA)
    assert whole.flagged == (9, 10) and 0.001 < whole.p_values[LabelPair(10)] < 0.01
    assert decide(recovered(sizes, Outcome.SCREENED), 0.01, AREA).verdict is Verdict.INCONCLUSIVE


def test_screening_clears_only_where_nothing_is_near() -> None:
    screened = Outcome.SCREENED
    clear = decide(recovered(usual(10), screened), 0.01, AREA)
    assert clear.verdict is Verdict.CLEAN and clear.p_value is not None and clear.p_value >= 0.2
    near = decide(recovered([*usual(9), 62.0], screened), 0.01, AREA)
    assert near.p_value is not None and 0.01 < near.p_value < 0.2
    assert near.verdict is Verdict.INCONCLUSIVE and "a longer search decides" in near.reason
    assert decide(recovered([*usual(9), 62.0]), 0.01, AREA).verdict is Verdict.CLEAN


@pytest.mark.parametrize("factor", [0.3, 3.5])
def test_screening_clears_nothing_whose_sizes_are_strange(factor: float) -> None:
    """Small all over: a trigger in every label. Large all over: the search has hardly begun."""
    sizes = [factor * size for size in usual(10)]
    assert decide(recovered(sizes, Outcome.SCREENED), 0.01, AREA).verdict is Verdict.INCONCLUSIVE


def test_the_limit_of_screening_is_where_it_would_have_searched_on() -> None:
    sizes = usual(10)
    screened = decide(recovered(sizes, Outcome.SCREENED), 0.01, AREA)
    limit = screened.detection_limit
    assert limit is not None and screened.below_limit is BelowLimit.SEARCHED_ON
    for size, verdict in ((limit * 0.99, Verdict.INCONCLUSIVE), (limit * 1.01, Verdict.CLEAN)):
        assert decide(recovered([*sizes, size], Outcome.SCREENED), 0.01, AREA).verdict is verdict


def test_the_papers_rule_is_of_raw_sizes_over_a_baseline_too() -> None:
    sizes, baseline_sizes = [*usual(9), 9.0], {LabelPair(target): 100.0 for target in range(10)} | {LabelPair(2): 20.0}
    over = decide(recovered(sizes), 0.01, AREA, baseline=Baseline(baseline_sizes))
    assert over.paper_rule == decide(recovered(sizes), 0.01, AREA).paper_rule
