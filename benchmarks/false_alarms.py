"""How often a clean model is flagged: the paper's rule and ours, by number of labels and shape of the sizes.

    python benchmarks/false_alarms.py --draws 2000 --seed 0 --output benchmarks/results/false_alarms.json

Draws the trigger sizes of clean models (independent labels, no backdoor), applies both rules, writes one JSON row a
number of labels, shape and rule, and prints the table in Markdown. The paper flags a model with an anomaly index
above 2; ours with labels flagged at alpha and a tail that holds, and calls those whose tail does not inconclusive.
"""

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from neural_cleanse.detection.statistics.outlier import INDEX_THRESHOLD, Floats, anomaly_index, outlier_test
from pages import filled

NUM_LABELS = (2, 3, 5, 10, 20, 43, 100, 423, 1283)
ALPHAS = (0.01, 0.05)
LOG_SD = 0.25  # of the log sizes; measured on clean networks: 0.17 to 0.25
MEDIAN = 64.0  # px
SMALLEST_SHARE = 0.02  # of the median, under which a normal raw size is cut off
Draw = Callable[[np.random.Generator, int], Floats]


def _of_logs(draw: Draw, mean: float, sd: float) -> Draw:
    """Sizes whose logarithms have the shape of `draw`, given its mean and standard deviation."""
    return lambda generator, n: MEDIAN * np.exp(LOG_SD * (draw(generator, n) - mean) / sd)


def _normal_raw(generator: np.random.Generator, n: int) -> Floats:
    return MEDIAN * np.maximum(1 + LOG_SD * generator.normal(size=n), SMALLEST_SHARE)


SHAPES: dict[str, Draw] = {
    "normal log sizes": _of_logs(lambda generator, n: generator.normal(size=n), 0.0, 1.0),
    "right-skewed log sizes (gamma 4)": _of_logs(lambda generator, n: generator.gamma(4.0, size=n), 4.0, 2.0),
    "left-skewed log sizes (-gamma 4)": _of_logs(lambda generator, n: -generator.gamma(4.0, size=n), -4.0, 2.0),
    "left-skewed log sizes (-Gumbel)": _of_logs(
        lambda generator, n: -generator.gumbel(size=n), -float(np.euler_gamma), np.pi / 6**0.5
    ),
    "normal raw sizes": _normal_raw,
    "heavy-tailed log sizes (t5)": _of_logs(lambda generator, n: generator.standard_t(5, size=n), 0.0, (5 / 3) ** 0.5),
}


@dataclass(frozen=True)
class Row:
    """Rates over the draws; `alpha` is None for the paper's rule, which never calls a model inconclusive."""

    labels: int
    shape: str
    rule: str
    alpha: float | None
    infected: float
    inconclusive: float
    draws: int
    seed: int


def measure(labels: int, shape: str, draws: int, seed: int) -> Iterator[Row]:
    """All rules on the same draws."""
    generator = np.random.default_rng([seed, labels, list(SHAPES).index(shape)])
    sizes = [SHAPES[shape](generator, labels) for _ in range(draws)]
    flagged = sum(bool((anomaly_index(drawn) > INDEX_THRESHOLD).any()) for drawn in sizes)
    yield Row(labels, shape, "paper", None, flagged / draws, 0.0, draws, seed)
    for alpha in ALPHAS:
        flagging = [test for test in (outlier_test(drawn, alpha) for drawn in sizes) if test.flagged]
        failed = sum(test.tail_holds is False for test in flagging)
        yield Row(labels, shape, "ours", alpha, (len(flagging) - failed) / draws, failed / draws, draws, seed)


def markdown(rows: list[Row]) -> str:
    """One line a shape and rule, one column a number of labels; an inconclusive share stands behind a plus sign.

    Of our rule the default level alone: the others are in the file of rows.
    """
    shown = NUM_LABELS[1:]  # of two labels no rule flags any
    columns = " | ".join(f"{labels:,}" for labels in shown)
    lines = [f"| sizes | rule | {columns} |", "|---|---|" + "--:|" * len(shown)]
    rules = {None: "paper", ALPHAS[0]: "ours"}
    for shape in SHAPES:
        for alpha, rule in rules.items():
            cells = [_cell(row) for row in rows if (row.shape, row.alpha) == (shape, alpha) and row.labels in shown]
            lines.append(f"| {shape} | {rule} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    return f"{row.infected:.3f}" + (f" + {row.inconclusive:.3f}" if row.inconclusive else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000, help="clean models a cell (default 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the rows")
    parser.add_argument("--page", type=Path, help="Markdown page whose table is replaced")
    options = parser.parse_args()
    rows = [
        row for shape in SHAPES for labels in NUM_LABELS for row in measure(labels, shape, options.draws, options.seed)
    ]
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "command": f"python benchmarks/false_alarms.py --draws {options.draws} --seed {options.seed}",
            "versions": {"python": platform.python_version(), "numpy": np.__version__},
            "rows": [asdict(row) for row in rows],
        }
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.page is not None:
        written = options.page.read_text(encoding="utf-8")
        options.page.write_text(filled(written, {"false alarms": markdown(rows)}), encoding="utf-8")
    print(markdown(rows))


if __name__ == "__main__":
    main()
