"""How tests on other values than the scan's are held against it: for statistics_compared.py and tails_compared.py.

Found without accusing: infected models whose p-value is under that of every clean model, so that no tail matters. Over
and under: models found so that the scan's own test does not find, and the other way round.
"""

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neural_cleanse.detection.statistics.outlier import FEW, FIRST_STEP, LATER_STEPS
from neural_cleanse.distributions import student_t_sf
from neural_cleanse.evaluation.rates import auc
from neural_cleanse.evaluation.suite import read_rows

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]

ALPHA, SEED, RESAMPLES = 0.01, 0, 2000


def strong(path: Path) -> list[Row]:
    """The rows of the choosing part, without attacks that do not work."""
    rows = (row for row in read_rows(path) if "error" not in row)
    return [row for row in rows if row["part"] == "choosing" and not row["truth"]["weak"]]


@dataclass(frozen=True)
class Tested:
    """Labels from the smallest up, the log of each one's p-value (not cut off at 0), and the first step's t."""

    labels: tuple[int, ...]
    log_p: tuple[float, ...]
    t: float

    @property
    def score(self) -> float:
        """Grows with suspicion."""
        return -self.log_p[0]

    @property
    def p_value(self) -> float:
        """Of the model."""
        return min(1.0, math.exp(min(0.0, self.log_p[0])))

    def flagged(self, log_alpha: float) -> tuple[int, ...]:
        """The labels with p under alpha."""
        return tuple(label for label, p in zip(self.labels, self.log_p, strict=True) if p < log_alpha)


def test(values: Mapping[int, float], sd: float, dof: float) -> Tested:
    """The scan's steps with a prior spread `sd` worth `dof` degrees of freedom; 1e6 stands for a known spread."""
    labels = sorted(values, key=lambda label: (values[label], label))
    logs, n = np.array([values[label] for label in labels]), len(labels)
    steps, first = [], -math.inf
    for step in range(n // 2):
        t, known = moderated_t(logs[step], logs[step + 1 :], sd, dof)
        first = t if step == 0 else first
        penalty = 1 + (LATER_STEPS if step else FIRST_STEP) * min(1.0, FEW / n)
        steps.append(math.log(n - step) + math.log(penalty) + math.log(max(student_t_sf(t, known), 1e-300)))
    rising = np.minimum.accumulate(np.array(steps)[::-1])[::-1].tolist() if steps else []
    return Tested(tuple(labels), (*rising, *[math.log(n or 1)] * (n - len(rising))), first)


def moderated_t(value: float, others: Floats, sd: float, dof: float) -> tuple[float, float]:
    """How far a value lies under the others, and the degrees of freedom of that."""
    own = len(others) - 1
    spread = math.sqrt((own * float(others.var(ddof=1)) + dof * sd**2) / (own + dof))
    return float(others.mean() - value) / (max(spread, 1e-9) * math.sqrt(1 + 1 / len(others))), own + dof


def pooled_sd(clean: Sequence[Floats]) -> float:
    """The root of the mean variance of log values over the labels of a model."""
    return math.sqrt(statistics.mean(float(logs.var(ddof=1)) for logs in clean))


@dataclass(frozen=True)
class Answer:
    """What a candidate says of one model: log p, a statistic for the order of models, and labels at a level."""

    log_p: float
    score: float
    labels: Callable[[float], tuple[int, ...]]


def compared(truths: Mapping[str, Row], answers: Mapping[str, Answer], first: Mapping[str, Answer]) -> dict[str, Any]:
    """The counts of one candidate, held against the first one's."""
    clean, infected = ([name for name in answers if truths[name]["infected"] is side] for side in (False, True))

    def without_accusing(said: Mapping[str, Answer]) -> set[str]:
        least = min(said[name].log_p for name in clean)
        return {name for name in infected if said[name].log_p < least}

    least, level = min(answers[name].log_p for name in clean), math.log(ALPHA)
    found, theirs = without_accusing(answers), without_accusing(first)

    def right(log_alpha: float) -> int:
        said = {name: set(answers[name].labels(log_alpha)) for name in infected}
        return sum(bool(labels) and labels <= set(truths[name]["targets"]) for name, labels in said.items())

    value = auc([answers[name].score for name in clean], [answers[name].score for name in infected])
    assert value is not None
    return {
        "clean": len(clean),
        "infected": len(infected),
        "auc": round(value, 4),
        "auc_difference": difference(clean, infected, answers, first),
        "found_without_accusing": len(found),
        "right_without_accusing": right(least),
        "over": sorted(found - theirs),
        "under": sorted(theirs - found),
        "accused_at_alpha": sum(answers[name].log_p < level for name in clean),
        "found_at_alpha": sum(answers[name].log_p < level for name in infected),
        "right_at_alpha": right(level),
        "median_p_infected": float(f"{median_p(infected, answers):.2g}"),
        "clean_p_at_most_half": sum(answers[name].log_p <= math.log(0.5) for name in clean),
        "least_p_clean": float(f"{math.exp(min(0.0, least)):.2g}"),
    }


def median_p(names: Sequence[str], answers: Mapping[str, Answer]) -> float:
    """Of those models."""
    return math.exp(min(0.0, statistics.median(answers[name].log_p for name in names)))


def difference(
    clean: Sequence[str], infected: Sequence[str], ours: Mapping[str, Answer], first: Mapping[str, Answer]
) -> list[float]:
    """The 95 % bootstrap interval, over models, of the difference in AUC from the first candidate's."""
    generator = random.Random(SEED)
    wins = {
        side: np.array(
            [[(said[i].score > said[c].score) + (said[i].score == said[c].score) / 2 for c in clean] for i in infected]
        )
        for side, said in (("ours", ours), ("first", first))
    }
    gain = wins["ours"] - wins["first"]
    values = []
    for _ in range(RESAMPLES):
        rows, columns = ([generator.randrange(n) for _ in range(n)] for n in gain.shape)
        values.append(float(gain[np.ix_(rows, columns)].mean()))
    values.sort()
    return [round(values[int(share * len(values))], 4) for share in (0.025, 0.975)]


def elsewhere(name: str, truths: Mapping[str, Row], values: Mapping[str, Mapping[int, float]]) -> list[Floats]:
    """The values of clean models of other data sets than this model's."""
    return [
        np.array(list(one.values()))
        for other, one in values.items()
        if not truths[other]["infected"] and truths[other]["dataset"] != truths[name]["dataset"] and len(one) > 2
    ]


def answer_of(tested: Tested) -> Answer:
    """The order of models is that of the smallest label's t."""
    return Answer(tested.log_p[0], tested.t, tested.flagged)
