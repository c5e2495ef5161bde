"""Error rates of a test over benchmark rows: false alarms, detections, right labels, calibration.

Models of one data set and architecture are no independent trials (one cluster). So a rate comes with two bounds: the
exact interval as if every model were a trial of its own, and the share of clusters in which the event ever happened,
with the exact interval of that. The truth about another data set lies between, and nearer to the second.

A rate that is neither 0 nor 1 also has an interval from drawing whole clusters anew (a bootstrap, Efron 1979). Of half
a dozen clusters it is rather too narrow, so the wider of the two intervals counts; of fewer, and of a rate of 0 or 1,
it says nothing, and of the latter the bound of the clusters stands there.
"""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from neural_cleanse.detection.statistics.outlier import INDEX_THRESHOLD, anomaly_index, outlier_test
from neural_cleanse.distributions import clopper_pearson

Row = Mapping[str, Any]
T = TypeVar("T")

PAPER = "paper, index above 2"  # its name among RULES
CALIBRATION_LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5)
RESAMPLES = 1000
MIN_CLUSTERS = 5  # that a bootstrap of a rate draws from: of fewer it makes a handful of values
_SEED = 0


@dataclass(frozen=True)
class Rate:
    """Hits and trials of each cluster, with the exact 95 % interval, and the same over clusters with any hit."""

    by_cluster: tuple[tuple[int, int], ...]

    @property
    def hits(self) -> int:
        """Over all clusters."""
        return sum(hits for hits, _ in self.by_cluster)

    @property
    def trials(self) -> int:
        """Over all clusters."""
        return sum(trials for _, trials in self.by_cluster)

    @property
    def cluster_hits(self) -> int:
        """Clusters in which it ever happens."""
        return sum(hits > 0 for hits, _ in self.by_cluster)

    @property
    def clusters(self) -> int:
        """Clusters with any trial."""
        return len(self.by_cluster)

    @property
    def share(self) -> float:
        """Hits over trials; 0 without trials."""
        return self.hits / self.trials if self.trials else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """As if every model were a trial of its own."""
        return clopper_pearson(self.hits, self.trials)

    @property
    def cluster_interval(self) -> tuple[float, float]:
        """Of the share of clusters in which it ever happens."""
        return clopper_pearson(self.cluster_hits, self.clusters)

    @property
    def over_clusters(self) -> tuple[float, float] | None:
        """What other clusters may show: the 95 % bootstrap interval of the rate over clusters.

        Of a rate of 0 or 1, the exact interval of the share of clusters that are wholly so. None where a bootstrap has
        too little to draw from: few clusters, or the same share in every one.
        """
        if self.trials and self.hits in (0, self.trials):
            return clopper_pearson(self.clusters if self.hits else 0, self.clusters)
        if self.clusters < MIN_CLUSTERS or len({hits / trials for hits, trials in self.by_cluster}) < 2:
            return None

        def share(drawn: Sequence[tuple[int, int]]) -> float:
            return sum(hits for hits, _ in drawn) / sum(trials for _, trials in drawn)

        return _bootstrap(self.by_cluster, share)


@dataclass(frozen=True)
class Answer:
    """What a rule says of one model: labels it flags, a score that grows with suspicion, or that it cannot tell."""

    flagged: tuple[int, ...]
    score: float
    inconclusive: bool = False


Rule = Callable[[Row], Answer]


def recorded(row: Row) -> Answer:
    """The verdict of the scan itself."""
    infected = row["verdict"] == "infected"
    p_value = 1.0 if row["p_value"] is None else row["p_value"]
    return Answer(tuple(row["flagged"]) if infected else (), -p_value, row["verdict"] == "inconclusive")


def paper(row: Row) -> Answer:
    """Labels whose anomaly index on raw sizes is above 2 (Wang et al. 2019)."""
    labels, sizes = known_sizes(row)
    index = anomaly_index(sizes).tolist()
    flagged = tuple(label for label, value in zip(labels, index, strict=True) if value > INDEX_THRESHOLD)
    return Answer(flagged, max(index, default=0.0))


def grubbs(row: Row) -> Answer:
    """Only the smallest label, by Grubbs' one-sided test on log sizes at the row's alpha."""
    labels, sizes = known_sizes(row)
    tested = outlier_test(sizes, row["alpha"])
    smallest = min(range(len(sizes)), key=sizes.__getitem__, default=None)
    is_flagged = smallest is not None and tested.p_values[smallest] <= row["alpha"]
    flagged = (labels[smallest],) if smallest is not None and is_flagged else ()
    return Answer(flagged, -tested.p_value)


def known_sizes(row: Row) -> tuple[list[int], list[float]]:
    """The labels that have a size, and the sizes in px."""
    pairs = [(label, size) for label, size in zip(row["labels"], row["sizes"], strict=True) if size is not None]
    return [label for label, _ in pairs], [size for _, size in pairs]


RULES: Mapping[str, Rule] = {"scan": recorded, "Grubbs": grubbs, PAPER: paper}


@dataclass(frozen=True)
class Rates:
    """The error rates of one rule over a group of rows. Weak attacks are left out of what counts as a miss."""

    clean_flagged: Rate
    inconclusive_clean: Rate
    detected: Rate
    right_label: Rate
    every_label: Rate
    inconclusive_infected: Rate
    auc: tuple[float, float, float] | None
    weak: int


def rates(rows: Sequence[Row], rule: Rule) -> Rates:
    """Rates over finished rows. Right label: something is flagged and every flagged label is a target."""
    clean = [(row, rule(row)) for row in rows if not row["truth"]["infected"]]
    strong = [(row, rule(row)) for row in rows if row["truth"]["infected"] and not row["truth"]["weak"]]
    return Rates(
        clean_flagged=_rate(clean, lambda row, said: bool(said.flagged)),
        inconclusive_clean=_rate(clean, lambda row, said: said.inconclusive),
        detected=_rate(strong, lambda row, said: bool(said.flagged)),
        right_label=_rate(
            strong, lambda row, said: bool(said.flagged) and set(said.flagged) <= set(row["truth"]["targets"])
        ),
        every_label=_rate(strong, lambda row, said: set(said.flagged) == set(row["truth"]["targets"])),
        inconclusive_infected=_rate(strong, lambda row, said: said.inconclusive),
        auc=_auc_with_interval(clean, strong),
        weak=sum(row["truth"]["infected"] and bool(row["truth"]["weak"]) for row in rows),
    )


def cluster(row: Row) -> tuple[str, str]:
    """Data set and architecture: models that share both are alike."""
    return str(row["truth"]["dataset"]), str(row["truth"]["architecture"])


def _rate(answered: Sequence[tuple[Row, Answer]], happens: Callable[[Row, Answer], bool]) -> Rate:
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for row, said in answered:
        hits, trials = counts.get(cluster(row), (0, 0))
        counts[cluster(row)] = (hits + happens(row, said), trials + 1)
    return Rate(tuple(counts[name] for name in sorted(counts)))


def _bootstrap(clusters: Sequence[T], value: Callable[[Sequence[T]], float | None]) -> tuple[float, float]:
    """The 95 % interval of `value` over as many clusters drawn with replacement; draws without a value do not count."""
    generator, values = random.Random(_SEED), []
    for _ in range(RESAMPLES):
        drawn = value([generator.choice(clusters) for _ in clusters])
        values += [] if drawn is None else [drawn]
    values.sort()
    return values[int(0.025 * len(values))], values[int(0.975 * len(values))]


def auc(clean: Sequence[float], infected: Sequence[float]) -> float | None:
    """Chance that an infected model has the higher score than a clean one, ties counting half."""
    if not clean or not infected:
        return None
    wins = sum((high > low) + (high == low) / 2 for high in infected for low in clean)
    return wins / (len(clean) * len(infected))


def _auc_with_interval(
    clean: Sequence[tuple[Row, Answer]], infected: Sequence[tuple[Row, Answer]]
) -> tuple[float, float, float] | None:
    """AUC and its 95 % bootstrap interval over clusters."""
    whole = auc([said.score for _, said in clean], [said.score for _, said in infected])
    if whole is None:
        return None
    by_cluster: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for side, answered in enumerate((clean, infected)):
        for row, said in answered:
            by_cluster.setdefault(cluster(row), ([], []))[side].append(said.score)

    def of(drawn: Sequence[tuple[list[float], list[float]]]) -> float | None:
        return auc([s for low, _ in drawn for s in low], [s for _, high in drawn for s in high])

    return whole, *_bootstrap([by_cluster[name] for name in sorted(by_cluster)], of)


def calibration(rows: Sequence[Row]) -> tuple[tuple[float, int, int], ...]:
    """On clean models: (level, models with p at or under it, models). A calibrated p has a share of `level`."""
    values = [row["p_value"] for row in rows if not row["truth"]["infected"] and row["p_value"] is not None]
    return tuple((level, sum(p <= level for p in values), len(values)) for level in CALIBRATION_LEVELS)


def median_of(rows: Sequence[Row], value: Callable[[Row], float]) -> float | None:
    """The median over rows, None without any."""
    return statistics.median(map(value, rows)) if rows else None
