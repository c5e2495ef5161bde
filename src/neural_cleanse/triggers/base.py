"""What every kind of trigger can do: change images and say how big it is. Some can be searched for by gradient.

A trigger holds k candidates at once, one a row. The same class serves the search (decoded from free
variables at every step) and an attack (built once from a known mask). Most triggers of attacks are not searched for:
they are a `Trigger` and no `SearchedTrigger`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

T = TypeVar("T", bound="Trigger")
SMALLEST_SIZE = 1e-3  # px; a smaller trigger is none at all, and this one has a logarithm


class Trigger(ABC):
    """k triggers: a frozen dataclass of values, no optimiser state."""

    @abstractmethod
    def __call__(self, images: Float[Tensor, "k n c h w"]) -> Float[Tensor, "k n c h w"]:
        """The images with row i's trigger on all of row i, pixels in [0, 1]."""

    @abstractmethod
    def size(self) -> Float[Tensor, " k"]:
        """How much of an image each trigger takes, in pixels: the quantity compared between labels.

        All of its pixels where the trigger may change every one of them.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The tensors among the dataclass's fields, first dimension k."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images that the triggers are made for."""

    def to(self: T, device: torch.device) -> T:
        """The same triggers on that device, where the images are."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return replace(self, **moved)  # type: ignore[type-var]  # every trigger is a dataclass


class SearchedTrigger(Trigger):
    """A kind of trigger that unconstrained variables stand for, so that an optimiser can look for it."""

    @classmethod
    @abstractmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "SearchedTrigger":
        """The triggers that `tensors` wrote down. Raises TypeError on other names."""

    @classmethod
    @abstractmethod
    def decode(cls, free: Sequence[Tensor]) -> "SearchedTrigger":
        """The triggers that unconstrained variables stand for (differentiable)."""

    @classmethod
    @abstractmethod
    def size_of(cls, free: Sequence[Tensor]) -> Float[Tensor, " k"]:
        """`decode(free).size()`, without decoding what does not count."""

    @classmethod
    @abstractmethod
    def random_free(cls, shape: tuple[int, int, int], generator: torch.Generator) -> tuple[Tensor, ...]:
        """Random free variables of one candidate on images of `shape` (c, h, w): a start of the search."""
