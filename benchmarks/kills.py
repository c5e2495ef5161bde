"""Kill a scan at random moments until it comes to its end, and compare it with one that was left alone.

    python benchmarks/kills.py --kills 150 --rows benchmarks/results/kills.jsonl

Every trial forks a process that scans the demo's infected digits with --resume, and sends it SIGKILL after a random
time; now and then the newest file is cut short as well, as a power failure would. When enough kills have hit, scans
run to their end. Sizes, p-values and triggers must be bit-equal to those of the scan that was left alone.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import neural_cleanse.demo
from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.evaluation.suite import run_info
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.checkpoint import Checkpoint
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.loading.load import load_model
from neural_cleanse.results import storage
from neural_cleanse.results.records import ScanResult

DEMO = Path(neural_cleanse.demo.__file__).parent
# One label at a time, so that there is something to go on with; few images, so that a scan takes a second or two.
SETTINGS = ScanSettings(samples=200, restarts=1, batch_images=4, labels=tuple(range(5)))
CUT_SHORT = 0.2  # of the kills are followed by a truncated file


def scan_into(output: Path, classifier: Classifier, data: ImageSet) -> ScanResult:
    """A scan as `neural-cleanse scan --output --resume` does it."""
    checkpoint = Checkpoint.within(output)
    result = scan(classifier, data, SETTINGS, checkpoint=checkpoint)
    storage.save_result(result, output)
    checkpoint.remove()
    return result


def killed(output: Path, classifier: Classifier, data: ImageSet, after: float) -> bool:
    """Scan in a process of its own and kill it `after` seconds; False when it was done before that."""
    child = os.fork()
    if child == 0:
        scan_into(output, classifier, data)
        os._exit(0)
    ends = time.monotonic() + after
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise SystemExit(f"a resumed scan failed with status {status}")
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def cut_short(output: Path, chance: random.Random) -> None:
    """The newest record loses its end."""
    records = sorted(
        Checkpoint.within(output).directory.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns
    )
    if records:
        whole = records[-1].read_bytes()
        records[-1].write_bytes(whole[: chance.randrange(len(whole))])


def comparable(output: Path) -> tuple[dict[str, Any], bytes]:
    """All of a result but the time it took."""
    result = replace(storage.load_result(output), wall_s=0.0)
    return storage.to_json(result), (output / storage.TENSOR_FILE).read_bytes()


def run(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """So many kills; how many scans they fell on, and whether all came to the same end."""
    torch.set_num_threads(1)
    chance = random.Random(seed)
    model, data = load_model(DEMO / "infected.safetensors", architecture="mnist_cnn"), load_data(DEMO / "digits.npz")
    began = time.monotonic()
    scan_into(folder / "alone", model.classifier, data)
    takes = time.monotonic() - began
    expected = comparable(folder / "alone")
    hit, scans, equal, cut = 0, 0, 0, 0
    while hit < kills:
        output = folder / f"scan_{scans}"
        while hit < kills and killed(output, model.classifier, data, chance.uniform(0, 0.6 * takes)):
            hit += 1
            if chance.random() < CUT_SHORT:
                cut += 1
                cut_short(output, chance)
        if not (output / storage.JSON_FILE).exists():
            scan_into(output, model.classifier, data)
        scans += 1
        equal += comparable(output) == expected
    return {"kills": hit, "files_cut_short": cut, "scans": scans, "bit_equal": equal, "seed": seed, **run_info()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = run(given.kills, given.seed, Path(folder))
    print(json.dumps(row))
    if given.rows is not None:
        with given.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
    sys.exit(0 if row["bit_equal"] == row["scans"] else 1)


if __name__ == "__main__":
    main()
