"""Which outlier test is best? Candidates on the recorded sizes of the choosing part; nothing is scanned again.

    python benchmarks/tests_compared.py --rows benchmarks/results/scans_small.jsonl [--part choosing]

Every candidate gets the same log sizes. `without prior` leaves out what is known beforehand of their spread; `baseline_sizes`
divides every size by that of the same label in a clean model of the same data set and architecture (what --baseline
does), `class mean` by the mean over all clean models of the data set but the one tested.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neural_cleanse.detection.statistics.outlier import (
    FEW,
    FIRST_STEP,
    LABELS,
    LATER_STEPS,
    OVER_BASELINE,
    Prior,
    outlier_test,
)
from neural_cleanse.distributions import student_t_sf
from neural_cleanse.evaluation.rates import Answer, cluster, known_sizes, paper, rates
from neural_cleanse.evaluation.suite import read_rows

Row = dict[str, Any]
Test = Callable[[Row, Sequence[Row]], Answer]


def esd(row: Row, rows: Sequence[Row]) -> Answer:
    """What a scan does."""
    return _test(*known_sizes(row), row["alpha"])


def by_paper(row: Row, rows: Sequence[Row]) -> Answer:
    """Anomaly index above 2."""
    return paper(row)


def baseline_sizes(row: Row, rows: Sequence[Row]) -> Answer:
    """Sizes over those of one clean model: another seed, the same data set and architecture."""
    clean = _clean_like(row, rows)
    if not clean:
        return Answer((), -1.0, inconclusive=True)
    return _over(row, [dict(zip(*known_sizes(clean[0]), strict=True))])


def class_mean(row: Row, rows: Sequence[Row]) -> Answer:
    """Sizes over the geometric mean of all clean models of the data set, whatever the architecture."""
    clean = [
        dict(zip(*known_sizes(other), strict=True))
        for other in rows
        if not other["truth"]["infected"]
        and other["truth"]["dataset"] == row["truth"]["dataset"]
        and other["model"] != row["model"]
    ]
    return _over(row, clean)


def without_prior(row: Row, rows: Sequence[Row]) -> Answer:
    """The same steps and penalties, the spread estimated from the model's own labels alone."""
    labels, sizes = known_sizes(row)
    logs = np.log(sizes)
    order = np.argsort(logs)
    flagged, smallest, n = 0, 1.0, len(logs)
    for step in range(n // 2):
        others = logs[order[step + 1 :]]
        t = (others.mean() - logs[order[step]]) / (others.std(ddof=1) * math.sqrt(1 + 1 / len(others)))
        penalty = 1 + (LATER_STEPS if step else FIRST_STEP) * min(1.0, FEW / n)
        p = min(1.0, (n - step) * penalty * student_t_sf(float(t), len(others) - 1))
        smallest = min(smallest, p)
        if p <= row["alpha"]:
            flagged = step + 1
    return Answer(tuple(labels[position] for position in order[:flagged]), -smallest)


def _clean_like(row: Row, rows: Sequence[Row]) -> list[Row]:
    return [
        other
        for other in rows
        if not other["truth"]["infected"] and cluster(other) == cluster(row) and other["model"] != row["model"]
    ]


def _over(row: Row, clean: Sequence[dict[int, float]]) -> Answer:
    labels, sizes = known_sizes(row)
    kept, ratios = [], []
    for label, size in zip(labels, sizes, strict=True):
        known = [math.log(one[label]) for one in clean if label in one]
        if known:
            kept.append(label)
            ratios.append(size / math.exp(statistics.mean(known)))
    return _test(kept, ratios, row["alpha"], OVER_BASELINE)


def _test(labels: Sequence[int], sizes: Sequence[float], alpha: float, prior: Prior = LABELS) -> Answer:
    tested = outlier_test(sizes, alpha, prior)
    flagged = () if tested.tail_holds is False else tuple(labels[index] for index in tested.flagged)
    return Answer(flagged, -tested.p_value)


def _right(row: Row, said: Answer) -> bool:
    if not row["truth"]["infected"]:
        return not said.flagged
    return bool(said.flagged) and set(said.flagged) <= set(row["truth"]["targets"])


TESTS: dict[str, Test] = {
    "scan": esd, "without prior": without_prior, "paper, index above 2": by_paper, "twin": baseline_sizes,
    "class mean": class_mean,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    parser.add_argument("--part", choices=("choosing", "final"), default="choosing")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = [
        row for path in options.rows for row in read_rows(path) if row["part"] == options.part and "error" not in row
    ]
    record = []
    for name, test in TESTS.items():
        answers = {row["model"]: test(row, rows) for row in rows}
        one = rates(rows, lambda row, answers=answers: answers[row["model"]])  # type: ignore[misc]
        counts = {
            "test": name, "clean": one.accused.trials, "accused": one.accused.hits, "infected": one.detected.trials,
            "found": one.detected.hits, "right_label": one.right_label.hits, "every_label": one.every_label.hits,
        }  # fmt: skip
        wrong = [row["model"] for row in rows if not row["truth"]["weak"] and not _right(row, answers[row["model"]])]
        record.append(counts | {"auc": None if one.auc is None else round(one.auc[0], 4), "wrong": wrong})
        print(json.dumps(record[-1]))
    if options.output:
        options.output.write_text(json.dumps({"part": options.part, "rows": record}, indent=1) + "\n")


if __name__ == "__main__":
    main()
