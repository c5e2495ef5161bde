"""load_parts: training, validation and test images of one data set, for whoever trains."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images.load import load_data

VALIDATION = 0.1  # share of the training images held out, as in the paper (35,288 of GTSRB's 39,209 are trained on)
SPLIT_SEED = 0  # of the data set, not of the model: every model holds out the same images
_PARTS = {"train": ("train", "training"), "test": ("test", "val", "validation")}


@dataclass(frozen=True)
class Parts:
    """Disjoint, labelled, of one size. `test` is None in a data set without a test part of its own."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet | None
    num_classes: int

    @property
    def measured(self) -> ImageSet:
        """The images that results are measured on: the test part, else the validation part."""
        return self.validation if self.test is None else self.test


def load_parts(path: str | Path, *, resize: tuple[int, int] | None = None) -> Parts:
    """A directory with a train and a test part (train.parquet, train.npz or train/, and so for test), or one set.

    A tenth of the training images, drawn once for the data set, are held out for validation. Raises DataError on
    unlabelled images and on parts that do not fit each other.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"There is no data set {path}.", cure="Check the path, or the name under --data.")
    train_path, test_path = part_path(path, "train"), part_path(path, "test")
    whole = _labelled(train_path or path, resize)
    test = _labelled(test_path, resize) if train_path and test_path else None
    if test is not None and (test.shape, test.names) != (whole.shape, whole.names):
        raise DataError(
            f"The training and test images of {path} differ in size or in the names of their classes.",
            cure="Bring both to one size and one set of classes.",
        )
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out = round(VALIDATION * len(whole))
    if held_out == 0:
        raise DataError(
            f"{path} has {len(whole)} training images: too few to hold a tenth out.", cure="Give more images."
        )
    sets = [part for part in (whole, test) if part is not None]
    largest = max(int(part.labels.max()) for part in sets if part.labels is not None)
    num_classes = len(whole.names) if whole.names else largest + 1
    if num_classes < 2:
        raise DataError(
            f"{path} has images of one class: a network tells at least two apart.",
            cure="Give images of at least two classes.",
        )
    return Parts(
        train=whole.take(order[held_out:].sort().values),
        validation=whole.take(order[:held_out].sort().values),
        test=test,
        num_classes=num_classes,
    )


def part_path(directory: Path, part: Literal["train", "test"]) -> Path | None:
    """Where the training or the test images of a data set lie; None where the directory has no such part."""
    candidates = [directory / f"{name}{suffix}" for name in _PARTS[part] for suffix in (".parquet", ".npz", "")]
    return next((candidate for candidate in candidates if directory.is_dir() and candidate.exists()), None)


def _labelled(path: Path, resize: tuple[int, int] | None) -> ImageSet:
    data = load_data(path, resize=resize)
    if data.labels is None:
        raise DataError(f"{path} has no labels, and a network is trained on labels.", cure="Give labelled images.")
    return data
