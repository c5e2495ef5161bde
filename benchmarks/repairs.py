"""Repair models whose trigger is known, and measure the ORIGINAL trigger on test images that nobody trained on.

    python benchmarks/repairs.py zoo/repair --data DATA --rows benchmarks/results/repairs.jsonl

A suite is what `neural-cleanse benchmark` takes. Every model is scanned with the test images' first part, repaired with
`--share` of the training images (or `--images` of them), of which a half is learned from, and measured on the test
images that the scan did not see. One JSON row a model and number of images; what is there already is not done again.
The arms: the repair as a user has it (unlearning, with a new scan); the paper's two others, fine-tuning on the
original trigger and on clean images alone; the repair by pruning. `--repair-alone` leaves out all but the first, which
is most of the time where models are many; `--prune-alone` all but that by pruning. `--guard-alone` repairs nothing: it
recovers the targets' triggers, beside some other labels for their usual size, and fits the input filter, with rows of
their own (benchmarks/results/guards.jsonl).
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linear_filter import linear_filter, top
from neural_cleanse.attacks.trigger_json import trigger_from_json
from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.engines import Processes
from neural_cleanse.errors import DataError
from neural_cleanse.evaluation.suite import Case, open_case, read_suite, run_info
from neural_cleanse.images import ImageSet, balanced
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.loading.images.splits import part_path
from neural_cleanse.metrics import pixels
from neural_cleanse.mitigation.base import Backdoor, Mitigation, RepairLimits, known_backdoors, measure
from neural_cleanse.mitigation.evaluation import LEARN
from neural_cleanse.mitigation.guard import Guard
from neural_cleanse.mitigation.guard_fitting import fisher, fit_guard, measure_guard
from neural_cleanse.mitigation.repair import RepairSettings, repair
from neural_cleanse.mitigation.unlearning import Unlearning
from neural_cleanse.results.records import LabelPair, ScanResult
from resumable import add, lacking

TESTED = 4000  # test images at most, beyond those that the scan saw
SEED = 0
RATE = 0.05  # of clean images that a filter may reject
REFERENCES = 5  # labels beside the targets, for the size of a usual trigger, where the guard alone is measured
TIMED, REPEATS = 256, 200  # images of a run, and runs, where time is compared


@dataclass(frozen=True)
class Budget:
    """How many training images a repair gets: a share of them, or a number."""

    share: float
    images: int | None


def originals(case: Case) -> tuple[Backdoor, ...]:
    """The attacker's own triggers, from the card: one a target, and a source where the trigger works from one alone."""
    found = []
    for poison in case.card.get("poisons", ()):
        targets, trigger = poison["targets"], trigger_from_json(poison["trigger"])
        if isinstance(targets, int):
            found += [Backdoor(LabelPair(targets, source), trigger) for source in poison.get("sources") or (None,)]
        else:
            found += [Backdoor(LabelPair(target, source), trigger) for source, target in enumerate(targets)]
    return tuple(found)


def _about(case: Case) -> dict[str, Any]:
    """What a row says of the model."""
    return {"model": case.name} | {name: case.card[name] for name in ("dataset", "architecture", "attack", "targets")}


def _split(test: ImageSet) -> tuple[Tensor, Tensor]:
    """The rows of the test images that the scan sees, and of the others."""
    assert test.labels is not None, "test images have labels"
    seen = balanced(test.labels, ScanSettings().samples, SEED)
    unseen = torch.ones(len(test), dtype=torch.bool)
    unseen[seen] = False
    return seen, unseen.nonzero().squeeze(1)


def row(case: Case, *, data: Path, budget: Budget, alone: str | None, around: dict[str, Any]) -> dict[str, Any]:
    """Scan, repair and measure one model."""
    loaded, test = open_case(case, at_most=None)
    classifier, original = loaded.classifier, originals(case)
    seen, unseen = _split(test)
    fresh = test.take(unseen[:TESTED])
    train = _training_images(case, data, budget, test)
    result = scan(classifier, test.take(seen), ScanSettings())
    written: dict[str, Any] = {
        **_about(case),
        "images": len(train),
        "learned_from": round(LEARN * len(train)),
        "verdict": result.verdict.value,
        "flagged": list(result.flagged),
        "before": _measured(classifier, original, fresh),
        "model_sha256": loaded.origin.sha256,
        "seed": SEED,
    }
    # A label that the scan did not flag is named to the repair, so that figures on repair are not those of the scan.
    # Where pairs of labels were flagged, the repair has those alone, as a user has it.
    truth = tuple(case.card["targets"]) or (_smallest(result),)
    through_pairs = any(pair.source is not None for pair in result.flagged_pairs)
    written["told"] = not through_pairs and not set(truth) <= set(result.flagged)
    written["tests"] = {test.kind.value: len(test.flagged) for test in result.tests}
    result = result if through_pairs else replace(result, flagged=truth)
    written["arms"] = _arms(classifier, result, train, fresh, original, alone=alone)
    return written | around


def guard_row(case: Case, *, around: dict[str, Any]) -> dict[str, Any]:
    """Recover the triggers of one infected model, fit its guard on test images not used for that, measure it on others.

    The test images are drawn at random: the halves of MNIST's test part differ. Where they have too few of a guarded
    label, `guard` is why.
    """
    loaded, test = open_case(case, at_most=None)
    classifier, original, truth = loaded.classifier, originals(case), tuple(case.card["targets"])
    seen, unseen = _split(test)
    rows = unseen[torch.randperm(len(unseen), generator=torch.Generator().manual_seed(SEED))]
    fresh, calm = (test.take(some) for some in rows.tensor_split([min(TESTED, len(rows) // 2)]))
    some = range(0, classifier.num_classes, max(1, classifier.num_classes // REFERENCES))
    settings = ScanSettings(labels=tuple(sorted({*truth, *some})), student=False)
    result = scan(classifier, test.take(seen), settings)
    try:
        guard: dict[str, Any] | str = _guards(classifier, known_backdoors(result, truth), calm, fresh, original)
    except DataError as error:
        guard = str(error)
    written = {
        **_about(case),
        "images": len(calm),
        "before": _measured(classifier, original, fresh),
        "guard": guard,
        "model_sha256": loaded.origin.sha256,
        "seed": SEED,
    }
    return written | around


def _smallest(result: ScanResult) -> int:
    """The label of a clean model that a wrong verdict would flag."""
    return min((one.size, one.target) for one in result.labels if one.size is not None)[1]


def _training_images(case: Case, data: Path, budget: Budget, test: ImageSet) -> ImageSet:
    part = part_path(data / str(case.card["dataset"]), "train")
    assert part is not None, "a data set to repair with has a training part"
    needs = case.card.get("scan", {})
    whole = load_data(part, resize=(test.shape[1], test.shape[2]), crop=needs.get("crop"))
    assert whole.labels is not None
    return whole.take(balanced(whole.labels, budget.images or round(budget.share * len(whole)), SEED))


def _arms(
    classifier: Classifier,
    result: ScanResult,
    train: ImageSet,
    fresh: ImageSet,
    original: Sequence[Backdoor],
    *,
    alone: str | None,
) -> dict[str, Any]:
    """What every arm leaves of the original triggers, and what it costs; `alone` names the one that is wanted."""
    arms: dict[str, Any] = {}
    for name, method in (("repair", "unlearn"), ("pruning", "prune")):
        if alone in (None, name) and (original or name == "repair"):
            began = time.monotonic()
            repaired = repair(classifier, result, train, RepairSettings(method=method))
            arms[name] = {
                "status": repaired.result.status.value,
                "rounds": len(repaired.result.rounds),
                "rates": [point.amount for done in repaired.result.rounds for point in done.trace],
                "fresh": [round(done.fresh_worst, 4) for done in repaired.result.rounds],
                "wall_s": round(time.monotonic() - began, 1),
                **_measured(repaired.classifier, original, fresh),
            }
    if alone or not original:
        return arms
    found = known_backdoors(result, result.flagged)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SEED))
    half = round(LEARN * len(train))
    limits = _limits(classifier, train.take(order[:half]), train.take(order[half:]))
    tried: dict[str, tuple[Mitigation, Sequence[Backdoor]]] = {
        "original trigger": (Unlearning(), original),
        "clean images": (Unlearning(), ()),
        "one epoch": (Unlearning(epochs=1, mixed=0, least_batches=1), found),
    }
    for name, (mitigation, used) in tried.items():
        mitigated = mitigation(classifier, used, limits, torch.Generator().manual_seed(SEED))
        if mitigated.classifier is None:
            arms[name] = {"status": "rolled back"}
            continue
        amount = mitigated.trace[-1].amount
        arms[name] = {"status": "kept", "amount": amount, **_measured(mitigated.classifier, original, fresh)}
    return arms


def _guards(
    classifier: Classifier, found: Sequence[Backdoor], calm: ImageSet, fresh: ImageSet, original: Sequence[Backdoor]
) -> dict[str, Any]:
    """The input filter of `guard fit` and the paper's, fitted on images that nobody trained on: shares, per trigger."""
    began = time.monotonic()
    guard, _ = fit_guard(classifier, found, calm, generator=torch.Generator().manual_seed(SEED))
    wall = time.monotonic() - began
    report = measure_guard(guard, original, fresh)
    passed = [hits / trials for hits, trials in zip(report.passed, report.triggered_trials, strict=True)]
    labels = [hits / max(1, trials) for hits, trials in zip(report.label_rejected, report.label_trials, strict=True)]
    others = {
        name: asdict(linear_filter(classifier, found, original, calm=calm, fresh=fresh, direction=direction, rate=RATE))
        for name, direction in {"paper": top, "fisher": fisher}.items()
    }
    return {
        "ours": {"fpr": report.clean_rejected / report.clean_trials, "label_fpr": labels, "passed": passed},
        **others,
        "fitted_in_s": round(wall, 1),
        "extra_time": round(_extra_time(guard, fresh), 4),
    }


@torch.no_grad()
def _extra_time(guard: Guard, fresh: ImageSet) -> float:
    """The share of time that filtering adds to classifying, the quickest of alternating runs of each."""
    images = pixels(fresh.images[:TIMED])
    works: tuple[Guard | Classifier, ...] = (guard, guard.classifier)
    quickest = [float("inf"), float("inf")]
    for _ in range(REPEATS):
        for place, work in enumerate(works):
            began = time.perf_counter()
            work(images)
            quickest[place] = min(quickest[place], time.perf_counter() - began)
    return quickest[0] / quickest[1] - 1


def _limits(classifier: Classifier, learn: ImageSet, decide: ImageSet) -> RepairLimits:
    bounds = RepairSettings()
    return RepairLimits(learn, decide, measure(classifier, (), decide).accuracy - bounds.max_drop, bounds.max_asr)


def _measured(classifier: Classifier, original: Sequence[Backdoor], fresh: ImageSet) -> dict[str, Any]:
    found = measure(classifier, original, fresh)
    rates = [round(hits / trials, 4) for hits, trials in zip(found.hits, found.trials, strict=True)]
    return {"accuracy": round(found.accuracy, 4), "asr": rates}


def run(
    cases: Sequence[Case], made: Callable[..., dict[str, Any]], budget: str, rows: Path, workers: int
) -> Iterator[dict[str, Any]]:
    """Every row that the file lacks, written as it is done."""
    around = {"budget": budget, **run_info()}
    for done in Processes(workers).map(partial(made, around=around), lacking(cases, rows, budget)):
        add(done, rows)
        yield done


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--images", type=int)
    parser.add_argument("--only", default="", help="part of the models' names")
    parser.add_argument("--workers", type=int, default=2)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--repair-alone", dest="alone", action="store_const", const="repair")
    which.add_argument("--prune-alone", dest="alone", action="store_const", const="pruning")
    which.add_argument("--guard-alone", action="store_true")
    parser.add_argument("--allow-code", action="store_true")
    given = parser.parse_args()
    cases = read_suite(given.suite, given.data, models=given.models, allow_code=given.allow_code)
    chosen = [case for case in cases if given.only in case.name]
    budget = Budget(given.share, given.images)
    name = f"{budget.images} images" if budget.images else f"{budget.share:g} of the training images"
    made: Callable[..., dict[str, Any]] = partial(row, data=given.data, budget=budget, alone=given.alone)
    if given.guard_alone:
        chosen, name, made = [case for case in chosen if case.card["targets"]], "test images", guard_row
    for done in run(chosen, made, name, given.rows, given.workers):
        print({name: done.get(name) for name in ("model", "flagged", "before", "arms", "guard")}, flush=True)


if __name__ == "__main__":
    main()
