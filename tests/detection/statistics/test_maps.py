"""The map of an all-to-all trigger: found together where its pairs are small, at no more than the level by chance."""

import itertools

import numpy as np
import pytest

from neural_cleanse.detection.shares import SHARES, over_share
from neural_cleanse.detection.statistics.maps import map_test
from neural_cleanse.distributions import clopper_pearson

PAIRS = [(source, target) for source, target in itertools.permutations(range(8), 2)]
SOURCES, TARGETS = [source for source, _ in PAIRS], [target for _, target in PAIRS]


def sizes(generator: np.random.Generator, planted: float = 0.0) -> list[float]:
    """Log-normal sizes with effects of source and target; those of i to i + 1 are smaller by `planted` log units."""
    effects = generator.normal(0, 0.5, (2, 8))
    logs = [
        3 + effects[0, s] + effects[1, t] + generator.normal(0, 0.3) - planted * (t == (s + 1) % 8) for s, t in PAIRS
    ]
    return np.exp(logs).tolist()


def test_a_planted_map_is_found_and_named() -> None:
    test = map_test(SOURCES, TARGETS, sizes(np.random.default_rng(0), planted=1.2), 0, 0.01)
    assert test.pairs == tuple((label, (label + 1) % 8) for label in range(8))
    assert test.p_value <= 0.01 and test.mean < -0.7


def test_the_same_seed_gives_the_same_p_value() -> None:
    some = sizes(np.random.default_rng(1))
    assert map_test(SOURCES, TARGETS, some, 5, 0.05) == map_test(SOURCES, TARGETS, some, 5, 0.05)


def test_sizes_without_a_map_are_flagged_at_the_level() -> None:
    generator, level, models = np.random.default_rng(2), 0.1, 150
    hits = sum(map_test(SOURCES, TARGETS, sizes(generator), seed, level).p_value <= level for seed in range(models))
    assert clopper_pearson(hits, models)[0] <= level


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
