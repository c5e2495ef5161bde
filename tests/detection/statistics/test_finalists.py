"""The test against labels drawn beforehand: its error rate, its power, and that infected labels do not hide it."""

import numpy as np
import pytest

from neural_cleanse.detection.statistics.finalists import reference_test
from neural_cleanse.detection.statistics.outlier import Floats

N, FINALISTS, REFERENCE = 1283, 64, 128


def adaptive(logs: Floats, early: Floats, generator: np.random.Generator) -> tuple[Floats, list[bool]]:
    """Sizes that an adaptive search finishes when `early` ranks the labels, and which of them are the reference."""
    reference = set(generator.permutation(len(logs))[:REFERENCE].tolist())
    finalists = np.argsort(early)[:FINALISTS].tolist()
    finished = sorted(reference | set(finalists))
    return np.exp(logs[finished]), [label in reference for label in finished]


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_rate_of_flagged_clean_models_is_alpha(noise: float) -> None:
    """1,000 clean models of 1,283 labels, normal log sizes, early sizes that agree with late ones or only roughly."""
    generator, alpha, flagged = np.random.default_rng(0), 0.05, 0
    for _ in range(1000):
        logs = generator.normal(5, 0.25, N)
        sizes, held = adaptive(logs, logs + generator.normal(0, noise, N) if noise else logs, generator)
        flagged += bool(reference_test(sizes, held, N, alpha).flagged)
    assert 0.01 < flagged / 1000 < 0.065


def test_a_heavy_tail_flags_less_than_without_a_tail_check() -> None:
    """Log sizes with Student's t of 5 degrees of freedom, heavier than any that were measured: 23 %, 73 % unchecked."""
    generator, flagged, unchecked = np.random.default_rng(1), 0, 0
    for _ in range(500):
        logs = 5 + 0.25 * generator.standard_t(5, N)
        sizes, held = adaptive(logs, logs, generator)
        result = reference_test(sizes, held, N, 0.01)
        flagged += bool(result.flagged) and result.tail_holds is not False
        unchecked += result.p_value <= 0.01
    assert flagged / 500 < 0.3 < unchecked / 500


def test_one_small_label_of_many_is_found() -> None:
    generator = np.random.default_rng(2)
    logs = generator.normal(6.6, 0.15, N)
    logs[77] -= 1.2
    sizes, held = adaptive(logs, logs, generator)
    result = reference_test(sizes, held, N, 0.01)
    assert [float(np.log(sizes[position])) for position in result.flagged] == pytest.approx([logs[77]])
    assert result.p_value < 1e-4 and result.detection_limit is not None
    assert np.exp(logs[77]) < result.detection_limit < np.exp(6.6)


def test_infected_labels_in_the_reference_leave_it() -> None:
    generator = np.random.default_rng(3)
    logs = generator.normal(5, 0.2, N)
    infected = generator.permutation(N)[:130]  # a tenth: some are in the reference
    logs[infected] -= 2
    sizes, held = adaptive(logs, logs, generator)
    result = reference_test(sizes, held, N, 0.01)
    small = {position for position, size in enumerate(sizes) if np.log(size) < 4}
    assert set(result.flagged) == small and sum(held[position] for position in small) >= 2


def test_the_detection_limit_is_where_a_label_would_be_flagged() -> None:
    generator = np.random.default_rng(4)
    sizes, held = np.exp(generator.normal(5, 0.2, 80)), [True] * 64 + [False] * 16
    limit = reference_test(sizes, held, N, 0.01).detection_limit
    assert limit is not None
    for factor, flagged in ((0.999, True), (1.001, False)):
        sizes[70] = factor * limit
        assert (reference_test(sizes, held, N, 0.01).p_values[70] <= 0.01) is flagged


def test_the_order_of_the_sizes_does_not_matter() -> None:
    generator = np.random.default_rng(5)
    sizes, held = np.exp(generator.normal(5, 0.3, 90)), np.arange(90) < 64
    order = generator.permutation(90)
    one, other = (
        reference_test(sizes, held.tolist(), 500, 0.01),
        reference_test(sizes[order], held[order].tolist(), 500, 0.01),
    )
    assert np.array(one.p_values)[order] == pytest.approx(other.p_values)


@pytest.mark.parametrize("sizes", [[], [5.0], [5.0, 6.0], [5.0] * 10])
def test_too_little_to_tell_flags_nothing(sizes: list[float]) -> None:
    result = reference_test(sizes, [True] * len(sizes), 300, 0.01)
    assert result.flagged == () and result.p_value == 1.0
