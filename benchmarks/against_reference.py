"""How much faster a default scan is than the authors' schedule run one label at a time, on the same model and images.

    python benchmarks/against_reference.py --cards CARDS --models MODELS --data DATA --name NAME --labels 2 \\
        --output benchmarks/results/against_reference.jsonl [--allow-code] [--without-scan]

Processor seconds of one thread, which a busy machine does not change much: a whole default scan, its input check and
choosing included, then the reference preset on the first `--labels` labels, each for itself. The reference's cost of
all labels is extrapolated from these. With `--without-scan` only the reference is run: its image passes
can be compared with those of a scan that is recorded elsewhere.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from neural_cleanse.allocator import keep_freed_memory
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.evaluation.suite import open_case, read_suite, run_info
from resumable import add


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

    ours = None if options.without_scan else timed(ScanSettings())
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
    if ours is not None:
        seconds, passes, verdict = ours
        row |= {
            "verdict": verdict,
            "scan_s_a_label": seconds / num_labels,
            "scan_passes_a_label": passes / num_labels,
            "ratio": reference_s * num_labels / seconds,
        }
    add(row, options.output)
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
