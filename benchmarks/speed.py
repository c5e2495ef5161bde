"""How much of a search's time is the model's own, and what a label costs beside the authors' schedule.

    python benchmarks/speed.py --output benchmarks/results/speed.jsonl [--networks mnist_cnn,deepid]
    python benchmarks/speed.py --output benchmarks/results/speed.jsonl --networks ''   (the table of docs/scale.md)

A row a network, each measured in a process of its own. Weights and images are random: they cost what real ones cost.
Times are processor seconds of one thread, so that other work on the machine counts little; a step of the default and
the model's bare forward and backward pass on as many images take turns, and the least of several is kept.

The reference is timed on one label, on `reference_batches` batches of its 31 a step, and extrapolated to the image
passes that a label took it on trained models (results/compare.json: MNIST's for mnist_cnn, GTSRB's for the others).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.allocator import keep_freed_memory
from neural_cleanse.classifier import Classifier
from neural_cleanse.evaluation.suite import run_info
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.memory import batch_images, bytes_per_image
from neural_cleanse.inversion.presets import preset
from neural_cleanse.inversion.sampling import ScanImages, Split
from neural_cleanse.loading.architectures import architecture
from neural_cleanse.metrics import predict
from neural_cleanse.results.records import LabelPair
from resumable import rows_in

SEED = 0
SCANNED = 1000  # images of a scan; fewer are drawn for large networks, which changes no step
CHOSEN_FROM = 2  # kept triggers of a row asked on the choose images: trained models took near 1, so this is generous


@dataclass(frozen=True)
class Network:
    """What is measured: `images` in the scan, `batch` in a step (None: as a scan chooses), `steps` timed at once."""

    name: str
    num_classes: int
    images: int = SCANNED
    batch: int | None = None
    steps: int = 5
    rounds: int = 7
    reference_batches: int = 4


NETWORKS = (
    Network("mnist_cnn", 10),
    Network("deepid", 1283),
    Network("gtsrb_cnn", 43),
    Network("resnet18", 10, images=100, batch=32, steps=1, rounds=2, reference_batches=1),
    Network("vgg16", 65, images=40, batch=8, steps=1, rounds=2, reference_batches=1),
)


def measure(network: Network) -> dict[str, Any]:
    """The row of one network."""
    classifier, data = _random(network)
    inversion = preset("default")
    at_once = batch_images(classifier.device, inversion, network.num_classes, network.batch)
    labels = max(1, at_once // inversion.batch_size // inversion.restarts)
    pairs = [LabelPair(label) for label in range(network.num_classes)]
    pairs = [pair for pair in pairs if data.has_enough_images(pair, 1)][:labels]
    state = inversion.start(classifier, pairs, SEED)
    batch = torch.rand(len(state.rows) * inversion.batch_size, *classifier.input_shape)
    step_s, model_s = _in_turn(
        lambda: inversion.advance(classifier, data, state, network.steps),
        lambda: _model_alone(classifier, batch, network.steps),
        network.rounds,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    step_s, model_s = step_s / network.steps, model_s / network.steps
    label_s = step_s * inversion.steps / len(pairs) + _forward_s(classifier, data, inversion)
    reference_s, reference_passes = _reference(network, classifier, data, pairs[0])
    return {
        "network": network.name,
        "labels": network.num_classes,
        "images_a_step": len(batch),
        "step_ms": round(1e3 * step_s, 2),
        "model_ms": round(1e3 * model_s, 2),
        "share": round(model_s / step_s, 3),
        "image_passes_per_s": round(len(batch) / step_s, 1),
        "peak_memory_mib": round(peak),
        "estimated_mib_an_image": round(bytes_per_image(classifier) / 2**20, 2),
        "default_passes_a_label": inversion.passes,
        "default_s_a_label": round(label_s, 2),
        "reference_passes_a_label": reference_passes,
        "reference_s_a_label_extrapolated": round(reference_s, 1),
        "ratio": round(reference_s / label_s, 1),
        "threads": torch.get_num_threads(),
    }


def _random(network: Network) -> tuple[Classifier, ScanImages]:
    torch.manual_seed(SEED)
    kind = architecture(network.name)
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randint(0, 256, (network.images, *kind.input_shape), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, network.num_classes, (network.images,), generator=generator)
    classifier = Classifier(kind.build(network.num_classes), kind.input_shape, network.num_classes)
    return classifier, ScanImages.of(classifier, ImageSet(images, labels, None), SEED)


def _model_alone(classifier: Classifier, batch: torch.Tensor, steps: int) -> None:
    for _ in range(steps):
        images = batch.clone().requires_grad_()
        torch.autograd.grad(classifier(images).sum(), images)


def _in_turn(one: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[float, float]:
    """The least processor seconds of each."""
    pairs = [(_seconds(one), _seconds(other)) for _ in range(rounds)]
    return min(first for first, _ in pairs), min(second for _, second in pairs)


def _seconds(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def _forward_s(classifier: Classifier, data: ScanImages, inversion: Inversion) -> float:
    """What a label's kept triggers cost afterwards: forward passes over the choose and confirm images."""
    chosen, confirmed = SCANNED * Split.SELECT.value, SCANNED * Split.TEST.value
    asked: float = CHOSEN_FROM * inversion.restarts * chosen + confirmed
    images = data.images[:32]
    return min(_seconds(lambda: predict(classifier, images)) for _ in range(2)) / len(images) * asked


def _reference(network: Network, classifier: Classifier, data: ScanImages, pair: LabelPair) -> tuple[float, int]:
    """Seconds and passes of one label under the authors' schedule, by itself in its batch."""
    whole = preset("reference")
    short = replace(whole, batches_per_step=network.reference_batches)
    state = short.start(classifier, [pair], SEED)
    seconds = min(_seconds(lambda: short.advance(classifier, data, state, 1)) for _ in range(2))
    recorded = json.loads((Path(__file__).parent / "results" / "compare.json").read_text())
    dataset = "mnist" if network.name == "mnist_cnn" else "gtsrb"
    taken = [
        row["reference"]["image_passes"] / len(row["labels_compared"])
        for row in recorded
        if row["model"].startswith(dataset)
    ]
    passes = round(statistics.mean(taken))
    return seconds / (short.batches_per_step * short.batch_size) * passes, passes


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of docs/scale.md."""
    lines = [
        "| network | labels | images a step | step, ms | model alone, ms | share | image passes a second "
        "| peak memory, MiB | seconds a label, default / reference | ratio |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['network']} | {row['labels']:,} | {row['images_a_step']} | {row['step_ms']:,} | {row['model_ms']:,} "
        f"| {row['share']:.2f} | {row['image_passes_per_s']:,} | {row['peak_memory_mib']:,} "
        f"| {row['default_s_a_label']:,} / {row['reference_s_a_label_extrapolated']:,} | {row['ratio']} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--networks", default=",".join(network.name for network in NETWORKS))
    parser.add_argument("--only", help=argparse.SUPPRESS)  # this process measures that one
    options = parser.parse_args()
    if options.only:
        keep_freed_memory()
        torch.set_num_threads(1)
        (network,) = (network for network in NETWORKS if network.name == options.only)
        print(json.dumps(measure(network) | run_info() | {"seed": SEED}))
        return
    for name in filter(None, options.networks.split(",")):
        command = [sys.executable, __file__, "--output", str(options.output), "--only", name]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        kept = [old for old in rows_in(options.output) if old["network"] != name] + [row]
        options.output.write_text("".join(json.dumps(old) + "\n" for old in kept))
        print(json.dumps(row), flush=True)
    print(markdown(rows_in(options.output)))


if __name__ == "__main__":
    main()
