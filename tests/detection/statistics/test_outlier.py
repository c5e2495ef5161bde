"""Laws of the outlier test: what it ignores, what it finds, and how often it flags a clean model."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from neural_cleanse.detection.statistics import outlier
from neural_cleanse.detection.statistics.outlier import (
    INDEX_THRESHOLD,
    MAD_TO_SIGMA,
    OVER_BASELINE,
    Floats,
    anomaly_index,
    detection_limit,
    over_several,
)
from neural_cleanse.distributions import binomial_sf

LOG_SD = 0.22  # of planted examples
SIZES = npst.arrays(np.float64, st.integers(3, 60), elements=st.floats(1.0, 1000.0), unique=True)


def planted(n: int, k: int, shift: float, seed: int) -> Floats:
    """n normal log sizes around log 50, the first k of them lower by `shift`."""
    logs = np.random.default_rng(seed).normal(np.log(50), LOG_SD, size=n)
    logs[:k] -= shift
    return np.exp(logs)


def test_readme_reference_numbers() -> None:
    """The authors' README: median 64.466667, MAD (times 1.4826) 13.238736, size 16.117647 -> anomaly index 3.652087."""
    mad = 13.238736 / MAD_TO_SIGMA
    sizes = [16.117647, 64.466667 - mad, 64.466667, 64.466667 + mad / 2, 64.466667 + mad]
    index = anomaly_index(sizes)
    assert index[0] == pytest.approx(3.652087, abs=1e-6)
    assert index[1] == pytest.approx(1 / MAD_TO_SIGMA, abs=1e-6)
    assert list(index > INDEX_THRESHOLD) == [True, False, False, False, False]


def test_index_without_spread() -> None:
    assert anomaly_index([5.0, 1.0, 5.0, 5.0, 9.0]).tolist() == [0.0, math.inf, 0.0, 0.0, -math.inf]
    assert len(anomaly_index([])) == 0


@settings(max_examples=40, deadline=None)
@given(SIZES, st.floats(0.1, 10.0), st.randoms(use_true_random=False))
def test_scale_and_order_do_not_matter(sizes: Floats, scale: float, random: object) -> None:
    order = np.array(random.sample(range(len(sizes)), len(sizes)))  # type: ignore[attr-defined]
    before, after = outlier.outlier_test(sizes, 0.05), outlier.outlier_test(scale * sizes[order], 0.05)
    np.testing.assert_allclose(after.p_values, np.array(before.p_values)[order], rtol=1e-4, atol=1e-12)
    finite = np.isfinite(before.anomaly_index)
    if finite.all():
        np.testing.assert_allclose(after.anomaly_index, np.array(before.anomaly_index)[order], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("n", "penalty"), [(3, 1.0), (5, 1.5), (10, 1.5), (40, 1.125)])
def test_one_suspect_is_grubbs_but_for_the_penalty(n: int, penalty: float) -> None:
    """With one low label, the model's p is n times the tail of the moderated leave-one-out t, times the penalty."""
    logs = np.log(planted(n, 1, 2.0, seed=n))
    others = logs[1:]
    prior = 4 if n >= 6 else 0
    sd = math.sqrt(((n - 2) * others.var(ddof=1) + prior * 0.22**2) / (n - 2 + prior))
    t = (others.mean() - logs[0]) / (sd * math.sqrt(1 + 1 / (n - 1)))
    expected = penalty * n * float(stats.t.sf(t, n - 2 + prior))
    assert outlier.outlier_test(np.exp(logs), 0.01).p_value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "k", "alpha", "share"), [(10, 1, 0.01, 0.95), (10, 3, 0.01, 0.75), (43, 8, 0.01, 0.95)])
def test_planted_labels_are_found_exactly(n: int, k: int, alpha: float, share: float) -> None:
    """e^-2 of the usual size; several labels do not hide each other."""
    tests = [outlier.outlier_test(planted(n, k, 2.0, seed), alpha) for seed in range(60)]
    exact = [set(test.flagged) == set(range(k)) and test.tail_holds is not False for test in tests]
    assert sum(exact) >= share * len(exact)


def test_flagged_are_those_with_a_small_p_value() -> None:
    sizes = planted(10, 2, 2.5, seed=3)
    test = outlier.outlier_test(sizes, 0.05)
    assert set(test.flagged) == {0, 1} == {i for i, p in enumerate(test.p_values) if p <= 0.05}
    assert list(test.flagged) == sorted(test.flagged, key=lambda position: sizes[position])
    assert test.p_value == min(test.p_values)
    assert test.tail_holds is None


@pytest.mark.parametrize("n", [4, 10, 43])
def test_clean_models_are_flagged_at_the_nominal_rate(n: int) -> None:
    """1,000 clean models with normal log sizes, sd .25: no more flagged than 1.15 alpha explains, and not far fewer.

    At 10 labels fewer: the prior counts, and the spread is not above what it was chosen for.
    """
    generator = np.random.default_rng([7, n])
    draws = 1000
    p_values = [outlier.outlier_test(np.exp(0.25 * generator.normal(size=n)), 0.05).p_value for _ in range(draws)]
    for alpha in (0.01, 0.05):
        flagged_pairs = sum(p <= alpha for p in p_values)
        assert binomial_sf(flagged_pairs, draws, 1.15 * alpha) > 1e-3
        assert n == 10 or binomial_sf(draws - flagged_pairs, draws, 1 - alpha) > 1e-3


def test_the_prior_holds_for_spreads_up_to_what_it_was_chosen_for_and_is_left_behind_by_wide_ones() -> None:
    """10 labels: at most alpha for the spread of real data sets, at most three times alpha at twice the prior's."""
    generator = np.random.default_rng(11)
    rate = {}
    for sd in (0.15, 0.25, 0.44):
        p_values = [outlier.outlier_test(np.exp(sd * generator.normal(size=10)), 0.05).p_value for _ in range(1000)]
        rate[sd] = sum(p <= 0.05 for p in p_values) / 1000
    assert rate[0.15] <= rate[0.25] <= 0.06
    assert rate[0.44] <= 0.15


@pytest.mark.parametrize("sizes", [[], [5.0], [1.0, 50.0], [50.0, 50.0, 50.0], [1.0, 50.0, 50.0], [0.0, 0.0, 50.0]])
def test_too_little_to_judge_by(sizes: list[float]) -> None:
    test = outlier.outlier_test(sizes, 0.05)
    assert test.flagged == () and test.p_value == 1.0


def test_three_labels_need_an_absurd_ratio() -> None:
    """At 3 labels the 5 % point asks for a size far under a tenth of the others, as documented."""
    assert outlier.outlier_test([5.0, 45.0, 55.0], 0.05).flagged == ()
    limit = outlier.outlier_test([40.0, 45.0, 55.0], 0.05).detection_limit
    assert limit is not None and limit < 40 / 2


def test_left_skewed_sizes_do_not_pass_for_a_backdoor() -> None:
    """-Gumbel log sizes of 100 labels: the ESD alone flags most, the tail check lets few of those pass."""
    generator = np.random.default_rng(11)
    tests = [outlier.outlier_test(50 * np.exp(-0.2 * generator.gumbel(size=100)), 0.05) for _ in range(200)]
    flagged_pairs = [test for test in tests if test.flagged]
    passed = [test for test in flagged_pairs if test.tail_holds]
    assert len(flagged_pairs) > 100
    assert len(passed) < 30
    failed = [test for test in flagged_pairs if test not in passed]
    assert all(test.tail_holds is False and (test.tail_p_value or 0) > 0.05 >= test.p_value for test in failed)


def test_many_labels_with_a_clear_gap_pass_the_tail_check() -> None:
    test = outlier.outlier_test(planted(1283, 1, 2.0, seed=5), 0.01)
    assert test.flagged == (0,) and test.tail_holds
    assert test.p_value < 1e-6 and test.tail_p_value is not None and test.tail_p_value <= 0.05


@pytest.mark.parametrize(("n", "k"), [(5, 0), (10, 0), (10, 1), (43, 0), (43, 2), (423, 0)])
def test_detection_limit_is_where_one_more_label_is_flagged(n: int, k: int) -> None:
    sizes = planted(n, k, 4.0, seed=n + k)
    sizes = np.sort(sizes)
    limit = detection_limit(sizes, range(k), 0.01)
    assert limit is not None
    if k:
        sizes[:k] = np.minimum(sizes[:k], limit / np.arange(3, 3 + k))  # the flagged stay the smallest
    below, above = (outlier.outlier_test(np.append(sizes, limit * factor), 0.01) for factor in (0.999, 1.001))
    assert set(below.flagged) == {*range(k), n} and below.tail_holds is not False
    assert n not in above.flagged or above.tail_holds is False


def test_no_detection_limit_without_a_reference() -> None:
    assert detection_limit([1.0, 50.0], [0], 0.05) is None
    assert detection_limit([1.0, 50.0, 50.0], [0], 0.05) is None


def ratios_and_prior(
    generator: np.random.Generator, noise: float, *, factor: float = 1.0, shift: float = 0.0, count: int = 3
) -> tuple[Floats, outlier.Prior]:
    """Sizes of a suspect over the mean of students of the same classes, label 0 smaller by `shift` in the suspect."""
    classes = generator.normal(4, 0.4, size=10)
    students = classes + noise * generator.normal(size=(count, 10)) + generator.normal(size=(count, 1))
    suspect = classes + factor * noise * generator.normal(size=10) - shift * (np.arange(10) == 0)
    return np.exp(suspect - students.mean(axis=0)), over_several(np.exp(students).tolist())


def flagged_share(noise: float, *, factor: float = 1.0, shift: float = 0.0, own: bool = True) -> float:
    """How often label 0 or another is flagged at 5 %; `own` False: without what the students tell of the spread."""
    generator, hits = np.random.default_rng(7), 0
    for _ in range(600):
        ratios, prior = ratios_and_prior(generator, noise, factor=factor, shift=shift)
        hits += bool(outlier.outlier_test(ratios, 0.05, prior if own else OVER_BASELINE).flagged)
    return hits / 600


@pytest.mark.parametrize("noise", [0.03, 0.1, 0.25])
def test_several_students_tell_how_far_a_clean_model_may_lie_from_them(noise: float) -> None:
    """At most alpha for a suspect that varies as they do, under four times alpha for one that varies by half more."""
    assert flagged_share(noise) <= 0.065
    assert flagged_share(noise, factor=1.5) <= 0.2


def test_what_students_tell_of_the_spread_finds_more() -> None:
    assert flagged_share(0.05, shift=0.45) > flagged_share(0.05, shift=0.45, own=False)
    assert flagged_share(0.25) < flagged_share(0.25, own=False), "and it flags less where networks differ much"


def test_the_scale_of_each_baseline_does_not_matter_and_one_alone_tells_nothing() -> None:
    sizes = np.random.default_rng(1).uniform(10, 90, size=(3, 10))
    assert over_several((sizes * [[1.0], [7.0], [0.2]]).tolist()).sd == pytest.approx(over_several(sizes.tolist()).sd)
    assert over_several(sizes[:1].tolist()) == OVER_BASELINE == over_several([[3.0], [4.0]])


def test_a_label_that_hardly_any_trigger_reaches_hides_no_other() -> None:
    """A stranger's clean network has one label of 448 px; planted 8 px were under no limit."""
    sizes = [41.1, 37.2, 56.5, 54.4, 448.3, 60.4, 38.2, 84.6, 28.3, 44.8]
    limits = [detection_limit([*sizes[:4], large, *sizes[5:]], (), 0.005) for large in (448.3, 1e5, 90.0)]
    assert limits[0] == limits[1] and limits[0] is not None and limits[2] is not None
    assert 7.5 < limits[0] < limits[2] < 12
    assert outlier.outlier_test(sizes, 0.01).flagged == ()
    assert outlier.outlier_test([*sizes[:8], 5.0, sizes[9]], 0.01).flagged == (8,)


@pytest.mark.parametrize("n", [3, 5, 50])
def test_few_and_many_labels_count_as_large_as_they_are(n: int) -> None:
    logs = np.random.default_rng(n).normal(size=n)
    logs[0] = 50
    assert outlier._capped(logs, outlier.LABELS)[0] == 50
