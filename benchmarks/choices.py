"""What each choice of the default preset is worth: the table of docs/design-notes.md.

    python benchmarks/choices.py --data DATA --output benchmarks/results [--models DIR]

Each line changes one setting of the default at the same image passes. Sizes are held against the reference's of
compare.json (written by presets.py) at its mean success rate on held-out images, by interpolation between levels of
`choose_asr`: a ratio of 1.1 says 10 % larger than after the authors' schedule.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.detection.statistics.outlier import outlier_test
from neural_cleanse.evaluation.suite import run_info
from neural_cleanse.inversion.inversion import Inversion
from presets import CASES, SEED, TrainingContext, finish, invert, open_case

LEVELS = (0.90, 0.93, 0.95, 0.97, 0.98)
MODEL = "mnist_badnets4_target4_seed0"
VARIANTS = {
    "default: 3 restarts of 250 steps of 4 images": Inversion(),
    "one restart with all the passes": Inversion(restarts=1, steps=750),
    "62 steps of 16 images": Inversion(batch_size=16, steps=62),
    "125 steps of 8 images": Inversion(batch_size=8, steps=125),
    "500 steps of 2 images": Inversion(batch_size=2, steps=500),
    "no averaging": Inversion(average=0.0),
    "longer averaging (0.95)": Inversion(average=0.95),
    "learning rate 0.1": Inversion(learning_rate=0.1),
    "learning rate 0.4": Inversion(learning_rate=0.4),
    "momentum 0.9, 0.99": Inversion(betas=(0.9, 0.99)),
    "no momentum": Inversion(betas=(0.0, 0.9)),
}


def measure(bench: TrainingContext, inversion: Inversion, reference: list[float], asr: float) -> dict[str, Any]:
    """Median size ratio at the reference's success rate, and how far the true target stands out."""
    every = range(bench.classifier.num_classes)
    states, wall_s = invert(bench, inversion, every)
    curve = []
    for level in LEVELS:
        found = finish(bench, replace(inversion, choose_asr=level), states)
        ratios = [r.size / size for r, size in zip(found, reference, strict=True) if r.size is not None]
        if len(ratios) < 0.8 * len(found):
            continue
        rate = statistics.mean(bench.held_out_asr(r) for r in found)
        curve.append((rate, statistics.median(ratios)))
    found = finish(bench, inversion, states)
    sized = [(r.pair.target, r.size) for r in found if r.size is not None]
    p_value = outlier_test([size for _, size in sized], 0.01).p_value if len(sized) > 2 else None
    return {
        "passes_a_label": inversion.passes,
        "size_ratio_at_reference_asr": _at(sorted(curve), asr),
        "target_px": dict(sized).get(bench.case.target),
        "labels_with_size": len(sized),
        "p_value": p_value,
        "curve": [(round(rate, 4), round(ratio, 3)) for rate, ratio in curve],
        "wall_s": round(wall_s, 1),
    }


def _at(curve: list[tuple[float, float]], asr: float) -> float | None:
    """The ratio at that success rate, linearly between its neighbours; the end of the curve where it lies beyond."""
    if not curve:
        return None
    below = [point for point in curve if point[0] <= asr] or curve[:1]
    above = [point for point in curve if point[0] > asr] or curve[-1:]
    (x0, y0), (x1, y1) = below[-1], above[0]
    return round(y0 if x1 == x0 else y0 + (asr - x0) / (x1 - x0) * (y1 - y0), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=Path("out/models"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    compared = {row["model"]: row for row in json.loads((options.output / "compare.json").read_text())}[MODEL]
    asr = statistics.mean(compared["reference"]["held_out_asr"])
    bench = open_case(next(case for case in CASES if case.name == MODEL), options.data, options.models)
    rows = []
    for name, inversion in VARIANTS.items():
        rows.append({"variant": name} | measure(bench, inversion, compared["reference"]["sizes"], asr))
        print(json.dumps(rows[-1]), flush=True)
    record = {"model": MODEL, "reference_held_out_asr": round(asr, 4), "rows": rows} | run_info() | {"seed": SEED}
    (options.output / "choices.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
