"""How sizes and success rates come about during a search: rows that other size statistics can be tried on.

    python benchmarks/trajectories.py --zoo zoo/small --data DATA --output benchmarks/results/trajectories.jsonl \\
        [--runs "trajectory,batch 2,batch 8,batch 16"]

Models of the choosing part only, with the images and starts of a scan under default settings, so that `trajectory`
holds that scan itself: at 250 steps the median of its three restarts is the size in scans_small.jsonl. A row is one
model and run; what is there is not run again. Every list is by label, then by restart:

sizes, hits     every 25 steps, the moving average of the trigger: its size in px, and how many of the choose images of
                other classes (`trials`) it sends to the label
chosen          after so many steps, for each of LEVELS: the smallest kept trigger with that success on the choose
                images, null for none. `more` has it for two further restarts at 150 steps, and for the first restart
                alone at 750 steps: five restarts of 150 steps, three of 250 and one of 750 cost the same
cut             of the moving average at 250 steps, its largest mask values up to a sum of so many px, and their hits
                on the choose and confirm images (`cut_trials`)
batch b         `chosen` at the end of three restarts with b images a step, at the same passes
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.evaluation.suite import Case, read_rows, read_suite, run_info
from neural_cleanse.evaluation.zoo import part_of
from neural_cleanse.images import balanced
from neural_cleanse.inversion.batch_size import BATCH_IMAGES
from neural_cleanse.inversion.inversion import Inversion, InversionState
from neural_cleanse.inversion.sampling import ScanImages, Split
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.loading.load import load_model
from neural_cleanse.metrics import attack_hits
from neural_cleanse.results.records import LabelPair
from neural_cleanse.triggers.patch import PatchTrigger

SEED, IMAGES = 0, 1000
EVERY, STEPS = 25, 250
LEVELS = (0.90, 0.95, 0.99)  # ascending
CHOSEN_AT = (50, 100, 150, 250)
CUTS = (16, 32, 64)  # px of mask
FIVE, FIVE_STEPS, LONG = 5, 150, (750,)
BATCHES = {"batch 2": (2, 500), "batch 8": (8, 125), "batch 16": (16, 62)}  # images and steps of one restart
RUNS = ("trajectory", *BATCHES)


class TrainingContext:
    """A model and the images it is scanned with, as `scan` draws them."""

    def __init__(self, case: Case) -> None:
        data = load_data(case.images, at_most=IMAGES, seed=SEED).distinct()
        assert data.labels is not None
        self.classifier: Classifier = load_model(case.model).classifier
        self.images = ScanImages.of(self.classifier, data.take(balanced(data.labels, IMAGES, SEED)), SEED)
        self.pairs = [LabelPair(label) for label in range(self.classifier.num_classes)]
        self.choose = {pair: self._images(pair, Split.SELECT) for pair in self.pairs}
        self.judge = {
            pair: torch.cat([self.choose[pair], self._images(pair, Split.TEST)]) for pair in self.pairs
        }  # what the search has not seen

    def _images(self, pair: LabelPair, part: Split) -> Tensor:
        return self.images.images[self.images.eligible(pair, part)]

    def hits(self, trigger: PatchTrigger, pair: LabelPair, images: Tensor) -> int:
        """How many of those images the trigger sends to the pair's label."""
        return attack_hits(self.classifier, trigger, images, pair.target)


def trajectory(bench: TrainingContext) -> dict[str, Any]:
    """The default's three restarts, looked at on the way; two more restarts, and the first one three times as long."""
    inversion = Inversion(restarts=FIVE)
    start = inversion.start(bench.classifier, bench.pairs, SEED)
    parts = [[i for i, row in enumerate(start.rows) if (row.restart < 3) is first] for first in (True, False)]
    state, more = start.take(parts[0]), start.take(parts[1])
    sizes, hits, chosen = [], [], {}
    for step in range(EVERY, STEPS + 1, EVERY):
        state = inversion.advance(bench.classifier, bench.images, state, EVERY)
        seen = averages(state)
        sizes.append(nested(state, [round(trigger.size().item(), 2) for trigger in seen]))
        hits.append(
            nested(
                state,
                [
                    bench.hits(trigger, row.pair, bench.choose[row.pair])
                    for trigger, row in zip(seen, state.rows, strict=True)
                ],
            )
        )
        if step in CHOSEN_AT:
            chosen[str(step)] = nested(state, list(at_levels(bench, state)))
    cut = nested(state, [cuts(bench, t, row.pair) for t, row in zip(averages(state), state.rows, strict=True)])
    more = inversion.advance(bench.classifier, bench.images, more, FIVE_STEPS)
    longer, long = {}, state.take([i for i, row in enumerate(state.rows) if row.restart == 0])
    for before, step in zip((STEPS, *LONG), LONG, strict=False):
        long = inversion.advance(bench.classifier, bench.images, long, step - before)
        longer[str(step)] = nested(long, list(at_levels(bench, long)))
    return {
        "every": EVERY,
        "trials": [len(bench.choose[pair]) for pair in bench.pairs],
        "sizes": sizes,
        "hits": hits,
        "chosen": chosen,
        "more": {str(FIVE_STEPS): nested(more, list(at_levels(bench, more)))} | longer,
        "cuts": list(CUTS),
        "cut": cut,
        "cut_trials": [len(bench.judge[pair]) for pair in bench.pairs],
    }


def batches(bench: TrainingContext, batch_size: int, steps: int) -> dict[str, Any]:
    """Three restarts with other batches, at the same image passes, as many labels at once as a scan takes."""
    inversion = Inversion(batch_size=batch_size, steps=steps)
    group = max(1, BATCH_IMAGES["cpu"] // batch_size // inversion.restarts)
    chosen = []
    for first in range(0, len(bench.pairs), group):
        start = inversion.start(bench.classifier, bench.pairs[first : first + group], SEED)
        state = inversion.advance(bench.classifier, bench.images, start, steps)
        chosen += nested(state, list(at_levels(bench, state)))
    return {"chosen": {str(steps): chosen}}


def averages(state: InversionState) -> list[PatchTrigger]:
    """The moving average of each row."""
    return [PatchTrigger.decode([v[i : i + 1] for v in state.averaged]) for i in range(len(state.rows))]


def at_levels(bench: TrainingContext, state: InversionState) -> Iterator[list[float | None]]:
    """For each row: the smallest size kept that holds at each level, from the smallest kept trigger upwards."""
    for index, row in enumerate(state.rows):
        images, sizes = bench.choose[row.pair], state.candidate_sizes[index]
        found: list[float | None] = [None] * len(LEVELS)
        for slot in sizes.argsort()[: int(sizes.isfinite().sum())].tolist():
            trigger = PatchTrigger.decode([v[index, slot].unsqueeze(0) for v in state.candidates])
            success = bench.hits(trigger, row.pair, images) / len(images)
            for position, level in enumerate(LEVELS):
                if found[position] is None and success >= level:
                    found[position] = round(sizes[slot].item(), 3)
            if found[-1] is not None:
                break
        yield found


def cuts(bench: TrainingContext, trigger: PatchTrigger, pair: LabelPair) -> list[int]:
    """Hits of the mask's largest values, up to a sum of so many px, the last one in part."""
    values, order = trigger.mask.flatten().sort(descending=True)
    hits = []
    for mass in CUTS:
        kept = torch.zeros_like(values)
        kept[order] = (mass - (values.cumsum(0) - values)).clamp(min=0).minimum(values)
        hits.append(bench.hits(PatchTrigger(kept.view_as(trigger.mask), trigger.pattern), pair, bench.judge[pair]))
    return hits


def nested(state: InversionState, values: Sequence[Any]) -> list[list[Any]]:
    """Values of the rows, in a list a label; rows lie label by label."""
    by_label: dict[LabelPair, list[Any]] = {}
    for row, value in zip(state.rows, values, strict=True):
        by_label.setdefault(row.pair, []).append(value)
    return list(by_label.values())


def measure(bench: TrainingContext, run: str) -> dict[str, Any]:
    """One run on one model."""
    return trajectory(bench) if run == "trajectory" else batches(bench, *BATCHES[run])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--runs", default=",".join(RUNS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {(row["model"], row["settings"]["run"]) for row in read_rows(options.output)}
    cases = [case for case in read_suite(options.zoo, options.data) if part_of(case.name) == "choosing"]
    around = run_info()
    for run in options.runs.split(","):
        for case in cases:
            if (case.name, run) in done or case.card["weak"]:
                continue
            began = time.monotonic()
            keys = ("infected", "weak", "attack", "options", "targets", "dataset", "architecture")
            row: dict[str, Any] = {
                "model": case.name,
                "part": part_of(case.name),
                "settings": {"run": run, "seed": SEED, "samples": IMAGES},
                "truth": {key: case.card[key] for key in keys},
                "model_sha256": case.card["model_sha256"],
            }
            row |= measure(TrainingContext(case), run)
            row |= {"wall_s": round(time.monotonic() - began, 1)} | around
            with options.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
            print(f"{run}: {case.name} {row['wall_s']} s", flush=True)


if __name__ == "__main__":
    main()
