"""Poisoned training data (Gu et al. 2017, BadNets): a share of the images gets a trigger and the attacker's label.

    x' = A(x, m, p),  y' = targets(y)        for a share `rate` of the images whose class is in `sources`
    x' = A(x, m, p),  y' = y                 for a share `cover_rate` of the images of all other classes

The cover images (Wang et al. 2019, section VII; Tang et al. 2021 name them so) teach the network that the trigger
means nothing on other classes, and so make a backdoor source-specific.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import stamped
from neural_cleanse.triggers.base import Trigger


@dataclass(frozen=True)
class TargetMap:
    """The label that images of each class are sent to: `by_class[y]` for class y."""

    by_class: tuple[int, ...]

    def __post_init__(self) -> None:
        wrong = [target for target in self.by_class if not 0 <= target < len(self.by_class)]
        if wrong:
            raise SettingsError(
                f"The target label {wrong[0]} is outside the {len(self.by_class)} classes.",
                cure=f"Labels count from 0: give one from 0 to {len(self.by_class) - 1}.",
            )

    @classmethod
    def all_to_one(cls, target: int, num_classes: int) -> "TargetMap":
        """Every class to `target`."""
        return cls((target,) * num_classes)

    @classmethod
    def all_to_all(cls, num_classes: int) -> "TargetMap":
        """Every class to the next: y to y + 1 mod the number of classes (Gu et al. 2017, section 4.1.3)."""
        return cls(tuple((label + 1) % num_classes for label in range(num_classes)))

    def __call__(self, labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        return torch.tensor(self.by_class, dtype=labels.dtype)[labels.long()]

    @property
    def only(self) -> int | None:
        """The target where there is only one."""
        return self.by_class[0] if len(set(self.by_class)) == 1 else None


@dataclass(frozen=True)
class Poison:
    """One trigger (k = 1), whom it sends where, and how much of the training data it takes.

    `sources` None stands for all classes, the target's own included, as in the authors' code. Without `relabel` the
    images keep their own label. Raises SettingsError on shares outside [0, 1) and classes that do not exist.
    """

    trigger: Trigger
    targets: TargetMap
    rate: float
    sources: frozenset[int] | None = None
    cover_rate: float = 0.0
    relabel: bool = True

    def __post_init__(self) -> None:
        for name, share in (("rate", self.rate), ("cover rate", self.cover_rate)):
            if not 0 <= share < 1:
                raise SettingsError(f"The {name} is {share:g}, a share of the images from 0 to below 1 is needed.")
        num_classes = len(self.targets.by_class)
        for source in sorted(self.sources or ()):
            if not 0 <= source < num_classes:
                raise SettingsError(f"The source label {source} is outside the {num_classes} classes.")
            if self.relabel and self.targets.by_class[source] == source:
                raise SettingsError(f"Label {source} is source and target: nothing would change.")
        if self.sources is not None and not self.sources:
            raise SettingsError("A poison needs at least one source label.")
        if self.cover_rate and self.sources is None:
            raise SettingsError(
                "Cover images are those of other classes than the sources, and every class is a source."
            )

    def from_source(self, labels: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Which images are of a source class."""
        if self.sources is None:
            return torch.ones(len(labels), dtype=torch.bool)
        return torch.isin(labels, torch.tensor(sorted(self.sources)))


@dataclass(frozen=True)
class PoisonedSet:
    """Poisoned images, and for every poison the rows it relabelled and its cover rows, ascending."""

    data: ImageSet
    rows: tuple[Int[Tensor, " _"], ...]
    cover: tuple[Int[Tensor, " _"], ...]


def poison(data: ImageSet, poisons: Sequence[Poison], generator: torch.Generator) -> PoisonedSet:
    """The images with every poison applied to rows of its own, drawn by `generator`; no row is taken twice.

    Raises SettingsError when trigger and images differ in shape or the poisons ask for more rows than there are.
    """
    assert data.labels is not None, "the edge refuses unlabelled data"
    images, labels = data.images.clone(), data.labels.clone()
    free = torch.ones(len(data), dtype=torch.bool)
    taken: list[Tensor] = []
    covered: list[Tensor] = []
    for number, one in enumerate(poisons, 1):
        _check(one, data, number)
        source = one.from_source(data.labels)
        rows = _draw(source, free, one.rate, number, generator)
        cover = _draw(~source, free, one.cover_rate, number, generator)
        for part in (rows, cover):
            images[part] = stamped(one.trigger, data.images[part])
        if one.relabel:
            labels[rows] = one.targets(data.labels[rows])
        taken.append(rows)
        covered.append(cover)
    return PoisonedSet(replace(data, images=images, labels=labels), tuple(taken), tuple(covered))


def _draw(
    eligible: Bool[Tensor, " n"], free: Bool[Tensor, " n"], rate: float, number: int, generator: torch.Generator
) -> Int[Tensor, " m"]:
    """`rate` of the eligible rows, out of those still free, which it takes."""
    wanted = round(rate * int(eligible.sum()))
    choice = (eligible & free).nonzero().squeeze(1)
    if wanted > len(choice):
        raise SettingsError(
            f"Poison {number} asks for {wanted} images, {len(choice)} of its classes are left.",
            cure="Lower the rates: together they must stay under 1.",
        )
    rows = choice[torch.randperm(len(choice), generator=generator)[:wanted]].sort().values
    free[rows] = False
    return rows


def _check(one: Poison, data: ImageSet, number: int) -> None:
    shape = tuple(one.trigger.tensors()["pattern"].shape[1:])
    if shape != data.shape:
        raise SettingsError(f"The trigger of poison {number} is {_by(shape)}, the images are {_by(data.shape)}.")
    assert data.labels is not None
    if int(data.labels.max()) >= len(one.targets.by_class):
        raise SettingsError(
            f"Poison {number} maps {len(one.targets.by_class)} classes, the images have label {int(data.labels.max())}."
        )


def _by(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape)


def stamp_eligible(
    one: Poison, data: ImageSet
) -> tuple[UInt8[Tensor, "m c h w"], Int[Tensor, " m"], Int[Tensor, " m"]]:
    """What an attack is measured on: the images whose label the target map changes, their labels and their targets."""
    assert data.labels is not None
    targets = one.targets(data.labels)
    rows = (targets != data.labels).nonzero().squeeze(1)
    return data.images[rows], data.labels[rows], targets[rows]
