"""The p-value of a pair that stands out among the pairs and over the students."""

import math

import numpy as np
import pytest

from neural_cleanse.detection.statistics.one_class import RATIO_DOF, RATIO_SD, combined_p
from neural_cleanse.distributions import student_t_sf


def test_it_is_fishers_combination() -> None:
    ratio = math.exp(-3 * RATIO_SD)
    product = 0.1 * student_t_sf(3, RATIO_DOF)
    assert combined_p(0.1, ratio) == pytest.approx(product - product * math.log(product))


def test_a_smaller_ratio_and_a_smaller_p_value_count_more() -> None:
    assert combined_p(0.1, 0.2) < combined_p(0.1, 0.4) < combined_p(0.1, 1.0)
    assert combined_p(0.01, 0.4) < combined_p(0.1, 0.4)
    assert 0 < combined_p(1e-5, 0.0) < 1e-6 and combined_p(1.0, 3.0) <= 1


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_of_clean_networks_it_flags_alpha_at_most(alpha: float) -> None:
    """Both parts drawn as in clean networks: p-values uniform, log ratios with the spread that was measured."""
    draws = np.random.default_rng(0)
    count = 40_000
    p_values = draws.uniform(size=count)
    ratios = np.exp(draws.normal(0, RATIO_SD, count))
    flagged = sum(combined_p(p, ratio) <= alpha for p, ratio in zip(p_values.tolist(), ratios.tolist(), strict=True))
    assert flagged / count <= alpha * 1.1
