"""Scan models with --pairs: are planted source-specific backdoors found, and are clean models accused?

    python benchmarks/pairs.py zoo/small --data DATA --rows benchmarks/results/pairs.jsonl --only none
    python benchmarks/pairs.py zoo/small --data DATA --rows benchmarks/results/pairs.jsonl --only source-specific
    python benchmarks/pairs.py zoo/small --data DATA --rows benchmarks/results/pairs.jsonl --budget 6000

A suite is what `neural-cleanse benchmark` takes; the scan sees the test images. One JSON row a model and budget (image
passes a label for the pairs); what is there already is not done again. `--budget 6000` is half of what all pairs of ten
labels take, so that a reference is drawn, the others get a few steps, and finalists are chosen.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.benchmark import Case, open_case, read_suite, surroundings
from neural_cleanse.pairs import PairPlan
from neural_cleanse.scan import ScanSettings, scan

NEAREST = 3  # pairs beside those flagged that a row names
SEED = 0


def row(case: Case, budget: int) -> dict[str, Any]:
    """Scan one model with all pairs."""
    settings = ScanSettings(pairs=True, seed=SEED)
    loaded, test = open_case(case, at_most=None)
    began = time.process_time()
    result = scan(loaded.classifier, test, settings, pair_plan=PairPlan(passes_per_label=budget))
    planted = [
        [source, poison["targets"]]
        for poison in case.card.get("poisons", ())
        if poison["sources"] is not None and isinstance(poison["targets"], int)
        for source in poison["sources"]
    ]
    ranked = sorted((one for one in result.pair_rows if one.p_value is not None), key=lambda one: one.p_value or 0.0)
    return {
        "model": case.name,
        "dataset": case.card["dataset"],
        "architecture": case.card["architecture"],
        "attack": case.card["attack"],
        "weak": case.card.get("weak", False),
        "planted": planted,
        "budget": budget,
        "verdict": result.verdict.value,
        "flagged_labels": [pair.target for pair in result.accused if pair.source is None],
        "flagged_pairs": [[pair.source, pair.target] for pair in result.accused if pair.source is not None],
        "p_value": result.p_value,
        "nearest": [
            {"source": one.source, "target": one.target, "size": round(one.size or 0.0, 2), "p": one.p_value}
            for one in ranked[:NEAREST]
        ],
        "pairs": {
            name: result.provenance.settings["pair_search"][name] for name in ("all_steps", "few_steps", "untried")
        },
        "image_passes": result.image_passes,
        "pair_passes": sum(one.image_passes for one in result.pair_rows),
        "cpu_s": round(time.process_time() - began, 1),
        "wall_s": round(result.wall_s, 1),
        "model_sha256": loaded.origin.sha256,
        "seed": SEED,
        "samples": settings.samples,
        "alpha": settings.alpha,
    }


def run(cases: Sequence[Case], rows: Path, budget: int) -> Iterator[dict[str, Any]]:
    """Every row that the file lacks, written as it is done."""
    known = set()
    if rows.exists():
        for line in rows.read_text(encoding="utf-8").splitlines():
            done = json.loads(line)
            known.add((done["model_sha256"], done["budget"]))
    for case in cases:
        if (hashlib.sha256(case.model.read_bytes()).hexdigest(), budget) in known:
            continue
        done = row(case, budget) | surroundings()
        with rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done, allow_nan=False) + "\n")
        yield done


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--only", default="", help="part of the models' names")
    parser.add_argument("--budget", type=int, default=PairPlan().passes_per_label)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cases = [case for case in read_suite(given.suite, given.data) if given.only in case.name]
    for done in run(cases, given.rows, given.budget):
        print(done["model"], done["planted"], done["verdict"], done["flagged_pairs"], done["p_value"], flush=True)


if __name__ == "__main__":
    main()
