"""Laws of the test on label pairs: what it ignores, what it finds, and how often it flags a clean model."""

import itertools

import numpy as np
import pytest
from scipy import stats

from neural_cleanse.detection.statistics.outlier import Floats
from neural_cleanse.detection.statistics.pairs import PairTest, pair_outlier_test, two_way_residuals
from neural_cleanse.distributions import binomial_sf

LOG_SD, EFFECT_SD = 0.25, 0.5  # of residuals and of effects, as clean networks on MNIST show them


def layout(n: int, seed: int) -> tuple[list[int], list[int], Floats]:
    """All pairs of n labels, and log sizes of a clean model."""
    pairs = list(itertools.permutations(range(n), 2))
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    random = np.random.default_rng(seed)
    effects = random.normal(0, EFFECT_SD, (2, n))
    return sources, targets, 3.5 + effects[0][sources] + effects[1][targets] + random.normal(0, LOG_SD, len(pairs))


def judged(n: int, seed: int, alpha: float = 0.05, planted: dict[tuple[int, int], float] | None = None) -> PairTest:
    sources, targets, logs = layout(n, seed)
    for position, pair in enumerate(zip(sources, targets, strict=True)):
        logs[position] -= (planted or {}).get(pair, 0.0)
    return pair_outlier_test(sources, targets, np.exp(logs).tolist(), alpha)


@pytest.mark.parametrize(("n", "repeats"), [(4, 300), (5, 300), (6, 250), (10, 120)])
def test_a_clean_model_is_flagged_with_the_chance_that_was_asked_for(n: int, repeats: int) -> None:
    """So many false alarms or more would happen by luck once in a thousand tests if the rate were alpha."""
    alarms = sum(bool(judged(n, seed).flagged) for seed in range(repeats))
    assert binomial_sf(alarms, repeats, 0.05) > 1e-3
    assert n == 4 or alarms > 0  # the test can fire


def test_choosing_the_smallest_does_not_raise_the_rate() -> None:
    """A reference drawn beforehand; of all other pairs those that are smallest. All pairs count."""
    alarms = 0
    for seed in range(200):
        sources, targets, logs = layout(9, seed)
        order = np.random.default_rng(seed).permutation(len(logs))
        reference, others = order[:45], order[45:]
        finalists = others[np.argsort(two_way_residuals(sources, targets, logs)[others])[:9]]
        kept = [*reference, *finalists]
        test = pair_outlier_test(
            [sources[index] for index in kept],
            [targets[index] for index in kept],
            np.exp(logs[kept]).tolist(),
            0.05,
            [True] * len(reference) + [False] * len(finalists),
            len(logs),
        )
        alarms += bool(test.flagged)
    assert binomial_sf(alarms, 200, 0.05) > 1e-3


def test_the_residual_is_that_of_a_fit_without_the_pair() -> None:
    sources, targets, logs = layout(6, 3)
    position = int(np.argmin(two_way_residuals(sources, targets, logs)))
    others = np.delete(np.arange(len(logs)), position)
    columns = np.hstack([np.eye(6)[sources], np.eye(6)[targets]])
    beta, *_ = np.linalg.lstsq(columns[others], logs[others])
    dof = len(others) - 11
    sd = np.sqrt(((logs[others] - columns[others] @ beta) ** 2).sum() / dof)
    leverage = columns[position] @ np.linalg.pinv(columns[others].T @ columns[others]) @ columns[position]
    t = (columns[position] @ beta - logs[position]) / (sd * np.sqrt(1 + leverage))
    test = pair_outlier_test(sources, targets, np.exp(logs).tolist(), 1e-9)
    assert test.residuals[position] == pytest.approx(t, rel=1e-8)
    penalty = 1 + 20 / 30
    logs[position] -= 2
    deeper = pair_outlier_test(sources, targets, np.exp(logs).tolist(), 1e-9)
    expected = 30 * penalty * stats.t.sf(t + 2 / (sd * np.sqrt(1 + leverage)), dof)
    assert deeper.p_value == pytest.approx(expected, rel=1e-6)


def test_source_and_target_effects_and_scale_do_not_matter() -> None:
    sources, targets, logs = layout(7, 1)
    moved = 2.0 + logs + np.arange(7)[sources] - 0.3 * np.arange(7)[targets] ** 2
    before, after = (pair_outlier_test(sources, targets, np.exp(values).tolist(), 0.05) for values in (logs, moved))
    np.testing.assert_allclose(before.residuals, after.residuals, rtol=1e-6)  # type: ignore[arg-type]
    np.testing.assert_allclose(before.p_values, after.p_values, rtol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("planted", "shift"),
    [
        ([(3, 8)], 1.6),
        ([(1, 8), (3, 8), (5, 8)], 2.2),
        ([(0, 1), (0, 2)], 2.0),
        ([(label, (label + 1) % 10) for label in range(10)], 2.3),
    ],
    ids=["one", "three sources", "two targets", "all to all"],
)
def test_planted_pairs_are_found_exactly(planted: list[tuple[int, int]], shift: float) -> None:
    """A fifth to a tenth of the usual size: they do not hide each other, and flag no other pair."""
    pairs = list(itertools.permutations(range(10), 2))
    exact = [
        {pairs[index] for index in judged(10, seed, 0.005, dict.fromkeys(planted, shift)).flagged} == set(planted)
        for seed in range(12)
    ]
    assert sum(exact) >= 11


def test_a_pair_is_flagged_just_under_its_limit() -> None:
    sources, targets, logs = layout(8, 5)
    limits = pair_outlier_test(sources, targets, np.exp(logs).tolist(), 0.01).limits
    for position in (0, 17, 40):
        limit = limits[position]
        assert limit is not None and limit < np.exp(logs[position])
        for factor, flagged in ((0.999, (position,)), (1.001, ())):
            sizes = np.exp(logs)
            sizes[position] = limit * factor
            assert pair_outlier_test(sources, targets, sizes.tolist(), 0.01).flagged == flagged


def test_missing_cells_and_pairs_that_nothing_can_be_said_of() -> None:
    sources, targets, logs = layout(8, 2)
    kept = [index for index in range(len(logs)) if index % 5 and sources[index] != 7] + [sources.index(7)]
    test = pair_outlier_test(
        [sources[index] for index in kept], [targets[index] for index in kept], np.exp(logs[kept]).tolist(), 0.01
    )
    assert test.p_values[-1] is None and test.limits[-1] is None  # the only pair from 7: nothing to hold it against
    assert all(p is not None for p in test.p_values[:-1])


@pytest.mark.parametrize("sizes", [[], [5.0] * 30, [5.0] * 29 + [1.0]])
def test_without_spread_or_pairs_nothing_is_flagged(sizes: list[float]) -> None:
    pairs = list(itertools.permutations(range(6), 2))[: len(sizes)]
    test = pair_outlier_test([s for s, _ in pairs], [t for _, t in pairs], sizes, 0.05)
    assert test.flagged == () and test.p_value == 1.0
