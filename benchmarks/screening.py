"""How telling sizes are after few steps: every label's size on the way, and what the outlier test makes of it.

    python benchmarks/screening.py --zoo zoo/small --data DATA --output benchmarks/results/screening.jsonl
    python benchmarks/screening.py --output benchmarks/results/screening.jsonl --table

Models of the choosing part only, with the images, starts and restarts of a scan under default settings, so that the
sizes at 250 steps are those of `scan --plan full`. A row is one model; what is there is not run again.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.detection.statistics.outlier import outlier_test
from neural_cleanse.evaluation.suite import open_case, read_suite, run_info
from neural_cleanse.evaluation.zoo import part_of
from neural_cleanse.images import balanced
from neural_cleanse.inversion.batching import BatchScheduler
from neural_cleanse.inversion.memory import BatchLimit
from neural_cleanse.inversion.presets import preset
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.results.records import LabelPair
from resumable import add, rows_in

STEPS = (40, 60, 80, 100, 125, 150, 200, 250)
SEED, IMAGES, ALPHA, BATCH_IMAGES = 0, 1000, 0.01, 128

Row = dict[str, Any]


def p_value(row: Row, steps: int) -> float:
    """Of the model after so many steps; 1 where too few labels have a size."""
    sizes = [size for size in row["sizes"][str(steps)] if size is not None]
    return outlier_test(sizes, ALPHA).p_value if len(sizes) >= 3 else 1.0


def flagged(row: Row, steps: int, share: float = 1.0) -> tuple[int, ...]:
    """Positions of the labels that are flagged, where all of them have a p of at most that share of alpha."""
    known = [(target, size) for target, size in enumerate(row["sizes"][str(steps)]) if size is not None]
    if len(known) < 3:
        return ()
    test = outlier_test([size for _, size in known], ALPHA)
    if test.tail_holds is False or any(test.p_values[index] > share * ALPHA for index in test.flagged):
        return ()
    return tuple(sorted(known[index][0] for index in test.flagged))


def flags(rows: list[Row]) -> str:
    """A line for each level that screening might flag at: how many it settles, how often all steps say otherwise."""
    lines = [
        "| steps | flags at alpha times | of those that all steps flag | with other labels | clean flagged |",
        "|--:|--:|--:|--:|--:|",
    ]
    found = [row for row in rows if flagged(row, 250)]
    for steps, share in ((60, 1.0), (60, 0.1), (80, 1.0), (80, 0.1), (80, 0.01)):
        settled = [row for row in rows if flagged(row, steps, share)]
        same = sum(flagged(row, steps, share) == flagged(row, 250) for row in settled)
        clean = sum(not row["infected"] for row in settled)
        both = sum(row in found for row in settled)
        lines.append(f"| {steps} | {share:g} | {both} of {len(found)} | {len(settled) - same} | {clean} |")
    return "\n".join(lines)


def markdown(rows: list[Row]) -> str:
    """A line for each number of steps: the infected models whose labels can be found by size, and the clean ones."""
    one_label = [row for row in rows if len(row["targets"]) == 1 and "source-specific" not in row["model"]]
    strong = [row for row in one_label if row["infected"] and not row["weak"]]
    clean = [row for row in rows if not row["infected"]]
    found = [row for row in strong if p_value(row, 250) <= ALPHA]
    lines = [
        "| steps | image passes a label | labels without a size, mean | infected: p, median | largest "
        "| clean: p, smallest | clean: at least .2 | median size of clean, share of the image |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for steps in STEPS:
        ps, others = [p_value(row, steps) for row in found], [p_value(row, steps) for row in clean]
        have = [row for row in rows if str(steps) in row["sizes"]]
        without = statistics.mean(sum(size is None for size in row["sizes"][str(steps)]) for row in have)
        shares = [size / row["area"] for row in clean for size in row["sizes"][str(steps)] if size is not None]
        lines.append(
            f"| {steps} | {steps * 12:,} | {without:.1f} | {statistics.median(ps):.1g} | {max(ps):.2g} | "
            f"{min(others):.2g} | {sum(p >= 0.2 for p in others)} of {len(others)} | {statistics.median(shares):.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    done = rows_in(options.output)
    if options.table:
        digits = [row for row in done if row["area"] == 784]
        print(markdown(digits), flags(digits), sep="\n\n")
        return
    torch.set_num_threads(1)
    around = {key: value for key, value in run_info().items() if key in ("hardware", "commit")}
    for case in read_suite(options.zoo, options.data):
        if part_of(case.name) != "choosing" or case.name in {row["model"] for row in done}:
            continue
        loaded, data = open_case(case, at_most=IMAGES)
        different = data.distinct()
        assert different.labels is not None
        sampled = different.take(balanced(different.labels, IMAGES, SEED))
        classifier = loaded.classifier
        slots = BatchScheduler(classifier, ScanImages.of(classifier, sampled, SEED), BatchLimit(BATCH_IMAGES))
        pairs = [LabelPair(target) for target in range(classifier.num_classes)]
        inversion = preset("default")
        sizes = {}
        for steps in STEPS:
            found = {one.pair: one.size for one in slots(replace(inversion, steps=steps), pairs, True)}
            sizes[str(steps)] = [found[pair] for pair in pairs]
        truth = {key: case.card.get(key) for key in ("infected", "weak", "targets")}
        area = classifier.input_shape[1] * classifier.input_shape[2]
        row = (
            {"model": case.name, "seed": SEED, "restarts": inversion.restarts} | truth | {"area": area, "sizes": sizes}
        )
        add(row | around, options.output)


if __name__ == "__main__":
    main()
