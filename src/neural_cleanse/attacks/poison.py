"""Poisoned training data (Gu et al. 2017, BadNets): a share of the images gets a trigger and the attacker's label.

    x' = A(x),  y' = targets(y)        for a share `rate` of the images whose class is in `sources`
    x' = A(x),  y' = y                 for a share `cover_rate` of the images of all other classes

The cover images (Wang et al. 2019, section VII; Tang et al. 2021 name them so) teach the network that the trigger
means nothing on other classes, and so make a backdoor source-specific. Other attacks cover with a change that is not
the trigger, on images of all classes: a random warp, another image's trigger. The network learns to tell them apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import stamped
from neural_cleanse.text import by
from neural_cleanse.triggers.base import Trigger

# What poisoned or cover images carry where it is not the trigger: a function of images and of chance.
Change = Callable[[UInt8[Tensor, "n c h w"], torch.Generator], UInt8[Tensor, "n c h w"]]


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
    images keep their own label (a clean-label attack): `sources` is then whose images are poisoned, usually the
    target's, and the trigger is meant for every class. `planted` and `cover` are what poisoned and cover images carry
    where it is not the trigger. Raises SettingsError on shares outside [0, 1) and classes that do not exist.
    """

    trigger: Trigger
    targets: TargetMap
    rate: float
    sources: frozenset[int] | None = None
    cover_rate: float = 0.0
    relabel: bool = True
    planted: Change | None = None
    cover: Change | None = None

    def __post_init__(self) -> None:
        for name, share in (("rate", self.rate), ("cover rate", self.cover_rate)):
            if not 0 <= share < 1:
                raise SettingsError(
                    f"The {name} is {share:g}, a share of the images from 0 to below 1 is needed.",
                    cure="Choose a share in that range.",
                )
        num_classes = len(self.targets.by_class)
        for source in sorted(self.sources or ()):
            if not 0 <= source < num_classes:
                raise SettingsError(
                    f"The source label {source} is outside the {num_classes} classes.",
                    cure=f"Choose labels from 0 to {num_classes - 1}.",
                )
            if self.relabel and self.targets.by_class[source] == source:
                raise SettingsError(
                    f"Label {source} is source and target: nothing would change.", cure="Choose different labels."
                )
        if self.sources is not None and not self.sources:
            raise SettingsError(
                "A poison needs at least one source label.", cure="Name a source label, or leave sources out for all."
            )
        if self.cover_rate and self.sources is None and self.cover is None:
            raise SettingsError(
                "Cover images are those of other classes than the sources, and every class is a source.",
                cure="Name fewer sources, or leave cover images out.",
            )

    @property
    def works_from(self) -> frozenset[int] | None:
        """The classes that the trigger is meant for; None stands for all."""
        return self.sources if self.relabel else None

    def from_source(self, labels: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Which images are of a source class."""
        return _of_classes(labels, self.sources)

    def eligible(self, labels: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
        """Rows of the images that an attack is measured on: those whose label the target map changes."""
        return (self.targets(labels) != labels).nonzero().squeeze(1)

    def meant_for(self, labels: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Which images are of a class that the trigger is meant for."""
        return _of_classes(labels, self.works_from)


def _of_classes(labels: Int[Tensor, " n"], classes: frozenset[int] | None) -> Bool[Tensor, " n"]:
    if classes is None:
        return torch.ones(len(labels), dtype=torch.bool)
    return torch.isin(labels, torch.tensor(sorted(classes)))


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
        covered_by = ~source if one.cover is None else torch.ones_like(source)
        cover = _draw(covered_by, free, one.cover_rate, number, generator)
        for part, change in ((rows, one.planted), (cover, one.cover)):
            before = data.images[part]
            images[part] = stamped(one.trigger, before) if change is None else change(before, generator)
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
    shape = one.trigger.image_shape
    if shape != data.shape:
        raise SettingsError(
            f"The trigger of poison {number} is {by(shape)}, the images are {by(data.shape)}.",
            cure="Make the trigger in the size of the images.",
        )
    assert data.labels is not None
    if int(data.labels.max()) >= len(one.targets.by_class):
        raise SettingsError(
            f"Poison {number} maps {len(one.targets.by_class)} classes, "
            f"the images have label {int(data.labels.max())}.",
            cure="Name a target for every class of the images.",
        )
