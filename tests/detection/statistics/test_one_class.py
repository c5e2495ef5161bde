"""The p-value of a pair that stands out among the pairs and over the students."""

import math

import numpy as np
import pytest

from neural_cleanse.detection.statistics.one_class import PLANTED, RATIO_DOF, RATIO_SD, pair_p
from neural_cleanse.distributions import student_t_sf


def test_it_is_fishers_combination() -> None:
    ratio = math.exp(-7 * RATIO_SD)
    product = 0.1 * student_t_sf(7, RATIO_DOF)
    assert pair_p(0.1, ratio) == pytest.approx(product - product * math.log(product))


def test_a_smaller_ratio_and_a_smaller_p_value_count_more() -> None:
    assert pair_p(0.1, 0.2) < pair_p(0.1, PLANTED) < pair_p(0.1, 0.5) < pair_p(0.1, 1.0)
    assert pair_p(0.01, PLANTED) < pair_p(0.1, PLANTED)
    assert pair_p(1e-9, 1.0) == pytest.approx(0.5), "the classes have it: how small it is among the pairs says nothing"
    assert 0 < pair_p(1e-5, 0.0) < 1e-6 and pair_p(1.0, 3.0) <= 1


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_of_clean_networks_it_flags_alpha_at_most(alpha: float) -> None:
    """Both parts drawn as in clean networks: p-values uniform, log ratios with the spread that was measured."""
    draws = np.random.default_rng(0)
    count = 40_000
    p_values = draws.uniform(size=count)
    ratios = np.exp(draws.normal(0, RATIO_SD, count))
    flagged = sum(pair_p(p, ratio) <= alpha for p, ratio in zip(p_values.tolist(), ratios.tolist(), strict=True))
    assert flagged / count <= alpha * 1.1
