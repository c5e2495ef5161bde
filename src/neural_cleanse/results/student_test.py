"""What students of a model said of its sizes, as a plain value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StudentTest:
    """What students, networks taught the model's answers, said of sizes that left doubt.

    `agreement` is the share of `trials` other images on which the first answers as the model does, `plan` how it was
    made. Where they decided (`decides`), `students` is how many did, `sizes` are theirs by label in px, `spread` is how
    far the logarithms of clean ones differ, and `own_p_value` is of the model's sizes alone.
    """

    decides: bool
    agreement: float
    trials: int
    plan: Mapping[str, Any]
    students: int = 0
    sizes: Mapping[int, float] = field(default_factory=dict)
    spread: float | None = None
    own_p_value: float | None = None
