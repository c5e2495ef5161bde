"""Clean images in memory: uint8, with labels where there are any. A scan needs no labels."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped, UInt8
from torch import Tensor

from neural_cleanse.errors import DataError

GREY_WITHIN = 2  # levels of 255 that the channels of a grey picture may lie apart


@dataclass(frozen=True)
class ClassOrder:
    """Another usual numbering of the same classes: label `old` is `index[old]` there; `names` in that order."""

    what: str
    index: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class ImageSet:
    """n images of one size. `labels` are class indices; `names[i]` is the name of class i.

    `origin` says where the images come from and what was done to them, for the report; `files` which file each was
    read from, where each has one. `orders` are numberings that a model may have been trained with instead.
    `normalised` says that they came as normalised floats, which was undone. `unreadable` names what was left out.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int[Tensor, " n"] | None = None
    names: tuple[str, ...] | None = None
    origin: str = "memory"
    files: tuple[str, ...] | None = None
    orders: tuple[ClassOrder, ...] = ()
    normalised: bool = False
    unreadable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise DataError(
                "There is not one image in the data.", cure="Give some hundred clean images, some of every class."
            )
        if self.labels is not None and len(self.labels) != len(self.images):
            raise DataError(
                f"There are {len(self.images)} images and {len(self.labels)} labels.",
                cure="Give one label for each image.",
            )
        if self.labels is not None and int(self.labels.min()) < 0:
            raise DataError(
                f"{self.origin} has the label {int(self.labels.min())}.",
                cure="Labels count from 0, or --ignore-labels.",
            )
        if self.labels is not None and self.names is not None and int(self.labels.max()) >= len(self.names):
            raise DataError(
                f"{self.origin} has the label {int(self.labels.max())} and names for {len(self.names)} classes.",
                cure="Name every class or none, or pass --ignore-labels.",
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def sha256(self) -> str:
        """A hash of pixels and labels, so that a later run can tell whether it sees the same images."""
        digest = hashlib.sha256(self.images.contiguous().numpy().tobytes())
        if self.labels is not None:
            digest.update(self.labels.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def distinct(self) -> "ImageSet":
        """Without repetitions of the same pixels, the first of each kept."""
        digests = [hashlib.sha256(image.contiguous().numpy()).digest() for image in self.images.cpu()]
        first = {digest: row for row, digest in reversed(list(enumerate(digests)))}
        return self if len(first) == len(self) else self.take(torch.tensor(sorted(first.values())))

    def take(self, rows: Int[Tensor, " m"]) -> "ImageSet":
        """The images at `rows`, in that order."""
        return replace(
            self,
            images=self.images[rows],
            labels=None if self.labels is None else self.labels[rows],
            files=None if self.files is None else tuple(self.files[row] for row in rows.tolist()),
        )

    def without_labels(self) -> "ImageSet":
        """The same images as if nobody had labelled them."""
        return replace(self, labels=None, names=None, orders=())

    def in_order(self, order: ClassOrder) -> "ImageSet":
        """The same images with their classes numbered in another order, one of `orders`."""
        assert self.labels is not None, "only labelled images have orders"
        return replace(self, labels=torch.tensor(order.index)[self.labels], names=order.names, orders=())

    def in_channels(self, count: int) -> "ImageSet | None":
        """Grey images with one channel or with three equal ones, as the other kind; None where colour would be lost."""
        images = in_channels(self.images, count)
        return None if images is None else replace(self, images=images)

    def in_order_of(self, names: tuple[str, ...]) -> "ImageSet":
        """Labels renumbered to the model's own order of names; unchanged where either side has no names.

        Raises DataError when the data have a class that the model does not know.
        """
        if self.labels is None or self.names is None or self.names == names:
            return self
        present = {self.names[label] for label in self.labels.unique().tolist()}
        unknown = sorted(present - set(names))
        if unknown:
            if all(name.isdecimal() for name in present):
                return replace(
                    self, names=names, orders=()
                )  # folders named by class index already are in the model's order
            raise DataError(
                f"The data have classes that the model does not name: {', '.join(unknown[:5])}.",
                cure="Rename the folders to the model's labels, or pass --ignore-labels.",
            )
        index = torch.tensor([names.index(name) if name in present else 0 for name in self.names])
        return replace(self, labels=index[self.labels], names=names, orders=())


def whole_numbers(labels: Any) -> Any:
    """An array of whole numbers as int64. Raises DataError on one beyond it, which would come out as another."""
    if labels.size and labels.dtype.kind in "uf" and (largest := labels.max().item()) >= 2**63:
        raise DataError(f"There is the label {int(largest)}.", cure="Labels count classes from 0.")
    return labels.astype(np.int64)


def in_channels(images: Shaped[Tensor, "n c h w"], count: int) -> Shaped[Tensor, "n d h w"] | None:
    """One channel or three equal ones as the other kind, of any dtype; None where colour would be lost.

    Bytes may differ by GREY_WITHIN levels: lossy compression rounds the channels of a grey picture apart.
    """
    if images.shape[1] == 1 and count == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    if images.shape[1] == 3 and count == 1:
        apart = images.amax(1) - images.amin(1)
        if bool((apart <= (GREY_WITHIN if images.dtype == torch.uint8 else 0)).all()):
            return images[:, 1:2].contiguous()  # green, which compression keeps best
    return None


def balanced(classes: Int[Tensor, " n"], count: int, seed: int) -> Int[Tensor, " m"]:
    """Rows of at most `count` images, as evenly over `classes` as they allow, drawn by `seed`, ascending."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(classes)))
    shuffled = classes[order]
    by_class = torch.argsort(shuffled, stable=True)
    # Position of each image within its own class: taking all firsts, then all seconds ... is balanced.
    grouped = shuffled[by_class]
    starts = torch.searchsorted(grouped, grouped, side="left")
    position = torch.empty_like(by_class)
    position[by_class] = torch.arange(len(classes)) - starts
    chosen = torch.argsort(position, stable=True)[:count]
    return order[chosen].sort().values
