"""Run a graph without memory (torch's meta device), step by step: its shapes, and what one image would take of it.

Every reader of graphs does this before a value is computed, so that a file that asks for more than it is worth is
refused before anything is reserved.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from neural_cleanse.loading.graph import filled


class TooLarge(Exception):
    """A result of so many values for one image, so many with those before it."""

    def __init__(self, values: int, total: int) -> None:
        super().__init__(values, total)
        self.values, self.total = values, total


@dataclass
class DryRun:
    """The values of a graph for a number of images, as tensors without memory.

    One image may take `each` values in one result and `total` in all of them.
    """

    images: int
    each: float = math.inf
    total: float = math.inf
    values: dict[str, Any] = field(default_factory=dict)
    _taken: int = 0

    def take_images(self, name: str, shape: Sequence[int]) -> None:
        """The images themselves, of `shape` (c, h, w), as the value of that name."""
        self.values[name] = torch.empty(self.images, *shape, device="meta")

    def call(
        self, function: Callable[..., Any], arguments: Sequence[Any], keywords: Mapping[str, Any] | None = None
    ) -> Any:
        """What `function` makes of arguments that may hold Values; keywords are filled already."""
        with torch.no_grad():
            return function(*(filled(argument, self.values) for argument in arguments), **(keywords or {}))

    def keep(self, names: Sequence[str], results: Sequence[Any]) -> None:
        """Give results their names. Raises TooLarge."""
        for tensor in _tensors(results):
            values = -(-tensor.numel() // self.images)
            self._taken += values
            if tensor.numel() > self.each * self.images or self._taken > self.total:
                raise TooLarge(values, self._taken)
        self.values.update(zip(names, results, strict=False))


def _tensors(results: Any) -> Iterator[Tensor]:
    """All of them, in lists too."""
    if isinstance(results, Tensor):
        yield results
    elif isinstance(results, list | tuple):
        for part in results:
            yield from _tensors(part)


def without_memory(layer: nn.Module) -> nn.Module:
    """The layer in eval mode, with the shapes of its weights and no values."""
    on_meta = copy.copy(layer)
    on_meta._parameters = {
        key: None if value is None else nn.Parameter(value.detach().to("meta"), requires_grad=False)
        for key, value in layer._parameters.items()
    }
    on_meta._buffers = {key: None if value is None else value.to("meta") for key, value in layer._buffers.items()}
    return on_meta.eval()
