"""Does one trigger send every class to a target of its own, far better than triggers of random maps of classes do?

An all-to-all backdoor sends label i to m(i), i + 1 as a rule (Gu et al. 2017). Its trigger is found together with the
map (inversion/class_maps.py) and compared with the triggers of random maps of the same network:

    strength = log odds of success - log size        gain = strength of the map found - mean over random maps
    t = gain / (sd sqrt(1 + 1/n))                    sd of the random maps' strengths, moderated by a prior

A map that was looked for is a little stronger than random ones in clean networks too: the gain must also be LEAST_GAIN.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neural_cleanse.detection.statistics.outlier import Prior
from neural_cleanse.distributions import student_t_sf
from neural_cleanse.triggers.base import SMALLEST_SIZE

STRENGTHS = Prior(0.3, 4, 2)  # over random maps: .07 to .5 in clean networks
# 54 clean networks gain up to .9 where they reach LEAST_ASR; planted maps 3.4 to 8.6, searched for in the right space.
LEAST_GAIN = 2.5
LEAST_ASR = 0.5  # of the map found: a trigger that seldom works is none


@dataclass(frozen=True)
class MapTest:
    """How much stronger than random maps the one found is (log units), and the p-value."""

    gain: float
    p_value: float


def strength(hits: int, trials: int, size: float) -> float:
    """Log odds of success (half an image added on both sides) less the log of the size."""
    return math.log((hits + 0.5) / (trials - hits + 0.5)) - math.log(max(size, SMALLEST_SIZE))


def map_test(found: Sequence[float], random: Sequence[float]) -> MapTest:
    """The strongest of the maps found against two random maps and more: Bonferroni over those found."""
    others = np.asarray(random, dtype=np.float64)
    gain = max(found) - float(others.mean())
    dof = len(others) - 1
    sd = STRENGTHS.moderated(float(others.var(ddof=1)), dof, STRENGTHS.dof)
    t = gain / (sd * math.sqrt(1 + 1 / len(others)))
    return MapTest(gain, min(1.0, len(found) * student_t_sf(t, dof + STRENGTHS.dof)))
