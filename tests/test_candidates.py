"""The benchmarks' own copies of the scan's test agree with it, so that a candidate is held against the real thing."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neural_cleanse.detection.statistics.outlier import LABELS, outlier_test


@pytest.fixture(autouse=True)
def _benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    for name in ("candidates", "statistics_compared", "tails_compared"):
        sys.modules.pop(name, None)


def sizes(seed: int, small: int) -> list[float]:
    """Ten log-normal sizes, the first few an eighth as large."""
    drawn = np.exp(np.random.default_rng(seed).normal(math.log(90), 0.2, 10))
    drawn[:small] /= 8
    return [float(size) for size in drawn]


@pytest.mark.parametrize("small", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_p_values_and_flags_are_those_of_the_outlier_test(seed: int, small: int) -> None:
    from candidates import test

    values = sizes(seed, small)
    ours = test({label: math.log(size) for label, size in enumerate(values)}, LABELS.sd, LABELS.dof)
    theirs = outlier_test(values, 0.01)
    assert ours.p_value == pytest.approx(theirs.p_value, rel=1e-9)
    assert ours.flagged(math.log(0.01)) == theirs.flagged


def test_simulated_false_alarms_count_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    import tails_compared

    monkeypatch.setattr(tails_compared, "SIMULATED", 2000)
    drawn = np.random.default_rng(tails_compared.SEED).normal(0, 0.4, (2000, 10))
    alarms = sum(bool(outlier_test(np.exp(row), 0.01).flagged) for row in drawn)
    assert tails_compared.false_alarms(LABELS.sd, LABELS.dof, 0.4) == alarms / 2000


def test_a_label_has_the_median_of_its_restarts_if_most_have_one() -> None:
    from statistics_compared import by_label

    assert by_label([[1.0, 3.0, 2.0], [None, 5.0, None], [None, 1.0, 2.0]]) == {0: 2.0, 2: 1.5}


def test_steps_to_a_size_are_read_between_looks() -> None:
    """Halved at every look of 25 steps from 392 px: an eighth after 75 steps; never, twice the run."""
    from statistics_compared import time_to

    runs: dict[str, dict[str, Any]] = {
        "trajectory": {"every": 25, "sizes": [[[392 * 0.5**look], [392.0]] for look in (1, 2, 3, 4)]}
    }
    assert time_to(1 / 8)(runs) == pytest.approx({0: math.log(75), 1: math.log(200)})
    assert time_to(0.6)(runs)[0] == pytest.approx(math.log(25 * math.log(0.6) / math.log(0.5)))


def test_what_is_found_without_accusing_is_under_every_clean_p() -> None:
    from candidates import answer_of, compared, test

    truths = {name: {"infected": name in "xyz", "targets": [0], "dataset": "d"} for name in "abxyz"}
    values = dict(zip("abxyz", (sizes(1, 0), sizes(2, 0), sizes(3, 1), sizes(4, 1), sizes(5, 0)), strict=True))
    answers = {
        name: answer_of(test({label: math.log(size) for label, size in enumerate(one)}, 0.22, 4))
        for name, one in values.items()
    }
    said = compared(truths, answers, answers)
    assert (said["clean"], said["infected"], said["accused_at_alpha"]) == (2, 3, 0)
    assert said["found_at_alpha"] == said["right_at_alpha"] == 2
    assert said["over"] == said["under"] == [] and said["auc_difference"] == [0.0, 0.0]
