"""How far a planted trigger stands out after so many steps where labels are many: see docs/many-labels.md.

    python benchmarks/early_steps.py --data DATA --models MODELS --rows benchmarks/results/early_steps.jsonl

The published network with 1,283 faces (benchmarks/published, csaw-youtube-sunglasses), its infected label against
others drawn at random, one restart.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from neural_cleanse.evaluation.suite import open_case, read_suite, run_info
from neural_cleanse.images import balanced
from neural_cleanse.inversion.batching import BatchScheduler
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.memory import BatchLimit
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.metrics import predict
from neural_cleanse.results.records import LabelPair

MODEL, INFECTED, OTHERS, SEED = "csaw-youtube-sunglasses", 0, 95, 0
STEPS = (30, 60, 100, 150, 250)
AT_ONCE = 24  # labels: the states between two numbers of steps stay in memory


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--data", "--models", "--rows"):
        parser.add_argument(name, type=Path, required=True)
    given = parser.parse_args()
    suite = Path(__file__).parent / "published"
    cases = read_suite(suite, given.data, models=given.models, allow_code=True)
    (case,) = [case for case in cases if case.name == MODEL]
    loaded, found = open_case(case, at_most=None)
    classifier, different = loaded.classifier, found.distinct()
    chosen = different.take(balanced(predict(classifier, different.images), 1000, SEED))
    images = ScanImages.of(classifier, chosen, SEED)
    drawn = np.random.default_rng(SEED).permutation(np.arange(1, classifier.num_classes))[:OTHERS].tolist()
    labels = [INFECTED, *drawn]
    sizes: dict[int, dict[int, float | None]] = {steps: {} for steps in STEPS}
    inversion = Inversion(restarts=1)
    for first in range(0, len(labels), AT_ONCE):
        slots = BatchScheduler(classifier, images, BatchLimit(128), lambda _: True)
        pairs = [LabelPair(label) for label in labels[first : first + AT_ONCE]]
        for steps in STEPS:
            for one in slots(replace(inversion, steps=steps), pairs, resume=True):
                sizes[steps][one.pair.target] = one.size
    with given.rows.open("a", encoding="utf-8") as file:
        for steps in STEPS:
            others = np.log([size for label, size in sizes[steps].items() if label != INFECTED and size is not None])
            mine = sizes[steps][INFECTED]
            spread = float(others.std(ddof=1)) * float(np.sqrt(1 + 1 / len(others)))
            row = {
                "model": MODEL,
                "steps": steps,
                "passes_a_label": steps * inversion.batch_size,
                "infected_px": mine,
                "smallest_other_px": float(np.exp(others.min())),
                "median_other_px": float(np.exp(np.median(others))),
                "sd_of_log_sizes": float(others.std(ddof=1)),
                "t": None if mine is None else float(others.mean() - np.log(mine)) / spread,
                "others_reached": len(others),
                "others": OTHERS,
                "seed": SEED,
                **run_info(),
            }
            print(row)
            file.write(json.dumps(row, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
