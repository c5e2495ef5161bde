"""Error rates of a test over benchmark rows: false accusations, detections, right labels, calibration.

Models of one data set and architecture are no independent trials (one cluster). So a rate comes with two bounds: the
exact interval as if every model were a trial of its own, and the share of clusters in which the event ever happened,
with the exact interval of that. The truth about another data set lies between, and nearer to the second.
"""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.outlier import anomaly_index, outlier_test

Row = Mapping[str, Any]

PAPER_THRESHOLD = 2.0  # Wang et al. 2019, section IV: labels whose anomaly index is above it
CALIBRATION_LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5)
RESAMPLES = 1000
_SEED = 0


@dataclass(frozen=True)
class Rate:
    """`hits` of `trials`, with the exact 95 % interval, and the same over clusters with any hit."""

    hits: int
    trials: int
    cluster_hits: int
    clusters: int

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


@dataclass(frozen=True)
class Answer:
    """What a rule says of one model: labels it accuses, a score that grows with suspicion, or that it cannot tell."""

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
    flagged = tuple(label for label, value in zip(labels, index, strict=True) if value > PAPER_THRESHOLD)
    return Answer(flagged, max(index, default=0.0))


def grubbs(row: Row) -> Answer:
    """Only the smallest label, by Grubbs' one-sided test on log sizes at the row's alpha."""
    labels, sizes = known_sizes(row)
    tested = outlier_test(sizes, row["alpha"])
    smallest = min(range(len(sizes)), key=sizes.__getitem__, default=None)
    accused = smallest is not None and tested.p_values[smallest] <= row["alpha"]
    flagged = (labels[smallest],) if smallest is not None and accused else ()
    return Answer(flagged, -tested.p_value)


def known_sizes(row: Row) -> tuple[list[int], list[float]]:
    """The labels that have a size, and the sizes in px."""
    pairs = [(label, size) for label, size in zip(row["labels"], row["sizes"], strict=True) if size is not None]
    return [label for label, _ in pairs], [size for _, size in pairs]


RULES: Mapping[str, Rule] = {"scan": recorded, "Grubbs": grubbs, "paper, index above 2": paper}


@dataclass(frozen=True)
class Rates:
    """The error rates of one rule over a group of rows. Weak attacks are left out of what counts as a miss."""

    accused: Rate
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
        accused=_rate(clean, lambda row, said: bool(said.flagged)),
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
    hits = [(cluster(row), happens(row, said)) for row, said in answered]
    return Rate(
        hits=sum(hit for _, hit in hits),
        trials=len(hits),
        cluster_hits=len({name for name, hit in hits if hit}),
        clusters=len({name for name, _ in hits}),
    )


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
    generator, values = random.Random(_SEED), []
    names = sorted(by_cluster)
    for _ in range(RESAMPLES):
        drawn = [by_cluster[generator.choice(names)] for _ in names]
        value = auc([s for low, _ in drawn for s in low], [s for _, high in drawn for s in high])
        values += [] if value is None else [value]
    values.sort()
    return whole, values[int(0.025 * len(values))], values[int(0.975 * len(values))]


def calibration(rows: Sequence[Row]) -> tuple[tuple[float, int, int], ...]:
    """On clean models: (level, models with p at or under it, models). A calibrated p has a share of `level`."""
    values = [row["p_value"] for row in rows if not row["truth"]["infected"] and row["p_value"] is not None]
    return tuple((level, sum(p <= level for p in values), len(values)) for level in CALIBRATION_LEVELS)


def median_of(rows: Sequence[Row], value: Callable[[Row], float]) -> float | None:
    """The median over rows, None without any."""
    return statistics.median(map(value, rows)) if rows else None
