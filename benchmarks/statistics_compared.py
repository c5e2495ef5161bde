"""Is another statistic than the size better, or another tail? On rows of the choosing part; nothing is searched again.

    python benchmarks/statistics_compared.py --trajectories benchmarks/results/trajectories.jsonl \
        --rows benchmarks/results/scans_small.jsonl --output benchmarks/results/statistics_compared.json

Statistics: what `trajectories.py` recorded, one value a label, small ones being suspicious. Each goes through the same
test, whose prior spread (worth four degrees of freedom, as in a scan) is that of clean models of the other data set:
none is helped by having chosen its prior on the models it is judged by. The first line is the scan's own test.

Tails: the recorded sizes of scans, judged by what clean models of the other data set (MNIST for Fashion-MNIST and the
other way round) say of the null. `empirical` and `exponential` look at the smallest label alone.

Priors: other spreads and degrees of freedom for the scan's test, with their false alarms under normal log sizes.

Found without accusing: infected models whose p-value is under that of every clean model, so that no tail matters.
Over and under: models found so that the first line does not find, and the other way round.
"""

import argparse
import json
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neural_cleanse.benchmark import read_rows, surroundings
from neural_cleanse.distributions import student_t_isf, student_t_sf
from neural_cleanse.outlier import FEW, FIRST_STEP, LABELS, LATER_STEPS
from neural_cleanse.rates import auc, known_sizes

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]
Values = Callable[[Mapping[str, Row]], dict[int, float]]

ALPHA, SEED, RESAMPLES = 0.01, 0, 2000
THREE, LEVELS, CUTS = (0, 1, 2), (0.90, 0.95, 0.99), (16, 32, 64)
DOFS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 1e6)
PRIOR_SDS, PRIOR_DOFS = (0.18, 0.2, 0.22, 0.25), (4, 8, 16, 32, 1000)
SPREADS, SIMULATED = (0.16, 0.2, 0.24, 0.3, 0.4), 200_000
TAIL_SHARE = 0.2  # of pooled clean t-values, that an exponential tail is fitted to


# --- the test: ESD steps on log values, as in outlier.py, with any prior and p-values that are not cut off at 1 ---


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


# --- statistics ---


def over_restarts(values: Sequence[float | None]) -> float | None:
    """The median of those that have a value, if most have one."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if 2 * len(known) > len(values) else None


def by_label(values: Sequence[Sequence[float | None]]) -> dict[int, float]:
    """The median of every label that has one."""
    medians = {label: over_restarts(restarts) for label, restarts in enumerate(values)}
    return {label: value for label, value in medians.items() if value is not None}


def log(value: float | None) -> float | None:
    """The logarithm of a size, if there is one."""
    return None if value is None else math.log(max(value, 1e-3))


def chosen(steps: int, level: float = 0.95, restarts: Sequence[int] = THREE, run: str = "trajectory") -> Values:
    """Log size of the smallest kept trigger that holds at that level, after so many steps."""

    def values(runs: Mapping[str, Row]) -> dict[int, float]:
        found = runs[run]["chosen"][str(steps)]
        return by_label([[log(label[r][LEVELS.index(level)]) for r in restarts] for label in found])

    return values


def five(runs: Mapping[str, Row]) -> dict[int, float]:
    """Five restarts of 150 steps."""
    row, level = runs["trajectory"], LEVELS.index(0.95)
    pairs = zip(row["chosen"]["150"], row["more"]["150"], strict=True)
    return by_label([[log(one[level]) for one in (*three, *two)] for three, two in pairs])


def one_long(runs: Mapping[str, Row]) -> dict[int, float]:
    """One restart of 750 steps."""
    return by_label([[log(one[LEVELS.index(0.95)]) for one in label] for label in runs["trajectory"]["more"]["750"]])


def smallest(runs: Mapping[str, Row]) -> dict[int, float]:
    """The smallest of three restarts instead of their median."""
    found = [[log(one[LEVELS.index(0.95)]) for one in label] for label in runs["trajectory"]["chosen"]["250"]]
    return {label: min(v for v in values if v is not None) for label, values in enumerate(found) if any(values)}


def curves(runs: Mapping[str, Row]) -> npt.NDArray[np.float64]:
    """Log size of the moving average: looks, labels, restarts."""
    return np.log(np.array(runs["trajectory"]["sizes"], dtype=np.float64))


def average_at(step: int) -> Values:
    """Log size of the moving average after so many steps, whatever its success."""
    return lambda runs: by_label(curves(runs)[step // runs["trajectory"]["every"] - 1].tolist())


def shrunk(first: int, last: int) -> Values:
    """Speed of shrinking: the difference of log sizes between two steps."""

    def values(runs: Mapping[str, Row]) -> dict[int, float]:
        every, found = runs["trajectory"]["every"], curves(runs)
        return by_label((found[last // every - 1] - found[first // every - 1]).tolist())

    return values


def mean_curve(runs: Mapping[str, Row]) -> dict[int, float]:
    """The mean of log sizes over the whole run: small where shrinking is early and far."""
    return by_label(curves(runs).mean(0).tolist())


def time_to(share: float) -> Values:
    """Log of the number of steps until the mask is that share of half the image; twice the run where it never is."""

    def values(runs: Mapping[str, Row]) -> dict[int, float]:
        every, found = runs["trajectory"]["every"], curves(runs)
        goal, looks = math.log(share * 392), len(found)
        times = np.full(found.shape[1:], 2.0 * every * looks)
        for look in reversed(range(looks)):
            before = found[look - 1] if look else np.full_like(found[0], math.log(392))
            part = (before - goal) / np.maximum(before - found[look], 1e-9)
            times = np.where(found[look] <= goal, every * (look + np.clip(part, 0, 1)), times)
        return by_label(np.log(times).tolist())

    return values


def failures(cut: int) -> Values:
    """Log odds that the mask's largest values, up to so many px, fail on images not searched on."""

    def values(runs: Mapping[str, Row]) -> dict[int, float]:
        row, at = runs["trajectory"], CUTS.index(cut)
        return by_label(
            [
                [math.log((trials - one[at] + 0.5) / (one[at] + 0.5)) for one in label]
                for label, trials in zip(row["cut"], row["cut_trials"], strict=True)
            ]
        )

    return values


STATISTICS: dict[str, Values] = {
    "size at success .95 (in use)": chosen(250),
    "size at success .90": chosen(250, 0.90),
    "size at success .99": chosen(250, 0.99),
    "100 of 250 steps": chosen(100),
    "150 of 250 steps": chosen(150),
    "average, whatever its success, at step 50": average_at(50),
    "the same at step 100": average_at(100),
    "the same at step 150": average_at(150),
    "the same at step 250": average_at(250),
    "shrinking from step 25 to 100": shrunk(25, 100),
    "shrinking from step 50 to 250": shrunk(50, 250),
    "mean log size over the run": mean_curve,
    "steps to a quarter of the start": time_to(0.25),
    "failure of the strongest 16 px": failures(16),
    "failure of the strongest 32 px": failures(32),
    "failure of the strongest 64 px": failures(64),
    "smallest of three restarts": smallest,
    "one restart of 250 steps, a third of the passes": chosen(250, restarts=(0,)),
    "three restarts of 150 steps, three fifths": chosen(150),
    "five restarts of 150 steps": five,
    "one restart of 750 steps": one_long,
    "2 images, 500 steps": chosen(500, run="batch 2"),
    "8 images, 125 steps": chosen(125, run="batch 8"),
    "16 images, 62 steps": chosen(62, run="batch 16"),
}


# --- tails ---


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


def pooled_sd(clean: Sequence[Floats]) -> float:
    """The root of the mean variance of log values over the labels of a model."""
    return math.sqrt(statistics.mean(float(logs.var(ddof=1)) for logs in clean))


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


# --- comparison ---


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


def statistics_compared(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One record a statistic, over the models that all its runs have."""
    runs: dict[str, dict[str, Row]] = {}
    for row in rows:
        runs.setdefault(row["model"], {})[row["settings"]["run"]] = row
    truths = {name: next(iter(of.values()))["truth"] for name, of in runs.items()}
    in_px = {name: chosen(250)(of) for name, of in runs.items() if "trajectory" in of}
    scanned = {name: answer_of(test(values, LABELS.sd, LABELS.dof)) for name, values in in_px.items()}
    records = [{"statistic": "size at success .95, the scan's own prior"} | compared(truths, scanned, scanned)]
    for title, statistic in STATISTICS.items():
        values: dict[str, dict[int, float]] = {}
        for name, of in runs.items():
            try:
                values[name] = statistic(of)
            except KeyError:  # that run was not made on this model
                continue
        answers = {}
        for name, one in values.items():
            clean = elsewhere(name, truths, values)
            if len(one) > 2 and clean:
                answers[name] = answer_of(test(one, pooled_sd(clean), LABELS.dof))
        if len({truths[name]["infected"] for name in answers}) < 2:
            continue
        sd = [float(np.std(list(one.values()), ddof=1)) for n, one in values.items() if not truths[n]["infected"]]
        records.append(
            {"statistic": title, "labels_without": sum(10 - len(one) for one in values.values())}
            | compared(truths, answers, {name: scanned[name] for name in answers})
            | {"clean_sd": round(statistics.median(sd), 3)}
        )
    return records


def answer_of(tested: Tested) -> Answer:
    """The order of models is that of the smallest label's t."""
    return Answer(tested.log_p[0], tested.t, tested.flagged)


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


# --- how much to trust a prior ---


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
    parser.add_argument("--trajectories", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    def strong(path: Path) -> list[Row]:
        rows = (row for row in read_rows(path) if "error" not in row)
        return [row for row in rows if row["part"] == "choosing" and not row["truth"]["weak"]]

    tables = {
        "statistics": statistics_compared(strong(options.trajectories)),
        "tails": tails_compared(strong(options.rows)),
        "priors": priors_compared(strong(options.rows)),
    }
    for table in tables.values():
        print("\n".join(json.dumps(row) for row in table))
    record = {"part": "choosing"} | tables | {"seed": SEED} | surroundings()
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
