"""Is there one map of labels, each source to a target of its own, whose pairs all have small triggers?

An all-to-all backdoor sends label i to m(i), i + 1 as a rule (Gu et al. 2017). The sizes of its pairs need not stand
out one by one; together they do. The statistic is the best one-to-one assignment of sources to targets in the log sizes
of pairs, source and target effects taken out, as their mean; its null the same for residuals that change places.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from neural_cleanse.detection.statistics.pairs import two_way_design

DRAWS = 4  # permutations over the level: p can be a quarter of it
FORBIDDEN = 1e6  # the cost of a label's pair with itself


@dataclass(frozen=True)
class MapTest:
    """The best map as (source, target), the mean of its residuals (log units, negative is small), and its p-value."""

    pairs: tuple[tuple[int, int], ...]
    mean: float
    p_value: float


def map_test(
    sources: Sequence[int], targets: Sequence[int], sizes: Sequence[float], seed: int, level: float
) -> MapTest:
    """The test on the sizes of pairs, fine enough for `level`; a pair that lacks one is neither small nor large."""
    design, logs = two_way_design(sources, targets), np.log(sizes)
    explained = design @ np.linalg.pinv(design)
    residuals = logs - explained @ logs
    labels = sorted({*sources, *targets})
    place = {label: index for index, label in enumerate(labels)}
    cells = [place[label] for label in sources], [place[label] for label in targets]

    def best(values: NDArray[np.float64]) -> tuple[float, list[int]]:
        matrix = np.zeros((len(labels), len(labels)))
        matrix[cells] = values
        return _best(matrix)

    mean, chosen = best(residuals)
    # What changes places loses effects of its own again (Freedman and Lane 1983), made up for by the first factor.
    freedom = len(logs) - int(np.linalg.matrix_rank(design))
    scaled = residuals * math.sqrt(len(logs) / max(1, freedom))
    generator = np.random.default_rng((seed, 3))
    draws, as_small = math.ceil(DRAWS / level) - 1, 0
    for _ in range(draws):
        moved = generator.permutation(scaled)
        as_small += best(moved - explained @ moved)[0] <= mean
    pairs = tuple((labels[source], labels[target]) for source, target in enumerate(chosen))
    return MapTest(pairs, mean, (1 + as_small) / (1 + draws))


def _best(residuals: NDArray[np.float64]) -> tuple[float, list[int]]:
    """The mean of the best one-to-one assignment without a label to itself, and the targets by source."""
    costs = residuals + FORBIDDEN * np.eye(len(residuals))
    sources, targets = linear_sum_assignment(costs)
    return float(costs[sources, targets].mean()), targets.tolist()
