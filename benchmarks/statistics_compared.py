"""Is another statistic of a search better than the size? On what trajectories.py recorded; nothing is searched again.

    python benchmarks/statistics_compared.py --trajectories benchmarks/results/trajectories.jsonl \\
        --output benchmarks/results/statistics_compared.json

One value a label, small ones being suspicious. Each statistic goes through the scan's test, whose prior spread (worth
four degrees of freedom, as in a scan) is that of clean models of the other data set: none is helped by having its prior
from the models it is judged by. The first line is the scan's own test; the second, its sizes under that prior, is what
the others are held against, on the same models. The counts are explained in candidates.py.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from candidates import SEED, Answer, Floats, Row, answer_of, compared, elsewhere, pooled_sd, strong, test
from neural_cleanse.detection.statistics.outlier import LABELS
from neural_cleanse.evaluation.suite import run_info

Values = Callable[[Mapping[str, Row]], dict[int, float]]

THREE, LEVELS, CUTS = (0, 1, 2), (0.90, 0.95, 0.99), (16, 32, 64)
HALF = 392  # px: where a search on 28 x 28 images starts


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


def curves(runs: Mapping[str, Row]) -> Floats:
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
        goal, looks = math.log(share * HALF), len(found)
        times = np.full(found.shape[1:], 2.0 * every * looks)
        for look in reversed(range(looks)):
            before = found[look - 1] if look else np.full_like(found[0], math.log(HALF))
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
    "50 of 250 steps": chosen(50),
    "100 of 250 steps": chosen(100),
    "150 of 250 steps, three fifths of the passes": chosen(150),
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
    "five restarts of 150 steps": five,
    "one restart of 750 steps": one_long,
    "2 images, 500 steps": chosen(500, run="batch 2"),
    "8 images, 125 steps": chosen(125, run="batch 8"),
    "16 images, 62 steps": chosen(62, run="batch 16"),
}


def judged(truths: Mapping[str, Row], values: Mapping[str, Mapping[int, float]]) -> dict[str, Answer]:
    """The test of each model under the spread of clean models of other data sets."""
    answers = {}
    for name, one in values.items():
        clean = elsewhere(name, truths, values)
        if len(one) > 2 and clean:
            answers[name] = answer_of(test(one, pooled_sd(clean), LABELS.dof))
    return answers


def statistics_compared(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One record a statistic, over the models that all its runs have."""
    runs: dict[str, dict[str, Row]] = {}
    for row in rows:
        runs.setdefault(row["model"], {})[row["settings"]["run"]] = row
    truths = {name: next(iter(of.values()))["truth"] for name, of in runs.items()}
    in_px = {name: chosen(250)(of) for name, of in runs.items() if "trajectory" in of}
    scanned = {name: answer_of(test(values, LABELS.sd, LABELS.dof)) for name, values in in_px.items()}
    first = judged(truths, in_px)
    records = [{"statistic": "the scan's own test, prior .22"} | compared(truths, scanned, first)]
    for title, statistic in STATISTICS.items():
        values: dict[str, dict[int, float]] = {}
        for name, of in runs.items():
            try:
                values[name] = statistic(of)
            except KeyError:  # that run was not made on this model
                continue
        answers = judged(truths, values)
        if len({truths[name]["infected"] for name in answers}) < 2:
            continue
        sd = [float(np.std(list(one.values()), ddof=1)) for n, one in values.items() if not truths[n]["infected"]]
        records.append(
            {"statistic": title, "labels_without": sum(10 - len(one) for one in values.values())}
            | compared(truths, answers, {name: first[name] for name in answers})
            | {"clean_sd": round(statistics.median(sd), 3)}
        )
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = statistics_compared(strong(options.trajectories))
    print("\n".join(json.dumps(row) for row in rows))
    if options.output:
        record = {"part": "choosing", "rows": rows, "seed": SEED} | run_info()
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
