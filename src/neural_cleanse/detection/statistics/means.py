"""Means of what differs by factors, and how far one more network may lie from the mean of several."""

import math
import statistics
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def geometric_mean(values: Iterable[float], least: float) -> float:
    """Of values that are 0 or more; what is under `least` counts as that much, for 0 has no logarithm."""
    return math.exp(statistics.fmean(math.log(max(value, least)) for value in values))


def variance_of_another(rows: npt.NDArray[np.float64]) -> float:
    """Of one more row about the mean of these, made as they were: a row a network, a column a label, two at least.

    Where rows vary by s about their mean it varies by s sqrt(1 + 1/k).
    """
    count, labels = rows.shape
    variance = float(((rows - rows.mean(axis=0)) ** 2).sum()) / ((count - 1) * (labels - 1))
    return float(variance * (1 + 1 / count))
