"""Neural Cleanse (Wang et al., S&P 2019) again, table by table: the rows of docs/reproduction.md on MNIST.

    python benchmarks/reproduce.py --data DATA --models out/reproduce/models --rows benchmarks/results/reproduce.jsonl
    python benchmarks/reproduce.py --data DATA --models out/reproduce/models --rows out/reproduce/quick.jsonl \\
        --quick --compare benchmarks/results/reproduce.jsonl

The models are those of benchmarks/zoo/reproduction.toml; what is missing is trained first. A row is one model searched
in one way, by `default` (a default scan) or by `reference` (the authors' schedule, all labels): verdict, sizes, rank of
the infected label after every step, and for one trigger of one label what the recovered trigger is good for:
activations (Table III), input filter (Figure 8), pruning. On GTSRB, whose scans are recorded elsewhere, only the
infected label is searched, by the default (`target`). What is there already is not made again.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.allocator import keep_freed_memory
from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.prepare import PreparedScan, prepare
from neural_cleanse.detection.progress import Work
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.engines import InProcess
from neural_cleanse.evaluation.suite import Case, open_case, read_suite, rounded, run_info
from neural_cleanse.evaluation.zoo import BuildJob, build, read_spec
from neural_cleanse.images import ImageSet, balanced
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.inversion.state import InversionState
from neural_cleanse.mitigation.base import Backdoor, known_backdoors
from neural_cleanse.results.records import LabelPair, Recovered
from repairs import SEED, originals
from reproduce_mechanism import mechanism
from reproduce_rows import comparison
from resumable import add, rows_in

SPEC = Path(__file__).parent / "zoo" / "reproduction.toml"
START = "mnist-mnist_cnn-"
MAIN = tuple(
    f"{START}{name}"
    for name in ("badnets-seed10", "noise-size5-seed10", "trojan-square-seed10", "trojan-watermark-seed10")
)
SIGNS = tuple(f"gtsrb-gtsrb_cnn_half-{name}-seed10" for name in ("badnets", "trojan-square"))
HARD = tuple(f"{START}{name}" for name in ("badnets-size16-seed1", "badnets-size12-seed1", "many-labels-count4-seed0"))
QUICK = ((MAIN[0], "default"), (f"{START}none-seed11", "default"), (MAIN[0], "reference"))
# The authors' schedule takes some minutes a model on one core: of these models alone, in this order.
REFERENCE = (
    HARD[1], MAIN[2], f"{START}none-seed11", MAIN[3], MAIN[1], HARD[2], HARD[0],
)  # fmt: skip
RANKS_KEPT = 150  # steps of which the rank is recorded
# Test images that no search saw: so many to measure on, and to fit filters and rank neurons with.
FRESH, CALM = {"mnist": 4000, "gtsrb": 2000}, {"mnist": 5000, "gtsrb": 3000}

Row = dict[str, Any]


def work(names: Sequence[str], quick: bool) -> list[tuple[str, str]]:
    """Model and way of every row, in the order in which they are made."""
    if quick:
        return list(QUICK)
    first = [(name, "default") for name in (*MAIN, *HARD)] + [(REFERENCE[0], "reference"), (SIGNS[0], "target")]
    rest = [(name, "default") for name in names if name not in SIGNS]
    rest += [(name, "reference") for name in REFERENCE] + [(name, "target") for name in SIGNS]
    return list(dict.fromkeys([*QUICK, *first, *rest]))


def sizes_now(inversion: Inversion, state: InversionState) -> dict[LabelPair, float]:
    """The size of the mask as it is, in px: the smallest over the restarts of each pair."""
    now: dict[LabelPair, float] = {}
    for row, size in zip(state.rows, inversion.trigger.size_of(state.free).tolist(), strict=True):
        now[row.pair] = min(size, now.get(row.pair, float("inf")))
    return now


def step_by_step(
    classifier: Classifier, images: ScanImages, inversion: Inversion, pairs: Sequence[LabelPair]
) -> tuple[list[Recovered], list[dict[LabelPair, float]]]:
    """Search all pairs together, a step at a time: the records, and every pair's size after each step.

    A pair that is done leaves the batch and keeps its last size. Rows never mix, so that records are those of a scan.
    """
    whole = inversion.steps * inversion.batches_per_step
    state: InversionState | None = inversion.start(classifier, pairs, images.seed)
    found: list[Recovered] = []
    track: list[dict[LabelPair, float]] = []
    while state is not None:
        state = inversion.advance(classifier, images, state, 1)
        track.append((track[-1] if track else {}) | sizes_now(inversion, state))
        over = (state.cost.done | (state.batches >= whole)).tolist()
        busy = {row.pair for row, done in zip(state.rows, over, strict=True) if not done}
        ended = [index for index, row in enumerate(state.rows) if row.pair not in busy]
        if ended:
            found += inversion.finish(classifier, images, state.take(ended))
            going = [index for index, row in enumerate(state.rows) if row.pair in busy]
            state = state.take(going) if going else None
    return sorted(found, key=lambda one: one.pair), track


def _searched(classifier: Classifier, prepared: PreparedScan) -> tuple[list[Recovered], list[dict[LabelPair, float]]]:
    return step_by_step(classifier, prepared.images, prepared.inversion, prepared.pairs)


def ranks(track: Sequence[Mapping[LabelPair, float]], target: int) -> list[int]:
    """The place of that label among all by size, 1 for the smallest, after every step."""
    pair = LabelPair(target)
    return [1 + sum(size < sizes[pair] for size in sizes.values()) for sizes in track]


def first_for_good(places: Sequence[int]) -> int | None:
    """The step (from 1) after which the label is the smallest and stays so; None where it is not at the end."""
    step = len(places)
    while step and places[step - 1] == 1:
        step -= 1
    return step + 1 if step < len(places) else None


def _ranked(inversion: Inversion, track: Sequence[Mapping[LabelPair, float]], target: int) -> Row:
    places = ranks(track, target)
    return {
        "places": places[:RANKS_KEPT],
        "first_from": first_for_good(places),
        "steps": len(places),
        "images_a_step": inversion.batch_size * inversion.batches_per_step,
    }


def _reference(classifier: Classifier, data: ImageSet, target: int | None) -> tuple[Row, list[Backdoor]]:
    """The authors' schedule on every label, and what a scan of that preset decides on it."""
    settings = ScanSettings(preset="reference", seed=SEED)
    prepared = prepare(classifier, data, settings, Work(lambda _: None))
    found, track = _searched(classifier, prepared)
    decision = prepared.decide(found)
    row: Row = {
        "verdict": decision.verdict.value,
        "flagged": list(decision.flagged),
        "flagged_pairs": [],
        "p_value": decision.p_value,
        "paper_index": decision.paper_rule.anomaly_index,
        "paper_flagged": list(decision.paper_rule.flagged),
        "labels": [one.pair.target for one in found],
        "sizes": [rounded(one.size) for one in found],
        "asr": [rounded(one.hits / one.trials if one.trials else None) for one in found],
        "image_passes": sum(one.image_passes for one in found),
    }
    if target is not None:
        row["ranks"] = _ranked(prepared.inversion, track, target)
    return row, [Backdoor(one.pair, one.trigger) for one in found if one.trigger is not None and one.size is not None]


def _default(classifier: Classifier, data: ImageSet, target: int | None) -> tuple[Row, list[Backdoor]]:
    """A scan as a user gets it; ranks are of a search of its own, without screening."""
    settings = ScanSettings(seed=SEED)
    row, triggers = _scanned(classifier, data, settings)
    if target is not None:
        prepared = prepare(classifier, data, settings, Work(lambda _: None))
        row["ranks"] = _ranked(prepared.inversion, _searched(classifier, prepared)[1], target)
    return row, triggers


def _target(classifier: Classifier, data: ImageSet, target: int | None) -> tuple[Row, list[Backdoor]]:
    """The default search of the infected label alone."""
    assert target is not None, "models with one target"
    return _scanned(classifier, data, ScanSettings(seed=SEED, labels=(target,)))


def _scanned(classifier: Classifier, data: ImageSet, settings: ScanSettings) -> tuple[Row, list[Backdoor]]:
    result = scan(classifier, data, settings)
    row: Row = {
        "verdict": result.verdict.value,
        "flagged": list(result.flagged),
        "flagged_pairs": [[pair.source, pair.target] for pair in result.flagged_pairs if pair.source is not None],
        "p_value": result.p_value,
        "paper_index": result.paper_rule.anomaly_index,
        "paper_flagged": list(result.paper_rule.flagged),
        "labels": [one.target for one in result.label_rows],
        "sizes": [rounded(one.size) for one in result.label_rows],
        "asr": [rounded(one.asr) for one in result.label_rows],
        "image_passes": result.image_passes,
        "reason": result.reason,
    }
    return row, [one for one in known_backdoors(result, None) if one.pair.source is None]


WAYS = {"default": _default, "reference": _reference, "target": _target}


def row_of(case: Case, way: str) -> Row:
    """Search one model in one way, and try what was found."""
    loaded, test = open_case(case, at_most=None)
    assert test.labels is not None
    seen = balanced(test.labels, ScanSettings().samples, SEED)
    unseen = torch.ones(len(test), dtype=torch.bool)
    unseen[seen] = False
    dataset = str(case.card["dataset"])
    rows = unseen.nonzero().squeeze(1)
    fresh = test.take(rows[: FRESH[dataset]])
    calm = test.take(rows[FRESH[dataset] : FRESH[dataset] + CALM[dataset]])
    targets = list(case.card["targets"])
    single = targets[0] if len(targets) == 1 else None
    began, cpu = time.monotonic(), time.process_time()
    found, triggers = WAYS[way](loaded.classifier, test.take(seen), single)
    row = {
        "model": case.name,
        "way": way,
        "dataset": dataset,
        "architecture": case.card["architecture"],
        "attack": case.card["attack"],
        "options": case.card["options"],
        "targets": targets,
        "accuracy": round(case.card["clean_accuracy"], 4),
        "attack_success": [round(one["asr"], 4) for one in case.card["poisons"]],
        "trigger_px": [round(one["size"], 1) for one in case.card["poisons"]],
        "scan": found | {"wall_s": round(time.monotonic() - began, 1), "cpu_s": round(time.process_time() - cpu, 1)},
        "model_sha256": loaded.origin.sha256,
        "seed": SEED,
    }
    recovered = [one for one in triggers if one.pair.target == single]
    if case.name in (*MAIN, *SIGNS) and recovered:
        row |= mechanism(loaded.classifier, recovered[0], originals(case)[0], calm, fresh)
    return row


def run(jobs: Sequence[BuildJob], data: Path, models: Path, rows: Path, quick: bool) -> Iterator[Row]:
    """Every row that the file lacks, written as it is done; a model that is not there is trained first."""
    by_name = {job.name: job for job in jobs}
    known = {(done["model"], done["way"]) for done in rows_in(rows)}
    around = run_info()
    for name, way in work(list(by_name), quick):
        if (name, way) not in known:
            for built in build([by_name[name]], models, InProcess()):
                print(f"trained {name}", built.error or "", flush=True)
            (case,) = (case for case in read_suite(models, data) if case.name == name)
            done = row_of(case, way) | around
            add(done, rows)
            yield done


def main() -> None:
    """Train what is missing, make the rows that are missing, and print how they compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "models", "rows"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="two models alone, some ten minutes")
    parser.add_argument("--compare", type=Path, help="rows to compare those with")
    options = parser.parse_args()
    if not (options.data / "mnist" / "test.parquet").exists():
        parser.error(f"--data {options.data}: there is no mnist/test.parquet (make reproduce DATA=directory)")
    torch.set_num_threads(1)
    keep_freed_memory()
    options.models.mkdir(parents=True, exist_ok=True)
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    jobs = read_spec(SPEC, options.data)
    for done in run(jobs, options.data, options.models, options.rows, options.quick):
        found = done["scan"]
        print(json.dumps([done["model"], done["way"], found["verdict"], found["flagged"], found["wall_s"]]), flush=True)
    if options.compare:
        print(comparison(rows_in(options.rows), rows_in(options.compare)).markdown())


if __name__ == "__main__":
    main()
