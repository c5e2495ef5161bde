"""Is another tail or prior better for the scan's test? On recorded sizes of scans; nothing is searched again.

    python benchmarks/tails_compared.py --rows benchmarks/results/scans_small.jsonl \\
        --output benchmarks/results/tails_compared.json

Tails: what clean models of the other data set (MNIST for Fashion-MNIST and the other way round) say of the null.
`empirical` and `exponential` look at the smallest label alone. Priors: other spreads and degrees of freedom for the
scan's test, with their false alarms under normal log sizes. The counts are explained in candidates.py.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from candidates import (
    ALPHA,
    SEED,
    Answer,
    Floats,
    Row,
    answer_of,
    compared,
    elsewhere,
    moderated_t,
    pooled_sd,
    strong,
    test,
)
from neural_cleanse.detection.statistics.outlier import FEW, FIRST_STEP, LABELS, LATER_STEPS
from neural_cleanse.distributions import student_t_isf
from neural_cleanse.evaluation.rates import known_sizes
from neural_cleanse.evaluation.suite import run_info

DOFS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 1e6)
PRIOR_SDS, PRIOR_DOFS = (0.18, 0.2, 0.22, 0.25), (4, 8, 16, 32, 1000)
SPREADS, SIMULATED = (0.16, 0.2, 0.24, 0.3, 0.4), 200_000
TAIL_SHARE = 0.2  # of pooled clean t-values, that an exponential tail is fitted to

Null = Callable[[Sequence[Floats], Mapping[int, float]], float]  # clean models elsewhere, one model: log p


def in_use(clean: Sequence[Floats], values: Mapping[int, float]) -> float:
    """The scan's prior, .22 worth four."""
    return test(values, LABELS.sd, LABELS.dof).log_p[0]


def prior_elsewhere(clean: Sequence[Floats], values: Mapping[int, float]) -> float:
    """The mean variance of clean models elsewhere, worth four degrees of freedom."""
    return test(values, pooled_sd(clean), LABELS.dof).log_p[0]


def fitted_prior(clean: Sequence[Floats], values: Mapping[int, float]) -> float:
    """Spread and worth of the prior by maximum likelihood on the variances elsewhere (Smyth 2004)."""
    return test(values, *fit_prior(clean)).log_p[0]


def known_spread(clean: Sequence[Floats], values: Mapping[int, float]) -> float:
    """The spread elsewhere is taken for this model's: a normal tail."""
    return test(values, pooled_sd(clean), 1e6).log_p[0]


def empirical(clean: Sequence[Floats], values: Mapping[int, float]) -> float:
    """Share of clean labels elsewhere that lie as far under their model's other labels, times the number of labels."""
    null = pooled_t(clean)
    return math.log(len(values) * (1 + float((null >= smallest_t(values)).sum())) / (len(null) + 1))


def exponential(clean: Sequence[Floats], values: Mapping[int, float]) -> float:
    """An exponential tail through the largest fifth of those."""
    null, t = pooled_t(clean), smallest_t(values)
    threshold = float(np.quantile(null, 1 - TAIL_SHARE))
    if t <= threshold:
        return empirical(clean, values)
    scale = float((null[null > threshold] - threshold).mean())
    return math.log(len(values) * TAIL_SHARE) - (t - threshold) / scale


def recalibrated(clean: Sequence[Floats], values: Mapping[int, float]) -> float:
    """The scan's own log p against a Gumbel distribution of the same of clean models elsewhere (by its moments)."""
    null = np.array([-in_use(clean, dict(enumerate(logs.tolist()))) for logs in clean])
    scale = float(null.std(ddof=1)) * math.sqrt(6) / math.pi
    z = (-in_use(clean, values) - float(null.mean()) + 0.5772156649 * scale) / scale
    return math.log(max(-math.expm1(-math.exp(-z)), 1e-300))


TAILS: dict[str, Null] = {
    "in use: prior .22, four degrees of freedom": in_use,
    "prior of the other data set, four degrees": prior_elsewhere,
    "prior and its worth fitted on the other data set": fitted_prior,
    "spread of the other data set, normal tail": known_spread,
    "empirical tail of the other data set": empirical,
    "exponential tail of the other data set": exponential,
    "log p of the scan, Gumbel of the other data set": recalibrated,
}


def fit_prior(clean: Sequence[Floats]) -> tuple[float, float]:
    """(sd, dof) with the largest likelihood: variance / sd^2 is F distributed, labels - 1 against dof."""
    variances, d = [float(logs.var(ddof=1)) for logs in clean], min(len(logs) for logs in clean) - 1

    def likelihood(sd: float, dof: float) -> float:
        total = 0.0
        for variance in variances:
            f = variance / sd**2
            total += math.lgamma((d + dof) / 2) - math.lgamma(d / 2) - math.lgamma(dof / 2) + d / 2 * math.log(d / dof)
            total += (d / 2 - 1) * math.log(f) - (d + dof) / 2 * math.log1p(d * f / dof) - 2 * math.log(sd)
        return total

    grid = [(sd / 1000, dof) for sd in range(80, 400, 5) for dof in DOFS]
    return max(grid, key=lambda point: likelihood(*point))


def pooled_t(clean: Sequence[Floats]) -> Floats:
    """The leave-one-out t of every label of those models, under the scan's prior."""
    return np.array(
        [moderated_t(one, np.delete(logs, i), LABELS.sd, LABELS.dof)[0] for logs in clean for i, one in enumerate(logs)]
    )


def smallest_t(values: Mapping[int, float]) -> float:
    """That of a model's smallest label."""
    return test(values, LABELS.sd, LABELS.dof).t


def smallest_if(log_p: float, label: int, log_alpha: float) -> tuple[int, ...]:
    """The smallest label alone, if its p is under alpha."""
    return (label,) if log_p < log_alpha else ()


def tails_compared(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One record a tail, over all rows."""
    truths = {row["model"]: row["truth"] for row in rows}
    values = {}
    for row in rows:
        labels, sizes = known_sizes(row)
        values[row["model"]] = {label: math.log(size) for label, size in zip(labels, sizes, strict=True)}
    records: list[dict[str, Any]] = []
    first: dict[str, Answer] = {}
    for title, null in TAILS.items():
        answers = {}
        for name, one in values.items():
            log_p = null(elsewhere(name, truths, values), one)
            answers[name] = Answer(log_p, -log_p, partial(smallest_if, log_p, min(one, key=one.__getitem__)))
        first = first or answers
        records.append({"tail": title} | compared(truths, answers, first))
    return records


def priors_compared(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Priors on recorded sizes, and the rate of false alarms of ten normal log sizes of each spread, by simulation."""
    truths = {row["model"]: row["truth"] for row in rows}
    values = {row["model"]: {one: math.log(s) for one, s in zip(*known_sizes(row), strict=True)} for row in rows}
    scanned = {name: answer_of(test(one, LABELS.sd, LABELS.dof)) for name, one in values.items()}
    records = []
    for sd in PRIOR_SDS:
        for dof in PRIOR_DOFS:
            answers = {name: answer_of(test(one, sd, dof)) for name, one in values.items()}
            alarms = {str(spread): round(false_alarms(sd, dof, spread), 4) for spread in SPREADS}
            records.append({"sd": sd, "dof": dof} | compared(truths, answers, scanned) | {"false_alarms": alarms})
    return records


def false_alarms(sd: float, dof: float, spread: float, n: int = 10) -> float:
    """Share of simulated clean models with any step under alpha."""
    logs = np.sort(np.random.default_rng(SEED).normal(0, spread, (SIMULATED, n)), axis=1)
    alarm = np.zeros(SIMULATED, dtype=bool)
    for step in range(n // 2):
        others, own = logs[:, step + 1 :], n - step - 2
        variance = (own * others.var(axis=1, ddof=1) + dof * sd**2) / (own + dof)
        t = (others.mean(axis=1) - logs[:, step]) / np.sqrt(variance * (1 + 1 / (own + 1)))
        penalty = 1 + (LATER_STEPS if step else FIRST_STEP) * min(1.0, FEW / n)
        alarm |= t > student_t_isf(ALPHA / ((n - step) * penalty), own + dof)
    return float(alarm.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = strong(options.rows)
    tails, priors = tails_compared(rows), priors_compared(rows)
    print("\n".join(json.dumps(row) for row in (*tails, *priors)))
    if options.output:
        record = {"part": "choosing", "tails": tails, "priors": priors, "seed": SEED} | run_info()
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
