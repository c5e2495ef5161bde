"""Search plans: which label pairs are inverted, in which order, with how many steps. All stream their results.

`FullSweep` gives every label all steps. `Sequential` first looks at all of them briefly and stops where that acquits
the model: an accusation always rests on all steps. The other two are for many labels: they spend the full effort on few
of them, and hold these against a yardstick that is drawn at random before anything is known and gets the same effort;
labels that were given up early never enter it. `LowCost` is the paper's own (section V-D), `Adaptive` ours.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from neural_cleanse.errors import SettingsError
from neural_cleanse.inversion import Inversion
from neural_cleanse.records import LabelPair, Outcome, Recovered

MANY_LABELS = 200  # from which a plan that gives up labels early can save anything (Wang et al.: 2 x 100 finish)
VERY_MANY_LABELS = 500  # from which ours takes fewer image passes than a full sweep, whatever it finds
ACQUIT = 0.2  # p-value of a clean verdict from which a short look is enough
LOOK_IMAGES = 128  # that a short look is measured on, twice
PLANS = ("auto", "full", "sequential", "low-cost", "adaptive")

Pairs = Sequence[LabelPair]
Found = Iterator[Recovered]
Innocence = Callable[[Sequence[Recovered]], float]
"""How sure records that took the same effort make it that no label stands out: a p-value, 0 where they cannot tell."""


def never(found: Sequence[Recovered]) -> float:
    """No look is enough."""
    del found
    return 0.0


@runtime_checkable
class Invert(Protocol):
    """Inverts label pairs, wherever that happens.

    When a budget is spent, pairs that were in work have the outcome NOT_SEARCHED and what they took; the others have
    no record. With `go_on` a later call for the same pairs and more steps continues where this one ended.
    """

    def __call__(self, inversion: Inversion, pairs: Sequence[LabelPair], go_on: bool = False) -> Iterator[Recovered]:
        """One record a pair, in no set order."""


class Search(ABC):
    """A plan over label pairs."""

    @abstractmethod
    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, innocence: Innocence = never) -> Found:
        """Yield one record a pair as it is finished; a later record of a pair takes the place of an earlier one.

        Pairs that a spent budget left out have none, or NOT_SEARCHED.
        """

    def yardstick(self, pairs: Sequence[LabelPair], seed: int) -> frozenset[LabelPair] | None:
        """The pairs that the others are held against; None when all pairs get the same effort."""
        del pairs, seed
        return None

    @abstractmethod
    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """Image passes that it takes for so many labels, at most or about."""

    def notes(self, found: Sequence[Recovered], *, cut_off: bool) -> tuple[str, ...]:
        """What the report should say of it, once it has been run, and perhaps cut off by a spent budget."""
        if any(one.outcome is Outcome.LOOKED for one in found):
            why = (
                "the budget ended before the long search did"
                if cut_off
                else f"after it none stood out (p of at least {ACQUIT:g}), which acquits; --plan full searches on"
            )
            return (f"sizes are those of a short look that all labels had alike: {why}",)
        given_up = sum(one.outcome is Outcome.FIRST_PASS for one in found)
        if not given_up:
            return ()
        return (
            f"all {len(found):,} labels were searched briefly, {len(found) - given_up:,} to their end: those with the "
            "smallest triggers, and some drawn at random beforehand; the verdict holds the one against the other",
        )

    def describe(self) -> dict[str, Any]:
        """The plan as plain values, for the record."""
        return {"name": type(self).__name__} | vars(self)


@dataclass(frozen=True)
class FullSweep(Search):
    """Every pair gets the full number of steps, as in the paper."""

    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, innocence: Innocence = never) -> Found:
        """Yield one record a pair."""
        del seed, innocence
        return invert(inversion, pairs)

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """All steps of all labels."""
        return inversion.passes * num_labels


@dataclass(frozen=True)
class Sequential(Search):
    """A short look at all pairs; all steps, afresh, unless the look acquits the model.

    It acquits where the sizes after `look` steps make a clean verdict at a p-value of at least `acquit`. So a model is
    never accused for a short look, and rarely spared for one: a planted trigger is small early (docs/speed.md).
    """

    look: int = 80
    acquit: float = ACQUIT

    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, innocence: Innocence = never) -> Found:
        """Yield what the look saw of every pair, or what all steps came to."""
        del seed
        if inversion.steps <= self.look:
            yield from invert(inversion, pairs)
            return
        looked = {one.pair: one for one in invert(_brief(inversion, self.look), pairs)}
        if _cut_off(looked, pairs) or innocence(list(looked.values())) >= self.acquit:
            yield from map(_looked, looked.values())
            return
        possible = [pair for pair in pairs if not _hopeless(looked[pair])]
        finished: dict[LabelPair, Recovered] = {}
        for one in invert(inversion, possible):
            finished[one.pair] = one.after(looked[one.pair])
            yield finished[one.pair]
        if _cut_off(finished, possible):
            yield from map(_looked, _paid(looked, finished))
        else:
            yield from (one for pair, one in looked.items() if pair not in finished)

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """With all steps, which most clean models do not take."""
        if inversion.steps <= self.look:
            return inversion.passes * num_labels
        return (inversion.passes + replace(inversion, steps=self.look).passes) * num_labels


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

    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, innocence: Innocence = never) -> Found:
        """Yield the finished pairs, then what the first phase saw of the others."""
        del innocence
        seen: dict[LabelPair, Recovered] = {}
        before: set[LabelPair] = set()
        calm = 0
        for step in range(1, inversion.steps + 1):
            found = {one.pair: one for one in invert(replace(inversion, steps=step), pairs, go_on=True)}
            if _cut_off(found, pairs):
                yield from map(_looked, _paid(seen or found, found))
                return
            seen = found
            smallest = set(_by_size(seen)[: self.top])
            calm = calm + 1 if len(smallest & before) > self.overlap else 0
            if calm == self.rounds:
                break
            before = smallest
        drawn = _shuffled(pairs, seed)[: self.top]
        yield from _finish(inversion, _by_size(seen)[: self.top], drawn, invert, seen, seen, go_on=True)

    def yardstick(self, pairs: Sequence[LabelPair], seed: int) -> frozenset[LabelPair]:
        """As many random labels as finish for being small."""
        return frozenset(_shuffled(pairs, seed)[: self.top])

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """With a first phase of twice its least length."""
        first = min(2 * self.rounds / inversion.steps, 1.0)
        finished = min(2 * self.top, num_labels)
        return round(inversion.passes * (finished + first * (num_labels - finished)))


@dataclass(frozen=True)
class Adaptive(Search):
    """Successive halving (Jamieson and Talwalkar 2016): a short pass over all labels, a longer one over the smallest.

    `rungs` are pairs of steps, and the share of all labels that goes on after so many; the smallest of these (a
    twentieth of all labels, at least 16 and at most `finalists`) and the reference labels (a tenth, at least 64 and at
    most `reference`) get `last` steps of `last_batch` images with `restarts` (None: what the inversion has). Steps are
    a statistical choice: with many labels the sizes soon after the attack works lie closest together, and a trigger
    that was planted stands out most; more images a step make them less noisy (docs/many-labels.md). Every rung starts
    afresh, which costs some passes and keeps memory small.

    The first rung can acquit the model, as the look of `Sequential` can. Where the budget ends before the reference
    labels are done, and they are no yardstick, the sizes are those of the first rung, which all labels had alike.
    """

    rungs: tuple[tuple[int, float], ...] = ((60, 0.25), (80, 0.05))
    last: int | None = 90
    last_batch: int | None = 16
    restarts: int | None = 3
    finalists: int = 64
    reference: int = 128
    acquit: float = ACQUIT

    def __post_init__(self) -> None:
        if not self.rungs or self.finalists < 1 or self.reference < 2:
            raise SettingsError("An adaptive search needs a rung, a finalist and two reference labels.")

    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, innocence: Innocence = never) -> Found:
        """Yield the finished pairs, then what earlier rungs saw of the others."""
        left = _shuffled(pairs, seed)
        first, seen = dict[LabelPair, Recovered](), dict[LabelPair, Recovered]()
        for steps, share in self.rungs:
            short = replace(_brief(inversion, steps), restarts=1)
            found = {one.pair: one.after(seen.get(one.pair)) for one in invert(short, left)}
            seen |= found
            if _cut_off(found, left):
                yield from map(_looked, _paid(first or found, seen))
                return
            if not first and innocence(list(found.values())) >= self.acquit:
                yield from map(_looked, found.values())
                return
            first = first or found
            left = _by_size(found)[: self._going_on(share, len(pairs))]
        finalists = left[: self._num_finalists(len(pairs))]
        drawn = _shuffled(pairs, seed)[: self._num_reference(len(pairs))]
        yield from _finish(self._whole(inversion), finalists, drawn, invert, seen, first)

    def yardstick(self, pairs: Sequence[LabelPair], seed: int) -> frozenset[LabelPair]:
        """Random labels, drawn before anything is known of them."""
        return frozenset(_shuffled(pairs, seed)[: self._num_reference(len(pairs))])

    def _num_finalists(self, num_labels: int) -> int:
        return min(self.finalists, max(16, num_labels // 20))

    def _num_reference(self, num_labels: int) -> int:
        return min(self.reference, max(64, num_labels // 10))

    def _going_on(self, share: float, num_labels: int) -> int:
        return max(self._num_finalists(num_labels), round(share * num_labels))

    def _whole(self, inversion: Inversion) -> Inversion:
        """What finalists and references get."""
        return replace(
            inversion,
            steps=min(self.last or inversion.steps, inversion.steps),
            batch_size=self.last_batch or inversion.batch_size,
            restarts=self.restarts or inversion.restarts,
        )

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """Every rung, and the end."""
        a_step = inversion.batch_size * inversion.batches_per_step
        total, left = 0, num_labels
        for steps, share in self.rungs:
            total += left * steps * a_step
            left = min(left, self._going_on(share, num_labels))
        most = self._num_finalists(num_labels) + self._num_reference(num_labels)
        return total + min(num_labels, most) * self._whole(inversion).passes


def plan(name: str, num_labels: int, preset: str) -> Search:
    """The plan of that name, as far as there are labels enough for it. Raises SettingsError."""
    if name not in PLANS:
        raise SettingsError(f"There is no search {name!r}; the names are {', '.join(PLANS)}.")
    if name == "low-cost" and num_labels >= MANY_LABELS:
        return LowCost()
    if name in ("full", "low-cost") or preset != "default":
        return FullSweep()
    least = {"auto": VERY_MANY_LABELS, "adaptive": MANY_LABELS}.get(name)
    return Sequential() if least is None or num_labels < least else Adaptive()


def _finish(
    inversion: Inversion,
    finalists: Sequence[LabelPair],
    reference: Sequence[LabelPair],
    invert: Invert,
    seen: Mapping[LabelPair, Recovered],
    alike: Mapping[LabelPair, Recovered],
    *,
    go_on: bool = False,
) -> Iterator[Recovered]:
    """The finalists and the reference labels to their end, then the others as they were last seen.

    The smallest few come first, then the yardstick: where a budget ends here, they can be told apart. Where it ends
    before the yardstick is whole, all labels are given as they were when all had taken the same effort (`alike`).
    """
    first = finalists[: len(finalists) // 8 + 1]
    order = dict.fromkeys([*first, *reference, *finalists])
    possible = [pair for pair in order if not _hopeless(seen.get(pair))]
    last, finished = dict(seen), set[LabelPair]()
    for one in invert(inversion, possible, go_on):
        last[one.pair] = one if go_on else one.after(seen.get(one.pair))
        if one.outcome is not Outcome.NOT_SEARCHED:
            finished.add(one.pair)
            yield last[one.pair]
    if any(pair not in finished and not _hopeless(seen.get(pair)) for pair in reference):
        yield from map(_looked, _paid(alike, last))
        return
    left = {pair: one for pair, one in seen.items() if pair not in finished}
    for one in _paid(left, last):
        yield one if _hopeless(one) else replace(one, outcome=Outcome.FIRST_PASS)


def _brief(inversion: Inversion, steps: int) -> Inversion:
    """A look: few steps, measured on few images."""
    return replace(inversion, steps=min(steps, inversion.steps), judge_images=LOOK_IMAGES)


def _looked(one: Recovered) -> Recovered:
    """The record as one of a search that was not made to its end."""
    return replace(one, outcome=Outcome.LOOKED) if one.outcome.has_size else one


def _hopeless(one: Recovered | None) -> bool:
    return one is not None and one.outcome is Outcome.NOT_ENOUGH_IMAGES


def _cut_off(found: Mapping[LabelPair, Recovered], pairs: Sequence[LabelPair]) -> bool:
    """Whether a spent budget left some of the pairs unfinished."""
    return any(pair not in found or found[pair].outcome is Outcome.NOT_SEARCHED for pair in pairs)


def _paid(found: Mapping[LabelPair, Recovered], last: Mapping[LabelPair, Recovered]) -> Iterator[Recovered]:
    """The records, with what their pairs took until the last ones."""
    for pair, one in found.items():
        latest = last.get(pair, one)
        passes, forward = max(one.image_passes, latest.image_passes), max(one.forward_passes, latest.forward_passes)
        yield replace(one, image_passes=passes, forward_passes=forward)


def _by_size(found: Mapping[LabelPair, Recovered]) -> list[LabelPair]:
    """Pairs with a size, the smallest first; those without one are no candidates yet."""
    sized = [(one.size, pair) for pair, one in found.items() if one.size is not None]
    return [pair for _, pair in sorted(sized)]


def _shuffled(pairs: Sequence[LabelPair], seed: int) -> list[LabelPair]:
    order = np.random.default_rng((seed, len(pairs))).permutation(len(pairs))
    return [pairs[index] for index in order]
