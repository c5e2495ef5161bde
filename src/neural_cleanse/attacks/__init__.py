"""Infected models with a known answer. Shares the trigger classes with the search and nothing else of it."""

from typing import TYPE_CHECKING

from neural_cleanse.lazy import lookup

if TYPE_CHECKING:
    from neural_cleanse.attacks.base import Attack, AttackContext
    from neural_cleanse.attacks.catalogue import ATTACKS
    from neural_cleanse.attacks.make import Recipe, load_for
    from neural_cleanse.attacks.poison import Poison
    from neural_cleanse.attacks.train import Training, TrainingRule

__all__ = ["ATTACKS", "Attack", "AttackContext", "Poison", "Recipe", "Training", "TrainingRule", "load_for", "make"]
__getattr__ = lookup(
    __name__,
    {
        "ATTACKS": "attacks.catalogue",
        "Attack": "attacks.base",
        "AttackContext": "attacks.base",
        "Poison": "attacks.poison",
        "Recipe": "attacks.make",
        "Training": "attacks.train",
        "TrainingRule": "attacks.train",
        "load_for": "attacks.make",
        "make": "attacks.make.",
    },
)
