"""Plans for many labels: few get the full effort, held against random ones that get the same, drawn beforehand.

Labels that were given up early never enter that yardstick. `LowCost` is the paper's own (section V-D), `Adaptive` ours.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from neural_cleanse.errors import SettingsError
from neural_cleanse.inversion import Inversion
from neural_cleanse.records import LabelPair, Outcome, Recovered
from neural_cleanse.search.base import (
    Found,
    Invert,
    Pairs,
    Rule,
    Search,
    as_looked,
    brief,
    hopeless,
    paid,
    undecided,
    unfinished,
)


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

    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, rule: Rule = undecided) -> Found:
        """Yield the finished pairs, then what the first phase saw of the others."""
        del rule
        seen: dict[LabelPair, Recovered] = {}
        before: set[LabelPair] = set()
        calm = 0
        for step in range(1, inversion.steps + 1):
            found = {one.pair: one for one in invert(replace(inversion, steps=step), pairs, go_on=True)}
            if unfinished(found, pairs):
                yield from map(as_looked, paid(seen or found, found))
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

    def __post_init__(self) -> None:
        if not self.rungs or self.finalists < 1 or self.reference < 2:
            raise SettingsError("An adaptive search needs a rung, a finalist and two reference labels.")

    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, rule: Rule = undecided) -> Found:
        """Yield the finished pairs, then what earlier rungs saw of the others."""
        left = _shuffled(pairs, seed)
        first, seen = dict[LabelPair, Recovered](), dict[LabelPair, Recovered]()
        for steps, share in self.rungs:
            short = replace(brief(inversion, steps), restarts=1)
            found = {one.pair: one.after(seen.get(one.pair)) for one in invert(short, left)}
            seen |= found
            if unfinished(found, left):
                yield from map(as_looked, paid(first or found, seen))
                return
            if not first and rule([as_looked(one) for one in found.values()]).acquitted:
                yield from map(as_looked, found.values())
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
    possible = [pair for pair in order if not hopeless(seen.get(pair))]
    last, finished = dict(seen), set[LabelPair]()
    for one in invert(inversion, possible, go_on):
        last[one.pair] = one if go_on else one.after(seen.get(one.pair))
        if one.outcome is not Outcome.NOT_SEARCHED:
            finished.add(one.pair)
            yield last[one.pair]
    if any(pair not in finished and not hopeless(seen.get(pair)) for pair in reference):
        yield from map(as_looked, paid(alike, last))
        return
    left = {pair: one for pair, one in seen.items() if pair not in finished}
    for one in paid(left, last):
        yield one if hopeless(one) else replace(one, outcome=Outcome.FIRST_PASS)


def _by_size(found: Mapping[LabelPair, Recovered]) -> list[LabelPair]:
    """Pairs with a size, the smallest first; those without one are no candidates yet."""
    sized = [(one.size, pair) for pair, one in found.items() if one.size is not None]
    return [pair for _, pair in sorted(sized)]


def _shuffled(pairs: Sequence[LabelPair], seed: int) -> list[LabelPair]:
    order = np.random.default_rng((seed, len(pairs))).permutation(len(pairs))
    return [pairs[index] for index in order]
