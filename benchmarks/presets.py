"""The default preset against the authors' schedule, on the same models in one run: what `make bench` prints.

    python benchmarks/presets.py --data DATA --output benchmarks/results [--models DIR] [--tables compare,steps,share]

DATA holds mnist/ and gtsrb/ (train.parquet, test.parquet); models that DIR lacks are trained first. Three tables, each
a JSON file of rows with hardware, seed and commit:

compare  passes, sizes, verdict and time of both presets. Success rates are measured again on images that neither saw;
         sizes are compared after asking of the default's kept triggers what makes the two mean rates equal.
steps    how far the suspect stands from the other labels after so many steps of the default.
share    how much of a step is the model's own forward and backward pass.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.statistics.outlier import outlier_test
from neural_cleanse.detection.verdict import decide
from neural_cleanse.evaluation.suite import run_info
from neural_cleanse.inversion.batching import BATCHES_BETWEEN_CHECKS, BatchScheduler
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.memory import BATCH_IMAGES, BatchLimit
from neural_cleanse.inversion.presets import preset
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.inversion.state import InversionState
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.loading.load import load_model
from neural_cleanse.metrics import attack_hits
from neural_cleanse.results.records import LabelPair, Recovered

SEED = 0
SCANNED, HELD_OUT = 1000, 4000  # images for the scan, and others for the success rates reported here
CHOOSE_LEVELS = (0.90, 0.93, 0.95, 0.96, 0.97, 0.98, 0.99)
EPOCHS = {"mnist": 4, "gtsrb": 7}
SHARE_ROUNDS = 6
STEPS = (60, 125, 250, 500, 1000)
REFERENCE_LABELS = {"mnist": None, "gtsrb": (33, 1, 12, 25, 38)}  # None: all; five of 43, for want of hours


@dataclass(frozen=True)
class Case:
    """A model and the arguments that train it."""

    name: str
    dataset: str
    patch: int
    target: int
    seed: int


CASES = (
    Case("mnist_badnets4_target4_seed0", "mnist", 4, 4, 0),
    Case("mnist_clean_seed0", "mnist", 0, 0, 0),
    Case("gtsrb_badnets4_target33_seed0", "gtsrb", 4, 33, 0),
    Case("gtsrb_clean_seed0", "gtsrb", 0, 0, 0),
)


@dataclass(frozen=True)
class OpenedCase:
    """A loaded case: the classifier, the images it is scanned with, and images for measuring."""

    case: Case
    classifier: Classifier
    images: ScanImages
    held_out: ScanImages

    def held_out_asr(self, found: Recovered) -> float:
        """Success rate of a recovered trigger on the held-out images."""
        assert found.trigger is not None
        images = self.held_out.images[self.held_out.eligible(found.pair, None)]
        return attack_hits(self.classifier, found.trigger, images, found.pair.target) / len(images)


def train_if_missing(case: Case, data: Path, models: Path) -> Path:
    """The model's file."""
    path = models / f"{case.name}.safetensors"
    if not path.exists():
        what = ["badnets", "--size", case.patch, "--target", case.target] if case.patch else ["none"]
        command = [sys.executable, "-m", "neural_cleanse", "attack", "--dataset", data / case.dataset, "--output", path]
        command += ["--architecture", f"{case.dataset}_cnn", "--epochs", EPOCHS[case.dataset], "--seed", case.seed]
        subprocess.run([*map(str, command), "--attack", *map(str, what)], check=True)
    return path


def open_case(case: Case, data: Path, models: Path) -> OpenedCase:
    """Train the model if it is not there, and read its images."""
    classifier = load_model(train_if_missing(case, data, models)).classifier
    everything = load_data(data / case.dataset / "test.parquet", at_most=SCANNED + HELD_OUT, seed=SEED)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(SEED))
    images = ScanImages.of(classifier, everything.take(order[:SCANNED]), SEED)
    return OpenedCase(case, classifier, images, ScanImages.of(classifier, everything.take(order[SCANNED:]), SEED))


def invert(bench: OpenedCase, inversion: Inversion, labels: Sequence[int]) -> tuple[list[InversionState], float]:
    """Final states of the default's search, in groups as a scan makes them, and the seconds they took."""
    began, states = time.perf_counter(), []
    group = max(1, 32 // inversion.restarts)
    for first in range(0, len(labels), group):
        pairs = [LabelPair(label) for label in labels[first : first + group]]
        start = inversion.start(bench.classifier, pairs, SEED)
        states.append(inversion.advance(bench.classifier, bench.images, start, inversion.steps))
    return states, time.perf_counter() - began


def finish(bench: OpenedCase, inversion: Inversion, states: Sequence[InversionState]) -> list[Recovered]:
    """The records of those states."""
    return [r for state in states for r in inversion.finish(bench.classifier, bench.images, state)]


def compare(bench: OpenedCase) -> dict[str, Any]:
    """Default and reference on one model."""
    every = range(bench.classifier.num_classes)
    labels = REFERENCE_LABELS[bench.case.dataset] or tuple(every)
    default = preset("default")
    states, search_s = invert(bench, default, every)
    began = time.perf_counter()
    found = finish(bench, default, states)
    default_s = search_s + time.perf_counter() - began

    began = time.perf_counter()
    pairs = [LabelPair(label) for label in labels]
    slots = BatchScheduler(bench.classifier, bench.images, BatchLimit(BATCH_IMAGES["cpu"]))
    reference = list(slots(preset("reference"), pairs))
    reference_s = time.perf_counter() - began
    reference.sort(key=lambda r: r.pair)
    asr = statistics.mean(bench.held_out_asr(r) for r in reference)
    level, equal = _at_equal_asr(bench, default, states, set(labels), asr)
    ratios = [
        ours.size / theirs.size
        for ours, theirs in zip(equal, reference, strict=True)
        if ours.size is not None and theirs.size is not None
    ]
    area = bench.classifier.input_shape[1] * bench.classifier.input_shape[2]
    passes = {r.pair.target: r.image_passes for r in found}
    whole = len(labels) == len(every)
    return {
        "model": bench.case.name,
        "true_target": bench.case.target if bench.case.patch else None,
        "labels_compared": list(labels),
        "default": _summary(bench, found, area) | {"wall_s": round(default_s, 1)},
        "reference": (_summary(bench, reference, area) if whole else _rates(bench, reference))
        | {"wall_s": round(reference_s, 1)},
        "passes_ratio": round(
            sum(r.image_passes for r in reference) / sum(passes[r.pair.target] for r in reference), 1
        ),
        "wall_ratio_a_label": round(reference_s / len(labels) / (default_s / len(every)), 1),
        "equal_asr": {
            "choose_asr": level,
            "held_out_asr": round(statistics.mean(bench.held_out_asr(r) for r in equal), 4),
            "reference_held_out_asr": round(asr, 4),
            "sizes": [None if r.size is None else round(r.size, 2) for r in equal],
            "size_ratio_median": round(statistics.median(ratios), 3),
            "size_ratios": [round(ratio, 3) for ratio in ratios],
        },
    }


def _at_equal_asr(
    bench: OpenedCase, default: Inversion, states: Sequence[InversionState], labels: set[int], asr: float
) -> tuple[float, list[Recovered]]:
    """The default's records for `labels` under the choose level whose mean held-out ASR is nearest to `asr`.

    No further image passes: only which of the kept triggers is taken changes.
    """
    tried = {}
    for level in CHOOSE_LEVELS:
        records = [r for r in finish(bench, replace(default, choose_asr=level), states) if r.pair.target in labels]
        if sum(r.size is None for r in records) <= len(records) // 5:
            tried[level] = sorted(records, key=lambda r: r.pair)
    means = {level: statistics.mean(bench.held_out_asr(r) for r in records) for level, records in tried.items()}
    best = min(means, key=lambda level: abs(means[level] - asr))
    return best, tried[best]


def _rates(bench: OpenedCase, found: Sequence[Recovered]) -> dict[str, Any]:
    return {
        "image_passes": sum(r.image_passes for r in found),
        "forward_passes": sum(r.forward_passes for r in found),
        "sizes": [None if r.size is None else round(r.size, 2) for r in found],
        "held_out_asr": [round(bench.held_out_asr(r), 4) for r in found],
        "outcomes": [r.outcome.value for r in found],
    }


def _summary(bench: OpenedCase, found: Sequence[Recovered], area: int) -> dict[str, Any]:
    decision = decide(found, 0.01, area)
    return _rates(bench, found) | {
        "verdict": decision.verdict.value,
        "flagged": list(decision.flagged),
        "p_value": decision.p_value,
        "anomaly_index_max": decision.paper_rule.anomaly_index,
    }


def steps(bench: OpenedCase) -> dict[str, Any]:
    """The smallest label against the others after so many steps; one restart above ten labels, else three."""
    every = range(bench.classifier.num_classes)
    rows = []
    for count in STEPS:
        inversion = Inversion(steps=count, restarts=3 if len(every) <= 10 else 1)
        states, wall_s = invert(bench, inversion, every)
        found = [r for r in finish(bench, inversion, states) if r.size is not None]
        sizes = [r.size for r in found if r.size is not None]
        smallest = min(range(len(sizes)), key=lambda i: sizes[i])
        others = [math.log(size) for i, size in enumerate(sizes) if i != smallest]
        spread = statistics.stdev(others) * math.sqrt(1 + 1 / len(others))
        rows.append(
            {
                "steps": count,
                "passes_a_label": inversion.passes,
                "labels_with_size": len(sizes),
                "smallest_label": found[smallest].pair.target,
                "smallest_px": round(sizes[smallest], 2),
                "median_px": round(statistics.median(sizes), 2),
                "sd_of_log_sizes_of_others": round(statistics.stdev(others), 3),
                "t": round((statistics.mean(others) - math.log(sizes[smallest])) / spread, 2),
                "p_value": outlier_test(sizes, 0.01).p_value,
                "wall_s": round(wall_s, 1),
            }
        )
    return {"model": bench.case.name, "true_target": bench.case.target if bench.case.patch else None, "rows": rows}


def share(bench: OpenedCase) -> dict[str, Any]:
    """Seconds of a step of the default, advanced as a scan does, and of the model alone on as many images."""
    inversion = preset("default")
    labels = min(10, bench.classifier.num_classes)
    state = inversion.start(bench.classifier, [LabelPair(label) for label in range(labels)], SEED)
    state = inversion.advance(bench.classifier, bench.images, state, 3)
    batch = torch.rand(len(state.rows) * inversion.batch_size, *bench.classifier.input_shape)

    def model_alone() -> None:
        images = batch.clone().requires_grad_()
        torch.autograd.grad(bench.classifier(images).sum(), images)

    def steps_of_a_scan() -> None:
        inversion.advance(bench.classifier, bench.images, state, BATCHES_BETWEEN_CHECKS)

    def as_many_passes() -> None:
        for _ in range(BATCHES_BETWEEN_CHECKS):
            model_alone()

    # In turn, so that both see the same machine; the median of several, since it is shared.
    rounds = [(_seconds(steps_of_a_scan), _seconds(as_many_passes)) for _ in range(SHARE_ROUNDS)]
    pairs = [(step / BATCHES_BETWEEN_CHECKS, alone / BATCHES_BETWEEN_CHECKS) for step, alone in rounds]
    return {
        "model": bench.case.name,
        "images_a_step": len(batch),
        "step_ms": round(1e3 * statistics.median(step for step, _ in pairs), 2),
        "model_ms": round(1e3 * statistics.median(alone for _, alone in pairs), 2),
        "share": round(statistics.median(alone / step for step, alone in pairs), 3),
    }


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


TABLES: dict[str, Callable[[OpenedCase], dict[str, Any]]] = {"compare": compare, "steps": steps, "share": share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=Path("out/models"))
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--cases", default=",".join(case.name for case in CASES))
    options = parser.parse_args()
    if not (options.data / "mnist" / "test.parquet").exists():
        parser.error(f"--data {options.data}: there is no mnist/test.parquet (make bench DATA=directory)")
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    around = run_info() | {"seed": SEED}
    for name in options.tables.split(","):
        path = options.output / f"{name}.json"
        rows = {row["model"]: row for row in json.loads(path.read_text())} if path.exists() else {}
        for case in CASES:
            if case.name in options.cases.split(","):
                row = TABLES[name](open_case(case, options.data, options.models)) | around
                rows[case.name] = row
                print(json.dumps({"table": name} | row), flush=True)
                path.write_text(json.dumps(list(rows.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()
