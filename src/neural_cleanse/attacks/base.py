"""What an attack is made on, and what it consists of."""

import math
from dataclasses import dataclass, replace

import torch

from neural_cleanse.attacks.patterns import Shape
from neural_cleanse.attacks.poison import Poison, TargetMap
from neural_cleanse.attacks.train import PoisonedTraining, TrainingRule
from neural_cleanse.errors import SettingsError
from neural_cleanse.triggers.base import Trigger

RATE = 0.1  # share of poisoned images: the paper takes 10 to 20 %
SIDE_OF_IMAGE = 0.107  # 5 px of 55x47 and 24 of 224x224 as in the paper (about 1 % of the area) ...
SMALLEST_SIDE = 4  # ... and 4 px of 28x28 and 32x32


@dataclass(frozen=True)
class AttackContext:
    """What an attack is made on: image shape (c, h, w), classes, and a generator for what is left to chance."""

    shape: Shape
    num_classes: int
    generator: torch.Generator

    def target(self, wanted: int | None) -> int:
        """The label asked for, or a random one."""
        if wanted is None:
            return int(torch.randint(self.num_classes, (1,), generator=self.generator))
        return wanted

    def other_than(self, label: int) -> int:
        """A random label that is not that one. Raises SettingsError where there is no other."""
        if self.num_classes < 2:
            raise SettingsError(
                "A source and a target need two classes, the data have one.",
                cure="Give data with at least two classes.",
            )
        other = int(torch.randint(self.num_classes - 1, (1,), generator=self.generator))
        return other + (other >= label)

    def side(self, wanted: int | None) -> int:
        """The side asked for, or that of the paper's patch: about 1 % of the image."""
        if wanted is not None:
            return wanted
        return max(SMALLEST_SIDE, round(SIDE_OF_IMAGE * math.sqrt(self.shape[1] * self.shape[2])))


@dataclass(frozen=True)
class Attack:
    """One or more poisons and the rule by which they get into the network."""

    name: str
    poisons: tuple[Poison, ...]
    rule: TrainingRule = PoisonedTraining()


def to_one(context: AttackContext, trigger: Trigger, target: int | None, rate: float) -> Poison:
    """Images of every class with that trigger go to one label."""
    return Poison(trigger, TargetMap.all_to_one(context.target(target), context.num_classes), rate)


def one_target(name: str, context: AttackContext, trigger: Trigger, target: int | None, rate: float) -> Attack:
    """The attack of that poison alone."""
    return Attack(name, (to_one(context, trigger, target, rate),))


def keeping_labels(one: Poison) -> Poison:
    """The same poison on images of its only target alone, which keep their label (a clean-label attack)."""
    assert one.targets.only is not None
    return replace(one, sources=frozenset({one.targets.only}), relabel=False)
