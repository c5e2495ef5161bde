"""How much faster a scan is than the authors' schedule run one label at a time, on the same model and images.

    python benchmarks/against_reference.py --cards CARDS --models MODELS --data DATA --name NAME --labels 2 \\
        --output benchmarks/results/against_reference.jsonl [--allow-code] [--without-scan]

Processor seconds of one thread, which a busy machine does not change much: a whole scan for patches and one for every
kind of trigger, with their input checks, then the reference preset on the first `--labels` labels, each for itself. The
reference's cost of all labels is extrapolated from these. With `--without-scan` only the reference is run: its image
passes can be compared with those of a scan that is recorded elsewhere. `benchmarks/tables.py` makes the table.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.allocator import keep_freed_memory
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.evaluation.suite import open_case, read_suite, run_info
from neural_cleanse.report.tables import Table
from resumable import add

SCANS = {"patches": ScanSettings(patches_only=True), "every_kind": ScanSettings()}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a model that was scanned."""
    columns = ("model", "labels", "passes a label, reference", "patches", "ratio", "every kind", "ratio ")
    lines = [
        [row["model"], str(row["labels"]), f"{row['reference_passes_a_label']:,.0f}"]
        + [
            cell
            for scan in (row[name] for name in SCANS)
            for cell in (f"{scan['verdict']}, {scan['passes_a_label']:,.0f}", f"{scan['ratio']:.0f}")
        ]
        for row in rows
        if all(name in row for name in SCANS)
    ]
    return Table("", columns, lines, frozenset(columns[1:])).markdown()


def ratios(scan: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Of each model that was scanned so, in their order, in words."""
    return " and ".join(f"{row[scan]['ratio']:.0f}" for row in rows if scan in row)


def main() -> None:
    """Time both, and add a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("cards", "models", "data", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--labels", type=int, default=2)
    parser.add_argument("--allow-code", action="store_true")
    parser.add_argument("--without-scan", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    cases = read_suite(options.cards, options.data, models=options.models, allow_code=options.allow_code)
    case = next(case for case in cases if case.name == options.name)
    loaded, data = open_case(case, at_most=1000)
    num_labels = loaded.classifier.num_classes

    def timed(settings: ScanSettings) -> tuple[float, int, str]:
        began = time.process_time()
        result = scan(loaded.classifier, data, settings)
        return time.process_time() - began, result.image_passes, result.verdict.value

    scans = {} if options.without_scan else {name: timed(settings) for name, settings in SCANS.items()}
    single = [timed(ScanSettings(preset="reference", labels=(label,))) for label in range(options.labels)]
    reference_s = sum(one[0] for one in single) / len(single)
    row = {
        "model": case.name,
        "infected": case.card["infected"],
        "labels": num_labels,
        "seed": 0,
        "reference_labels": len(single),
        "reference_s_a_label": reference_s,
        "reference_passes_a_label": sum(one[1] for one in single) / len(single),
        "threads": 1,
    } | run_info()
    for name, (seconds, passes, verdict) in scans.items():
        row[name] = {
            "verdict": verdict,
            "s_a_label": seconds / num_labels,
            "passes_a_label": passes / num_labels,
            "ratio": reference_s * num_labels / seconds,
        }
    add(row, options.output)
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
