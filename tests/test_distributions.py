"""The distributions agree with closed forms and with scipy.stats, in the tails too."""

import math

import pytest
from scipy import stats

from neural_cleanse.distributions import (
    binomial_sf,
    clopper_pearson,
    student_t_isf,
    student_t_sf,
)


@pytest.mark.parametrize("df", [1, 2, 3, 8, 41, 98, 421, 1281, 5000])
@pytest.mark.parametrize("t", [0.0, 1e-4, 0.01, 0.5, 1.0, 2.5, 4.5, 8.0, 20.0, 37.0])
def test_student_t_tail(df: int, t: float) -> None:
    expected = float(stats.t.sf(t, df))
    assert student_t_sf(t, df) == pytest.approx(expected, rel=1e-10)
    assert student_t_sf(-t, df) == pytest.approx(1 - expected, rel=1e-10)


@pytest.mark.parametrize("t", [1e-8, 1e-3, 1.0, 1e3, 1e6, 1e9])
def test_student_t_closed_forms(t: float) -> None:
    assert student_t_sf(t, 1) == pytest.approx(math.atan(1 / t) / math.pi, rel=1e-8)
    root = math.sqrt(2 + t * t)
    assert student_t_sf(t, 2) == pytest.approx(1 / (root * (root + t)), rel=1e-8)


def test_student_t_ends() -> None:
    assert student_t_sf(0.0, 7) == 0.5
    assert student_t_sf(math.inf, 7) == 0.0
    assert student_t_sf(-math.inf, 7) == 1.0


@pytest.mark.parametrize("df", [1, 2, 8, 41, 1281])
@pytest.mark.parametrize("p", [1e-30, 1e-12, 1e-5, 0.01, 0.3, 0.5, 0.8])
def test_student_t_isf_inverts(p: float, df: int) -> None:
    t = student_t_isf(p, df)
    assert student_t_sf(t, df) == pytest.approx(p, rel=1e-9)
    if p > 1e-12:
        assert t == pytest.approx(float(stats.t.isf(p, df)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("n", [1, 10, 500])
@pytest.mark.parametrize("p", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_binomial_tail(n: int, p: float) -> None:
    for k in {0, 1, n // 2, n - 1, n, n + 1}:
        expected = float(stats.binom.sf(k - 1, n, p))
        assert binomial_sf(k, n, p) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (0, 50), (1, 50), (25, 50), (50, 50), (948, 1000), (3, 3)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_clopper_pearson(hits: int, trials: int, level: float) -> None:
    expected = stats.binomtest(hits, trials).proportion_ci(level, method="exact")
    low, high = clopper_pearson(hits, trials, level)
    assert low == pytest.approx(expected.low, rel=1e-9, abs=1e-12)
    assert high == pytest.approx(expected.high, rel=1e-9, abs=1e-12)


def test_error_rates_of_the_design() -> None:
    """0 flagged of 50 clean models bounds the rate at 7.1 %, of 190 at 1.9 % (docs: resolution of error rates)."""
    assert clopper_pearson(0, 50)[1] == pytest.approx(0.0711, abs=5e-5)
    assert clopper_pearson(0, 190)[1] == pytest.approx(0.0192, abs=5e-5)
    assert clopper_pearson(0, 0) == (0.0, 1.0)
