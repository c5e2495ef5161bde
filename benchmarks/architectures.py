"""How often ordinary networks are flagged: clean and infected ones of many architectures, trained here and scanned.

    python benchmarks/architectures.py --data DATA --networks TRAINED \\
        --rows benchmarks/results/scans_architectures.jsonl [--seeds 0,1] [--only padded-bn,vit]

Each is Adam for some epochs on a few thousand training images; an infected one has a white square of 3 to 8 px on a
tenth of them. Which part a network belongs to, development or test, follows from its name. A row that is there is not
made again.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neural_cleanse.allocator import keep_freed_memory
from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.evaluation.suite import answer_of, rows_of, run_info, settings_of
from neural_cleanse.evaluation.zoo import part_of
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.architectures import gtsrb_cnn
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.metrics import clean_accuracy, predict
from resumable import add
from search_networks import Dense, Planted, Residual, Trained, Transformer, mlp, mobile, plain_elu

SIDES = (3, 4, 5, 6, 8)  # of the planted squares, px
WEAK = 0.95  # success of the square under which a miss says little
MEASURED = 2000  # test images that accuracy and success are measured on


def convolutions(channels: int, width: int, *, norm: bool, drop: float = 0.0, average: bool = False) -> nn.Module:
    """Padded 3x3 convolutions as tutorials have them: two blocks for grey 28x28 images, three for colour 32x32."""
    layers: list[nn.Module] = []
    blocks = 2 if channels == 1 else 3
    before = channels
    for block in range(blocks):
        after = width * 2**block
        layers += [nn.Conv2d(before, after, 3, padding=1), *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU()]
        layers.append(nn.AvgPool2d(2) if average else nn.MaxPool2d(2))
        before = after
    flat = before * (7 * 7 if channels == 1 else 4 * 4)
    layers += [nn.Flatten(), *([nn.Dropout(drop)] if drop else [])]
    return nn.Sequential(*layers, nn.Linear(flat, 64), nn.ReLU(), nn.Linear(64, 10))


GREY: dict[str, Callable[[], nn.Module]] = {
    "padded-bn8": partial(convolutions, 1, 8, norm=True),
    "padded-bn16": partial(convolutions, 1, 16, norm=True),
    "padded-bn48": partial(convolutions, 1, 48, norm=True),
    "padded": partial(convolutions, 1, 16, norm=False),
    "dropout": partial(convolutions, 1, 16, norm=True, drop=0.4),
    "average-pool": partial(convolutions, 1, 16, norm=False, average=True),
    "depthwise": mobile,
    "residual": partial(Residual, 1, 2, 8),
    "mlp": mlp,
    "vit": partial(Transformer, 1, 28),
}
COLOUR: dict[str, Callable[[], nn.Module]] = {
    "padded-bn16": partial(convolutions, 3, 16, norm=True),
    "elu": plain_elu,
    "dense": Dense,
    "residual": partial(Residual, 3, 1, 12),
    "vit": partial(Transformer, 3, 32),
}
SIGNS: dict[str, Callable[[], nn.Module]] = {"half-width": partial(gtsrb_cnn, 43, 0.5)}
BUILDERS = {"mnist": GREY, "fashion_mnist": GREY, "cifar10": COLOUR, "gtsrb": SIGNS}
RECIPES = {"mnist": (4, 8000), "fashion_mnist": (4, 8000), "cifar10": (6, 15_000), "gtsrb": (8, 20_000)}


@dataclass(frozen=True)
class Job:
    """One network: clean, or with a square planted."""

    dataset: str
    architecture: str
    seed: int
    infected: bool

    @property
    def number(self) -> int:
        """Of its architecture, by which squares and targets go round."""
        return list(BUILDERS[self.dataset]).index(self.architecture)

    @property
    def planted(self) -> Planted | None:
        """The square in the lower right corner, clear of the edge by a pixel."""
        if not self.infected:
            return None
        grey = BUILDERS[self.dataset] is GREY
        corner = (28 if grey else 32) - 1
        side = SIDES[(self.seed + self.number) % len(SIDES)]
        target = (3 * self.seed + 7 * self.number + 1) % (43 if self.dataset == "gtsrb" else 10)
        return Planted(target, side, corner - side, corner - side)

    @property
    def name(self) -> str:
        """By which its part is drawn."""
        attack = "none" if self.planted is None else f"badnets-size{self.planted.side}"
        return f"{self.dataset}-{self.architecture}-{attack}-seed{self.seed}"

    @property
    def network(self) -> Trained:
        """How it is trained."""
        epochs, images = RECIPES[self.dataset]
        epochs = max(epochs, 6) if self.architecture == "vit" else epochs
        build = BUILDERS[self.dataset][self.architecture]
        seed = 1000 * self.seed + 10 * self.number + self.infected
        return Trained(
            self.dataset,
            build,
            self.planted,
            epochs,
            images,
            seed,
            learning_rate=1e-3 if self.dataset == "gtsrb" else 2e-3,
        )


def jobs(seeds: list[int]) -> Iterator[Job]:
    """By seed, so that what is done first is of every kind; every third seed has an infected one beside the clean."""
    for seed in seeds:
        for dataset, builders in BUILDERS.items():
            for number, architecture in enumerate(builders):
                yield Job(dataset, architecture, seed, infected=False)
                if (seed + number) % 3 == 0:
                    yield Job(dataset, architecture, seed, infected=True)


def measure(job: Job, classifier: Classifier, images: ImageSet, settings: ScanSettings) -> dict[str, Any]:
    """The row of one network."""
    assert images.labels is not None, "test images have labels"
    shown, labels = images.images[:MEASURED], images.labels[:MEASURED]
    planted = job.planted
    truth: dict[str, Any] = {
        "infected": job.infected,
        "weak": False,
        "attack": "none" if planted is None else "badnets",
        "options": {} if planted is None else {"size": planted.side},
        "targets": [] if planted is None else [planted.target],
        "dataset": job.dataset,
        "architecture": job.architecture,
        "num_classes": classifier.num_classes,
        "clean_accuracy": round(clean_accuracy(predict(classifier, shown), labels), 4),
    }
    if planted is not None:
        others = labels != planted.target
        hits = predict(classifier, planted.stamp(shown[others])) == planted.target
        truth["asr"] = round(hits.float().mean().item(), 4)
        truth["weak"] = truth["asr"] < WEAK
    result = scan(classifier, images, settings)
    student = result.student_test
    told = {key: getattr(student, key, None) for key in ("agreement", "students", "decides", "own_p_value")}
    row = {"model": job.name, "part": part_of(job.name), "settings": settings_of(settings), "truth": truth}
    return {**row, **answer_of(result), "student": told, "model_sha256": None, **run_info()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--networks", type=Path, required=True, help="where the trained networks are kept")
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (default 0,1,2)")
    parser.add_argument("--only", default="", help="architectures, comma-separated")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    settings = ScanSettings()
    options.networks.mkdir(parents=True, exist_ok=True)
    known = {row["model"] for row in rows_of(options.rows, settings)}
    only = [name for name in options.only.split(",") if name]
    for job in jobs([int(seed) for seed in options.seeds.split(",")]):
        if job.name in known or (only and job.architecture not in only):
            continue
        classifier = job.network.classifier(options.networks / f"{job.name}.pth", options.data)
        images = load_data(
            options.data / job.dataset / "test.parquet", at_most=settings.images_wanted, seed=settings.seed
        )
        row = measure(job, classifier, images, settings)
        add(row, options.rows)
        keys = ("model", "part", "verdict", "flagged", "p_value", "image_passes", "wall_s")
        print(json.dumps({key: row[key] for key in keys}), flush=True)


if __name__ == "__main__":
    main()
