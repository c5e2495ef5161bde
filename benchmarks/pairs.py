"""Scan models with --pairs: are planted source-specific backdoors found, and are clean models flagged?

    python benchmarks/pairs.py zoo/small --data DATA --rows benchmarks/results/pairs.jsonl --only none
    python benchmarks/pairs.py zoo/small --data DATA --rows benchmarks/results/pairs.jsonl --only source-specific
    python benchmarks/pairs.py zoo/small --data DATA --rows benchmarks/results/pairs.jsonl --budget 6000

A suite is what `neural-cleanse benchmark` takes; the scan sees 1000 of the test images, or 40 a label if that is more.
One JSON row a model and budget (image passes a label for the pairs); what is there already is not done again. `--budget
6000` is half of what all pairs of ten labels take, so that a reference is drawn, the others get a few steps, and
finalists are chosen. `--page` writes the tables of docs/evaluation.md from the rows.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.detection.pairs import PairPlan
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.evaluation.suite import Case, open_case, read_suite, run_info
from neural_cleanse.report.tables import Table
from pages import filled
from resumable import add, lacking

NEAREST = 3  # pairs beside those flagged that a row names
SEED = 0
IMAGES_A_LABEL = 40  # a pair needs 30 images of its source


def row(case: Case, budget: int) -> dict[str, Any]:
    """Scan one model with all pairs."""
    loaded, test = open_case(case, at_most=None)
    samples = max(ScanSettings().samples, IMAGES_A_LABEL * loaded.classifier.num_classes)
    settings = ScanSettings(pairs=True, seed=SEED, samples=samples)
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
        "flagged_labels": [pair.target for pair in result.flagged_pairs if pair.source is None],
        "flagged_pairs": [[pair.source, pair.target] for pair in result.flagged_pairs if pair.source is not None],
        "p_value": result.p_value,
        "reason": result.reason,
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


def tables(rows: Path) -> str:
    """One line a data set, kind of model and budget: how many planted pairs were found, how many models flagged."""
    done = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    groups: dict[tuple[int, str, str], list[dict[str, Any]]] = {}
    for one in done:
        kind = "weak" if one["weak"] else "planted" if one["planted"] else "clean"
        groups.setdefault((one["budget"], kind, one["dataset"]), []).append(one)
    columns = ("data", "models", "budget a label", "pair found", "flagged", "verdicts", "p", "passes of pairs", "CPU s")
    lines = [
        [dataset, kind, f"{budget:,}", *_cells(groups[budget, kind, dataset])]
        for budget, kind, dataset in sorted(groups)
    ]
    return Table("", columns, lines, frozenset(columns[6:])).markdown()


def _cells(group: Sequence[dict[str, Any]]) -> list[str]:
    exact = sum(one["flagged_pairs"] == one["planted"] for one in group)
    flagged = sum(bool(one["flagged_pairs"] or one["flagged_labels"]) for one in group)
    verdicts = ", ".join(f"{count} {name}" for name, count in Counter(one["verdict"] for one in group).items())
    return [
        f"{exact} of {len(group)}" if group[0]["planted"] else "",
        f"{flagged} of {len(group)}",
        verdicts,
        _range([f"{one['p_value']:.2g}" for one in sorted(group, key=lambda one: one["p_value"])]),
        f"{statistics.median(one['pair_passes'] for one in group):,.0f}",
        f"{statistics.median(one['cpu_s'] for one in group):.0f}",
    ]


def _range(values: Sequence[str]) -> str:
    return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def page(text: str, rows: Path) -> str:
    """The page with its tables written anew."""
    return filled(text, {"pairs": tables(rows)})


def run(cases: Sequence[Case], rows: Path, budget: int) -> Iterator[dict[str, Any]]:
    """Every row that the file lacks, written as it is done."""
    for case in lacking(cases, rows, budget):
        done = row(case, budget) | run_info()
        add(done, rows)
        yield done


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--only", default="", help="part of the models' names")
    parser.add_argument("--budget", type=int, default=PairPlan().passes_per_label)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cases = [case for case in read_suite(given.suite, given.data) if given.only in case.name]
    for done in run(cases, given.rows, given.budget):
        print(done["model"], done["planted"], done["verdict"], done["flagged_pairs"], done["p_value"], flush=True)
    if given.page is not None:
        given.page.write_text(page(given.page.read_text(encoding="utf-8"), given.rows), encoding="utf-8")


if __name__ == "__main__":
    main()
