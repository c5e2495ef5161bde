"""A trigger of all classes is compared with those of random maps: found where far stronger, by chance at the level."""

import numpy as np
import pytest

from neural_cleanse.detection.shares import SHARES, over_share
from neural_cleanse.detection.statistics.maps import LEAST_GAIN, map_test, strength
from neural_cleanse.distributions import clopper_pearson


def test_strength_grows_with_success_and_falls_with_size() -> None:
    assert strength(90, 100, 10.0) > strength(80, 100, 10.0) > strength(80, 100, 20.0)
    assert strength(90, 100, 10.0) - strength(90, 100, 20.0) == pytest.approx(np.log(2))
    assert np.isfinite([strength(0, 100, 10.0), strength(100, 100, 10.0), strength(5, 10, 0.0)]).all()


def test_a_far_stronger_map_has_a_small_p_value_and_its_gain_is_over_the_mean() -> None:
    test = map_test([0.1, 4.0], [0.9, 1.1, 1.0, 1.2, 0.8])
    assert test.gain == pytest.approx(3.0) and test.gain > LEAST_GAIN
    assert test.p_value < 1e-3
    assert map_test([1.2, 1.0], [0.9, 1.1, 1.0, 1.2, 0.8]).p_value > 0.2


@pytest.mark.parametrize("spread", [0.1, 0.3, 0.5])
def test_maps_like_random_ones_are_flagged_at_most_at_the_level(spread: float) -> None:
    """Without the bound on the gain, which clean networks do not reach; spreads as over random maps of clean ones."""
    generator, level, models = np.random.default_rng(2), 0.01, 4000
    drawn = generator.normal(0, spread, (models, 7))
    hits = sum(map_test(row[:2].tolist(), row[2:].tolist()).p_value <= level for row in drawn)
    assert clopper_pearson(hits, models)[0] <= level * (2 if spread > 0.3 else 1)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_tests_that_share_alpha_keep_it_however_they_correlate(rho: float) -> None:
    from scipy.stats import norm

    generator, alpha, models = np.random.default_rng(3), 0.05, 20_000
    common = generator.normal(size=(models, 1))
    values = np.sqrt(rho) * common + np.sqrt(1 - rho) * generator.normal(size=(models, len(SHARES)))
    p_values = norm.sf(values)
    found = [
        min(over_share(p, share) for p, share in zip(row, SHARES.values(), strict=True)) <= alpha for row in p_values
    ]
    assert sum(SHARES.values()) == pytest.approx(1)
    assert clopper_pearson(int(sum(found)), models)[0] <= alpha
