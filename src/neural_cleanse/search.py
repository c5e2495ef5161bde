"""Search plans: which label pairs are inverted, in which order, with how many steps. All stream their results.

`FullSweep` gives every label all steps. The other two spend the full effort on few labels, and hold them against a
yardstick that is drawn at random before anything is known and gets the same effort: labels that were given up early
never enter it. `LowCost` is the paper's own (section V-D), `Adaptive` ours.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from neural_cleanse.errors import SettingsError
from neural_cleanse.inversion import Inversion
from neural_cleanse.records import LabelPair, Outcome, Recovered

MANY_LABELS = 200  # from which a plan that gives up labels early can save anything (Wang et al.: 2 x 100 finish)
PLANS = ("auto", "full", "low-cost", "adaptive")


@runtime_checkable
class Invert(Protocol):
    """Inverts label pairs, wherever that happens; yields fewer when a budget is spent.

    With `go_on` a later call for the same pairs and more steps continues where this one ended.
    """

    def __call__(self, inversion: Inversion, pairs: Sequence[LabelPair], go_on: bool = False) -> Iterator[Recovered]:
        """One record a pair, in no set order."""


class Search(ABC):
    """A plan over label pairs."""

    @abstractmethod
    def run(self, inversion: Inversion, pairs: Sequence[LabelPair], invert: Invert, seed: int) -> Iterator[Recovered]:
        """Yield one record a pair as it is finished; none for pairs that a spent budget leaves out."""

    @abstractmethod
    def yardstick(self, pairs: Sequence[LabelPair], seed: int) -> frozenset[LabelPair] | None:
        """The pairs that the others are held against; None when all pairs get the same effort."""

    @abstractmethod
    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """Image passes that it takes for so many labels, at most or about."""

    def notes(self, pairs: Sequence[LabelPair]) -> tuple[str, ...]:
        """What the report should say of it."""
        del pairs
        return ()

    def describe(self) -> dict[str, Any]:
        """The plan as plain values, for the record."""
        return {"name": type(self).__name__} | vars(self)


@dataclass(frozen=True)
class FullSweep(Search):
    """Every pair gets the full number of steps, as in the paper."""

    def run(self, inversion: Inversion, pairs: Sequence[LabelPair], invert: Invert, seed: int) -> Iterator[Recovered]:
        """Yield one record a pair."""
        del seed
        return invert(inversion, pairs)

    def yardstick(self, pairs: Sequence[LabelPair], seed: int) -> None:
        """None: all pairs are each other's."""
        del pairs, seed

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """All steps of all labels."""
        return inversion.passes * num_labels


@dataclass(frozen=True)
class LowCost(Search):
    """The paper's two phases: rank all labels after each step until the smallest stay the same, then finish those.

    The first phase ends when `rounds` times in a row more than `overlap` of the `top` smallest were among the `top` of
    the step before. The paper finishes as many random labels beside them; here these are drawn before the first step,
    so that they are a sample of all labels and not of those that were found large. The first phase keeps the state of
    every label in memory.
    """

    top: int = 100
    overlap: int = 50
    rounds: int = 10
    from_labels: int = MANY_LABELS

    def run(self, inversion: Inversion, pairs: Sequence[LabelPair], invert: Invert, seed: int) -> Iterator[Recovered]:
        """Yield the finished pairs, then what the first phase saw of the others."""
        if len(pairs) < self.from_labels:
            yield from invert(inversion, pairs)
            return
        seen: dict[LabelPair, Recovered] = {}
        before: set[LabelPair] = set()
        calm = 0
        for step in range(1, inversion.steps + 1):
            seen |= {one.pair: one for one in invert(replace(inversion, steps=step), pairs, go_on=True)}
            smallest = set(_by_size(seen)[: self.top])
            calm = calm + 1 if len(smallest & before) > self.overlap else 0
            if calm == self.rounds:
                break
            before = smallest
        drawn = _shuffled(pairs, seed)[: self.top]
        yield from _finish(inversion, _by_size(seen)[: self.top], drawn, invert, seen, go_on=True)

    def yardstick(self, pairs: Sequence[LabelPair], seed: int) -> frozenset[LabelPair] | None:
        """As many random labels as finish for being small."""
        return frozenset(_shuffled(pairs, seed)[: self.top]) if len(pairs) >= self.from_labels else None

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """With a first phase of twice its least length."""
        if num_labels < self.from_labels:
            return inversion.passes * num_labels
        first = min(2 * self.rounds / inversion.steps, 1.0)
        return round(inversion.passes * (2 * self.top + first * (num_labels - 2 * self.top)))

    def notes(self, pairs: Sequence[LabelPair]) -> tuple[str, ...]:
        if len(pairs) < self.from_labels:
            return ()
        return (_said(self.top, self.top, len(pairs)),)


@dataclass(frozen=True)
class Adaptive(Search):
    """Successive halving (Jamieson and Talwalkar 2016): a short pass over all labels, a longer one over the smallest.

    `rungs` are pairs of steps, and the share of all labels that goes on after so many; `finalists` of these, and the
    `reference` labels, get `last` steps (None: all that the inversion has) and `restarts` (None: the inversion's own).
    Steps are a statistical choice: with many labels the sizes soon after the attack works lie closest together, and a
    trigger that was planted stands out most (docs/many-labels.md). Every rung starts afresh, which costs some passes
    and keeps memory small.
    """

    rungs: tuple[tuple[int, float], ...] = ((60, 0.25), (80, 0.05))
    last: int | None = 110
    restarts: int | None = 3
    finalists: int = 64
    reference: int = 128
    from_labels: int = MANY_LABELS

    def __post_init__(self) -> None:
        if not self.rungs or self.finalists < 1 or self.reference < 2:
            raise SettingsError("An adaptive search needs a rung, a finalist and two reference labels.")

    def run(self, inversion: Inversion, pairs: Sequence[LabelPair], invert: Invert, seed: int) -> Iterator[Recovered]:
        """Yield the finished pairs, then what earlier rungs saw of the others."""
        if len(pairs) < self.from_labels:
            yield from invert(inversion, pairs)
            return
        left, seen = _shuffled(pairs, seed), dict[LabelPair, Recovered]()
        for steps, share in self.rungs:
            short = replace(inversion, steps=min(steps, inversion.steps), restarts=1)
            found = {one.pair: _together(one, seen.get(one.pair)) for one in invert(short, left)}
            seen |= found
            left = _by_size(found)[: max(self.finalists, round(share * len(pairs)))]
        whole = self._whole(inversion)
        drawn = _shuffled(pairs, seed)[: self.reference]
        yield from _finish(whole, left[: self.finalists], drawn, invert, seen)

    def yardstick(self, pairs: Sequence[LabelPair], seed: int) -> frozenset[LabelPair] | None:
        """Random labels, drawn before anything is known of them."""
        return frozenset(_shuffled(pairs, seed)[: self.reference]) if len(pairs) >= self.from_labels else None

    def _whole(self, inversion: Inversion) -> Inversion:
        """What finalists and references get."""
        steps = min(self.last or inversion.steps, inversion.steps)
        return replace(inversion, steps=steps, restarts=self.restarts or inversion.restarts)

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """Every rung, and the end."""
        if num_labels < self.from_labels:
            return inversion.passes * num_labels
        a_step = inversion.batch_size * inversion.batches_per_step
        total, left = 0, num_labels
        for steps, share in self.rungs:
            total += left * steps * a_step
            left = min(left, max(self.finalists, round(share * num_labels)))
        return total + min(num_labels, self.finalists + self.reference) * self._whole(inversion).passes

    def notes(self, pairs: Sequence[LabelPair]) -> tuple[str, ...]:
        if len(pairs) < self.from_labels:
            return ()
        return (_said(self.finalists, self.reference, len(pairs)),)


def plan(name: str, num_labels: int, preset: str, *, budget: bool) -> Search:
    """The plan of that name; `auto` is adaptive for many labels, or where a budget may end the search at any time.

    Raises SettingsError.
    """
    if name not in PLANS:
        raise SettingsError(f"There is no search {name!r}; the names are {', '.join(PLANS)}.")
    if name == "full":
        return FullSweep()
    if name == "low-cost":
        return LowCost()
    if num_labels >= MANY_LABELS and preset == "default":
        return Adaptive()
    if name == "adaptive" or budget:
        return Adaptive(rungs=((60, 1.0),), last=None, restarts=None, from_labels=0)
    return FullSweep()


def _finish(
    inversion: Inversion,
    finalists: Sequence[LabelPair],
    reference: Sequence[LabelPair],
    invert: Invert,
    seen: Mapping[LabelPair, Recovered],
    *,
    go_on: bool = False,
) -> Iterator[Recovered]:
    """The finalists and the reference labels to their end, then the others as they were last seen.

    The smallest few come first, then the yardstick: where a budget ends here, they can be told apart.
    """
    first = finalists[: len(finalists) // 8 + 1]
    order = dict.fromkeys([*first, *reference, *finalists])
    possible = [pair for pair in order if not _hopeless(seen.get(pair))]
    finished = set()
    for one in invert(inversion, possible, go_on):
        finished.add(one.pair)
        yield one if go_on else _together(one, seen.get(one.pair))
    for pair, one in seen.items():
        if pair not in finished:
            yield one if _hopeless(one) else replace(one, outcome=Outcome.FIRST_PASS)


def _said(finalists: int, reference: int, num_labels: int) -> str:
    return (
        f"all {num_labels:,} labels were searched briefly, the {finalists} with the smallest triggers and {reference} "
        "labels drawn at random beforehand to their end; the verdict holds the one against the other"
    )


def _hopeless(one: Recovered | None) -> bool:
    return one is not None and one.outcome is Outcome.NOT_ENOUGH_IMAGES


def _together(one: Recovered, before: Recovered | None) -> Recovered:
    """The record with the passes of the earlier ones."""
    if before is None:
        return one
    return replace(
        one,
        image_passes=one.image_passes + before.image_passes,
        forward_passes=one.forward_passes + before.forward_passes,
    )


def _by_size(found: Mapping[LabelPair, Recovered]) -> list[LabelPair]:
    """Pairs with a size, the smallest first; those without one are no candidates yet."""
    sized = [(one.size, pair) for pair, one in found.items() if one.size is not None]
    return [pair for _, pair in sorted(sized)]


def _shuffled(pairs: Sequence[LabelPair], seed: int) -> list[LabelPair]:
    order = np.random.default_rng((seed, len(pairs))).permutation(len(pairs))
    return [pairs[index] for index in order]
