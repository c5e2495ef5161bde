"""Successive halving over the restarts of a label pair (Jamieson and Talwalkar 2016): only the smallest go on.

`marks` say how many restarts of a pair go on after so many batches.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from neural_cleanse.inversion.state import InversionState
from neural_cleanse.results.records import LabelPair


def to_next_mark(state: InversionState, marks: Mapping[int, int]) -> Iterator[int]:
    """Batches to the next mark, of the rows that have one before them."""
    for count in state.batches.tolist():
        if any(mark > count for mark in marks):
            yield min(mark - count for mark in marks if mark > count)


def without_losers(state: InversionState, marks: Mapping[int, int]) -> InversionState:
    """The state without the restarts that have lost; their batches are counted in one that goes on."""
    counts = state.batches.tolist()
    racing: dict[LabelPair, list[int]] = {}
    for index, (row, count) in enumerate(zip(state.rows, counts, strict=True)):
        if count in marks:
            racing.setdefault(row.pair, []).append(index)
    # A row that kept nothing comes after all that did, by the size that its mask has now.
    area = state.free[0][0].numel()
    order = torch.where(state.best_size.isfinite(), state.best_size, state.recent.exp() + area).tolist()
    lost, gone = state.lost.clone(), set[int]()
    for indices in racing.values():
        first, *others = sorted(indices, key=order.__getitem__)
        losers = others[marks[counts[first]] - 1 :]
        lost[first] += sum(counts[index] for index in losers) + int(lost[losers].sum())
        gone.update(losers)
    if not gone:
        return state
    return replace(state, lost=lost).take([index for index in range(len(counts)) if index not in gone])
