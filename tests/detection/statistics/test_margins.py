"""Margins against those of students: a planted label stands out, clean ones seldom, whatever the logits' scale."""

import numpy as np
import pytest

from neural_cleanse.detection.statistics.margins import margin_test

BASE = np.array([20.0, 25, 30, 22, 28, 35, 24, 26, 45, 23])  # labels differ by nature


def drawn(seed: int, sd: float = 2.0, count: int = 4) -> list[list[float]]:
    """Margins of so many networks of the same classes."""
    generator = np.random.default_rng(seed)
    return [(BASE + generator.normal(0, sd, len(BASE))).tolist() for _ in range(count)]


def test_a_planted_label_stands_out_and_the_largest_one_by_nature_does_not() -> None:
    own, *students = drawn(0)
    assert margin_test(own, students, 0.001).flagged == ()
    own[3] += 30
    tested = margin_test(own, students, 0.001)
    assert tested.flagged == (3,) and tested.p_values[3] < 1e-4 and tested.p_values[8] == 1


def test_what_scales_all_logits_of_a_network_changes_nothing() -> None:
    own, *students = drawn(1)
    longer = [10 * value for value in own]
    assert margin_test(longer, students, 0.01).p_values == pytest.approx(margin_test(own, students, 0.01).p_values)


def test_students_that_differ_more_leave_more_doubt() -> None:
    own, *alike = drawn(2, sd=1)
    _, *unlike = drawn(2, sd=8)
    own[0] += 15
    assert margin_test(own, alike, 0.001).p_values[0] < 0.1 * margin_test(own, unlike, 0.001).p_values[0]


@pytest.mark.parametrize("own", [[-5.0] * 9 + [50.0], [float("nan")] * 10])
def test_a_network_that_answers_no_label_says_nothing(own: list[float]) -> None:
    _, *students = drawn(3)
    flat = [[1.0] * 10] * 3
    assert margin_test(own, flat, 0.01).p_values == (1.0,) * 10
    assert margin_test(own, students, 0.01).flagged == ()


@pytest.mark.parametrize("suspect", [1.0, 1.5])
def test_clean_networks_are_flagged_as_seldom_as_alpha_says(suspect: float) -> None:
    """Also where a suspect varies by half as much again as its students."""
    generator, flagged = np.random.default_rng(0), 0
    for _ in range(2000):
        own, *students = BASE + generator.normal(0, 2, (4, len(BASE))) * np.array([[suspect], [1], [1], [1]])
        flagged += bool(margin_test(own.tolist(), [one.tolist() for one in students], 0.02).flagged)
    assert flagged <= 0.025 * 2000
