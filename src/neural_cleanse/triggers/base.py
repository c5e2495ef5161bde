"""What every kind of trigger can do: change images, say how big it is, and be searched for by gradient.

A trigger holds k candidates at once, one a row. The same class serves the search (decoded from free
variables at every step) and an attack (built once from a known mask).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class Trigger(ABC):
    """k candidate triggers: values only, no optimiser state."""

    @abstractmethod
    def __call__(self, images: Float[Tensor, "k n c h w"]) -> Float[Tensor, "k n c h w"]:
        """The images with row i's trigger on all of row i, pixels in [0, 1]."""

    @abstractmethod
    def size(self) -> Float[Tensor, " k"]:
        """How much of an image each trigger takes, in pixels: the quantity compared between labels."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The named tensors that define the triggers, first dimension k."""

    @classmethod
    @abstractmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Trigger":
        """The triggers that `tensors` wrote down. Raises TypeError on other names."""

    @classmethod
    @abstractmethod
    def decode(cls, free: Sequence[Tensor]) -> "Trigger":
        """The triggers that unconstrained variables stand for (differentiable)."""

    @classmethod
    @abstractmethod
    def size_of(cls, free: Sequence[Tensor]) -> Float[Tensor, " k"]:
        """`decode(free).size()`, without decoding what does not count."""

    @classmethod
    @abstractmethod
    def random_free(cls, shape: tuple[int, int, int], generator: torch.Generator) -> tuple[Tensor, ...]:
        """Random free variables of one candidate on images of `shape` (c, h, w): a start of the search."""
