"""A search under way: what every row holds between two steps, and how rows leave and join a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neural_cleanse.inversion.cost import CostState, join_rows, take_rows
from neural_cleanse.inversion.sampling import Row


@dataclass(frozen=True)
class InversionState:
    """A search under way, first dimension k everywhere.

    `averaged` is the moving average of the free variables; `candidates` hold the free variables of the last `kept`
    triggers that reached the ASR, slot `num_kept % kept` being next, and behind them one for each class of size;
    `batches` is every row's own count of batches, `lost` the batches of restarts of its pair that lost the race, in one
    row that goes on. `best_size` is what a trigger must be smaller than to be kept; `recent` and `trailing` are
    moving averages of the log size.
    """

    rows: tuple[Row, ...]
    free: tuple[Tensor, ...]
    averaged: tuple[Tensor, ...]
    momentum: tuple[Tensor, ...]
    variance: tuple[Tensor, ...]
    batches: Int[Tensor, " k"]
    lost: Int[Tensor, " k"]
    cost: CostState
    candidates: tuple[Tensor, ...]
    candidate_sizes: Float[Tensor, "k kept"]
    num_kept: Int[Tensor, " k"]
    best_size: Float[Tensor, " k"]
    recent: Float[Tensor, " k"]
    trailing: Float[Tensor, " k"]

    @property
    def batches_taken(self) -> int:
        """Of all rows, those that lost the race included."""
        return int((self.batches + self.lost).sum())

    def take(self, index: Sequence[int]) -> "InversionState":
        """The state of some rows, in that order."""
        rows = torch.tensor(list(index), dtype=torch.long, device=self.best_size.device)

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor | CostState):
                return value[rows] if isinstance(value, Tensor) else take_rows(value, rows)
            if isinstance(value[0], Row):
                return tuple(value[i] for i in index)
            return tuple(tensor[rows] for tensor in value)

        return replace(self, **{field.name: pick(getattr(self, field.name)) for field in fields(self)})

    @staticmethod
    def join(states: Sequence["InversionState"]) -> "InversionState":
        """The rows of all states (of one inversion, on one device), one after the other: the inverse of `take`."""

        def joined(values: Sequence[Any]) -> Any:
            if isinstance(values[0], Tensor | CostState):
                return torch.cat(list(values)) if isinstance(values[0], Tensor) else join_rows(values)
            if isinstance(values[0][0], Row):
                return tuple(row for rows in values for row in rows)
            return tuple(torch.cat(parts) for parts in zip(*values, strict=True))

        named = {field.name: [getattr(state, field.name) for state in states] for field in fields(InversionState)}
        return InversionState(**{name: joined(values) for name, values in named.items()})
