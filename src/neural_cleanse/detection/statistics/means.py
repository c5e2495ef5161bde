"""Means of what differs by factors."""

import math
import statistics
from collections.abc import Iterable


def geometric_mean(values: Iterable[float], least: float) -> float:
    """Of values that are 0 or more; what is under `least` counts as that much, for 0 has no logarithm."""
    return math.exp(statistics.fmean(math.log(max(value, least)) for value in values))
