"""How fast the search is on a GPU, and how much of the device it uses: four networks, random weights, a few minutes.

    make bench-gpu        (python benchmarks/gpu.py --rows benchmarks/results/gpu.jsonl)

A row a network, each measured in a process of its own that has `SECONDS` at most; one that fails says why. The batch is
the one that a scan would take. `share_of_peak` is of what a large matrix product reaches on this device in the same
precision, measured in the same process; operations are those of the convolutions and matrix products of one pass there
and back. Without a GPU nothing is measured, and the exit code is 2.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.cut import work
from neural_cleanse.evaluation.suite import run_info
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.memory import batch_images, bytes_per_image, fit_to_memory
from neural_cleanse.inversion.presets import preset
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.loading.architectures import architecture
from neural_cleanse.loading.common.resnet import ResNet
from neural_cleanse.results.records import LabelPair

SEED = 0
IMAGES = 256  # of a scan: how many there are changes no step
SECONDS = 105  # for a network: four stay under eight minutes
WARM_UP, STEPS = 3, 10
THERE_AND_BACK = 2  # passes that an image pass takes in operations: the weights are frozen, so no gradient is theirs
SIDE = 8192  # of the matrices whose product says what the device reaches
NO_GPU = 2

NETWORKS: dict[str, tuple[int, Callable[[int], nn.Module], tuple[int, int, int]]] = {
    "gtsrb_cnn": (43, architecture("gtsrb_cnn").build, architecture("gtsrb_cnn").input_shape),
    "deepid": (1283, architecture("deepid").build, architecture("deepid").input_shape),
    "resnet50": (1000, lambda classes: ResNet("resnet50", classes), (3, 224, 224)),
    "vgg16": (2622, architecture("vgg16").build, architecture("vgg16").input_shape),
}


def measure(name: str, device: torch.device, steps: int = STEPS, side: int = SIDE) -> dict[str, Any]:
    """The row of one network."""
    labels, build, shape = NETWORKS[name]
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randint(0, 256, (IMAGES, *shape), generator=generator, dtype=torch.uint8)
    classifier = Classifier(build(labels), shape, labels).to(device)
    data = ScanImages.of(classifier, ImageSet(images, torch.arange(IMAGES) % labels), SEED)
    inversion = preset("default")
    limit = fit_to_memory(classifier, inversion, batch_images(device, inversion, labels))
    count = max(1, limit.images // (inversion.batch_size * inversion.restarts))
    state = inversion.start(classifier, [LabelPair(label) for label in range(min(count, labels))], SEED)
    state = inversion.advance(classifier, data, state, WARM_UP)
    _settle(device)
    began = time.perf_counter()
    state = inversion.advance(classifier, data, state, steps)
    _settle(device)
    step_s = (time.perf_counter() - began) / steps
    at_once = len(state.rows) * inversion.batch_size
    operations = THERE_AND_BACK * work(classifier.module, torch.zeros(1, *shape, device=device))
    reached = operations * at_once / step_s
    peak = _matrix_product(device, side)
    return {
        "network": name,
        "labels": labels,
        "images_a_step": at_once,
        "step_s": round(step_s, 4),
        "image_passes_per_s": round(at_once / step_s, 1),
        "tflops": round(reached / 1e12, 3),
        "tflops_of_a_matrix_product": round(peak / 1e12, 3),
        "share_of_peak": round(reached / peak, 3),
        "peak_memory_mib": round(torch.cuda.max_memory_allocated(device) / 2**20) if device.type == "cuda" else None,
        "estimated_mib_an_image": round(bytes_per_image(classifier) / 2**20, 2),
        "notes": limit.notes,
    }


def _matrix_product(device: torch.device, side: int) -> float:
    """Operations a second of a product of two square matrices in fp32, the best of some."""
    one = torch.rand(side, side, device=device)
    best = float("inf")
    for _ in range(4):  # the first one warms up
        _settle(device)
        began = time.perf_counter()
        one @ one
        _settle(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--only", help=argparse.SUPPRESS)  # this process measures that one
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no GPU here: nothing was measured", file=sys.stderr)
        return NO_GPU
    device = torch.device("cuda")
    if given.only:
        print(json.dumps(measure(given.only, device)))
        return 0
    about = run_info() | {"device": "cuda", "hardware": torch.cuda.get_device_name(device), "seed": SEED}
    failed = 0
    for name in given.networks.split(","):
        row = _in_a_process(name, given.rows) | about
        failed += "error" in row
        print(json.dumps(row), flush=True)
        with given.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
    return 1 if failed else 0


def _in_a_process(name: str, rows: Path) -> dict[str, Any]:
    """The row, or why there is none."""
    command = [sys.executable, __file__, "--rows", str(rows), "--only", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"network": name, "error": f"it took over {SECONDS} s"}
    if done.returncode:
        return {"network": name, "error": (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
