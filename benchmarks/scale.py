"""What a scan costs as labels and pixels grow: image passes, time and peak memory, each scan in a process of its own.

    python benchmarks/scale.py --rows benchmarks/results/scale.jsonl
    python benchmarks/scale.py --rows benchmarks/results/scale.jsonl --page docs/scale.md

For cost, not for verdicts: the demo's network with a random last layer for that many labels on the demo's digits, and
a small VGG with random weights on noise. A scan writes its finished labels to disk as `scan --output` does. What is
there already is not done again. Times are of one thread; other work on the machine stretches wall time.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import neural_cleanse.demo
from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.plans import VERY_MANY_LABELS
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.engines import Processes
from neural_cleanse.evaluation.suite import run_info
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.checkpoint import Checkpoint
from neural_cleanse.loading.architectures import architecture
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.loading.load import load_model
from neural_cleanse.results import storage
from pages import filled
from resumable import add, rows_in

LABELS = (10, 43, 423, 901, 1283, 2622)  # MNIST, GTSRB; faces: 423, 901, YouTube Face, VGG-Face
SIDES = (32, 64, 128, 224)
PASSES_OF_A_SIDE = 1000  # image passes are spent on each image size: what one takes is the question there
IMAGES = 300
MIB = 1024**2 if sys.platform == "darwin" else 1024  # units of ru_maxrss in a MiB
DEMO = Path(neural_cleanse.demo.__file__).parent


Job = tuple[str, int, tuple[int, int, int]]


def jobs() -> list[Job]:
    """By labels on the MNIST network, by image size on the small VGG with ten labels."""
    by_labels: list[Job] = [("mnist_cnn", count, (1, 28, 28)) for count in LABELS]
    return by_labels + [("cifar_cnn", 10, (3, side, side)) for side in SIDES]


def digits_with(num_labels: int) -> tuple[Classifier, ImageSet]:
    """The demo's trained features under a random head: every label has some direction of its own to be pushed into."""
    network = load_model(DEMO / "infected.safetensors", architecture="mnist_cnn").classifier
    layers = list(network.module.children())
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    head = nn.Linear(last.in_features, num_labels)
    nn.init.normal_(head.weight, std=float(last.weight.std()))
    data = load_data(DEMO / "digits.npz", ignore_labels=True)
    return Classifier(nn.Sequential(*layers[:-1], head), network.input_shape, num_labels), data


def noise_of(shape: tuple[int, int, int], num_labels: int) -> tuple[Classifier, ImageSet]:
    """The small VGG, with a pool before its last layer so that it takes images of any size."""
    *layers, flatten, last = architecture("cifar_cnn").build(num_labels).children()
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), flatten, last)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, *shape), dtype=torch.uint8, generator=generator)
    return Classifier(module, shape, num_labels), ImageSet(images)


def measure(job: Job) -> dict[str, Any]:
    """One scan."""
    name, num_labels, shape = job
    torch.manual_seed(0)
    classifier, data = digits_with(num_labels) if name == "mnist_cnn" else noise_of(shape, num_labels)
    # What a scan takes at most: no look settles anything about a random network, whose input is in doubt.
    plan = "sequential" if num_labels < VERY_MANY_LABELS else "adaptive"
    passes = None if name == "mnist_cnn" else PASSES_OF_A_SIDE
    settings = ScanSettings(restarts=1, force=True, plan=plan, max_passes=passes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
    began, cpu_began = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = scan(classifier, data, settings, checkpoint=Checkpoint.within(Path(folder)))
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        storage.save_result(result, Path(folder))
    outcomes = [row.outcome.value for row in result.labels]
    return {
        "network": name,
        "labels": num_labels,
        "shape": list(shape),
        "plan": result.provenance.settings["search"]["name"],
        "image_passes": result.image_passes,
        "passes_a_label": round(result.image_passes / num_labels),
        "outcomes": {name: outcomes.count(name) for name in sorted(set(outcomes))},
        "wall_s": round(wall, 1),
        "cpu_ms_a_pass": round(1000 * cpu / max(1, result.image_passes), 4),
        "memory_before_mib": round(before),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB),
        **run_info(),
    }


def page(written: str, rows: Path) -> str:
    """The text of a page with the table between its marks made anew."""
    known = {
        (row["network"], row["labels"], tuple(row["shape"])): row
        for row in map(json.loads, rows.read_text(encoding="utf-8").splitlines())
    }
    lines = [
        "| network | image | labels | plan | image passes a label | processor time an image pass, against the first "
        "| peak memory, MiB | before the scan |",
        "| --- | --- | --: | --- | --: | --: | --: | --: |",
    ]
    first: dict[str, float] = {}
    for job in jobs():
        if (row := known.get(job)) is None:
            continue
        ratio = row["cpu_ms_a_pass"] / first.setdefault(row["network"], row["cpu_ms_a_pass"])
        passes = f"{row['passes_a_label']:,}" if row["network"] == "mnist_cnn" else "(cut off)"
        image = "x".join(map(str, row["shape"]))
        lines.append(
            f"| {row['network']} | {image} | {row['labels']:,} | {row['plan']} | {passes} "
            f"| {ratio:.2f} | {row['peak_memory_mib']} | {row['memory_before_mib']} |"
        )
    return filled(written, {"memory": "\n".join(lines)})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="write the table into this page, and scan nothing")
    parser.add_argument("--most-labels", type=int, default=max(LABELS))
    parser.add_argument("--largest-side", type=int, default=max(SIDES))
    given = parser.parse_args()
    if given.page is not None:
        text = page(given.page.read_text(encoding="utf-8"), given.rows)
        given.page.write_text(text, encoding="utf-8")
        return
    known = {(row["network"], row["labels"], tuple(row["shape"])) for row in rows_in(given.rows)}
    for job in jobs():
        if job in known or job[1] > given.most_labels or job[2][1] > given.largest_side:
            continue
        (row,) = Processes(1).map(measure, [job])  # a fresh process: its peak is its own
        print(row, flush=True)
        add(row, given.rows)


if __name__ == "__main__":
    main()
