"""Base rates follow Bayes' rule, and the worse the rates the worse what they say."""

import pytest

from neural_cleanse.evaluation.base_rates import PREVALENCES, Expected, expected, table
from neural_cleanse.evaluation.rates import Rate, Rates


def made(found: tuple[int, int], alarms: tuple[int, int]) -> Rates:
    detected, clean = Rate((found,)), Rate((alarms,))
    return Rates(clean, clean, detected, detected, detected, detected, None, 0)


def test_numbers_are_those_of_bayes_rule() -> None:
    one = Expected(prevalence=0.01, detected=0.9, false_alarms=0.02)
    assert (one.infected, one.found) == (10, 9)
    assert one.flagged_clean == pytest.approx(990 * 0.02)
    assert one.precision == pytest.approx(9 / (9 + 19.8))
    assert one.missed == pytest.approx(1 / (1000 - 28.8))


def test_a_test_that_flags_nothing_has_no_precision() -> None:
    assert Expected(0.1, 0.0, 0.0).precision is None
    assert Expected(0.1, 0.0, 0.0).missed == pytest.approx(0.1)


def test_no_false_alarm_seen_is_not_taken_for_none() -> None:
    """Of 31 models none was flagged: alpha is assumed, and at worst the end of the interval."""
    rows = expected(made((41, 47), (0, 31)), 0.01)
    assert [one.prevalence for _, one in rows] == [share for share in PREVALENCES for _ in range(2)]
    likely, worst = rows[0][1], rows[1][1]
    assert likely.false_alarms == 0.01 and worst.false_alarms == pytest.approx(0.112, abs=0.001)
    assert worst.detected < likely.detected
    assert worst.precision is not None and likely.precision is not None and worst.precision < likely.precision


def test_more_false_alarms_than_alpha_count_as_they_are() -> None:
    assert expected(made((9, 10), (5, 100)), 0.01)[0][1].false_alarms == 0.05


def test_the_table_has_a_row_for_each() -> None:
    text = table(made((41, 47), (0, 31)), 0.01).markdown()
    assert "| 10 of 1,000 | measured | 9 | 1 | 10 | 47% | 0.1% |" in text
    assert text.count("\n") == 2 + 4
