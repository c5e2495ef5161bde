"""Plans for many labels: few get the full effort, compared with random ones that get the same, drawn beforehand.

Labels that were given up early never enter that reference. `LowCost` is the paper's own (section V-D), `Adaptive` ours.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from neural_cleanse.detection.plans.base import (
    Found,
    Pairs,
    Search,
    StopRule,
    mark_screened,
    not_searchable,
    screening_config,
    undecided,
    unfinished,
    with_cost_of,
)
from neural_cleanse.errors import SettingsError
from neural_cleanse.inversion.batching import Invert
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.results.records import LabelPair, Outcome, Recovered


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

    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, rule: StopRule = undecided) -> Found:
        """Yield the finished pairs, then what the first phase saw of the others."""
        del rule
        seen: dict[LabelPair, Recovered] = {}
        before: set[LabelPair] = set()
        calm = 0
        for step in range(1, inversion.steps + 1):
            found = {one.pair: one for one in invert(replace(inversion, steps=step), pairs, resume=True, record=False)}
            if unfinished(found, pairs):
                yield from map(mark_screened, with_cost_of(seen or found, found))
                return
            seen = found
            smallest = set(_by_size(seen)[: self.top])
            calm = calm + 1 if len(smallest & before) > self.overlap else 0
            if calm == self.rounds:
                break
            before = smallest
        drawn = _shuffled(pairs, seed)[: self.top]
        yield from _finish(inversion, _in_order(seen)[: self.top], drawn, invert, seen, seen, resume=True)

    def reference_pairs(self, pairs: Sequence[LabelPair], seed: int) -> frozenset[LabelPair]:
        """As many random labels as finish for being small."""
        return frozenset(_shuffled(pairs, seed)[: self.top])

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """With a first phase of twice its least length."""
        first = min(2 * self.rounds / inversion.steps, 1.0)
        finished = min(2 * self.top, num_labels)
        return round(inversion.passes * (finished + first * (num_labels - finished)))


@dataclass(frozen=True)
class Adaptive(Search):
    """Screening orders all labels; the smallest, and random reference labels, are then searched with more steps.

    All labels get `screen_steps` steps with one restart. Labels without a working trigger then get `longer` steps:
    screening drops no label. The smallest (a twentieth of all labels, at least 16 and at most `finalists`) and the
    reference labels (a tenth, at least 64 and at most `reference`) get `last` steps of `last_batch` images with
    `restarts` (None: what the inversion has). Steps are a statistical choice: with many labels the sizes soon after the
    attack works lie closest together, and a planted trigger stands out most; more images a step make them less noisy
    (docs/scale.md). Every search starts afresh, which costs some passes and keeps memory small.

    Screening can clear the model, as in `Sequential`. Where the budget ends before all reference labels are done, the
    sizes are those of screening, which had the same steps for all labels.
    """

    screen_steps: int = 80
    longer: int = 160
    last: int | None = 90
    last_batch: int | None = 16
    restarts: int | None = 3
    finalists: int = 64
    reference: int = 128

    def __post_init__(self) -> None:
        if self.screen_steps < 1 or self.finalists < 1 or self.reference < 2:
            raise SettingsError(
                "An adaptive search needs a step, a finalist and two reference labels.",
                cure="Raise them to at least 1, 1 and 2.",
            )

    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, rule: StopRule = undecided) -> Found:
        """Yield the finished pairs, then what screening saw of the others."""
        shuffled = _shuffled(pairs, seed)
        first = {one.pair: one for one in invert(self._screening_config(inversion, self.screen_steps), shuffled)}
        if unfinished(first, pairs) or rule([mark_screened(one) for one in first.values()]).clear:
            yield from map(mark_screened, first.values())
            return
        late = [pair for pair, one in first.items() if one.outcome is Outcome.ASR_NOT_REACHED]
        again = {
            one.pair: one.after(first[one.pair]) for one in invert(self._screening_config(inversion, self.longer), late)
        }
        if unfinished(again, late):
            yield from map(mark_screened, with_cost_of(first, again))
            return
        seen = first | again
        finalists = _in_order(seen)[: self._num_finalists(len(pairs))]
        drawn = shuffled[: self._num_reference(len(pairs))]
        yield from _finish(self._whole(inversion), finalists, drawn, invert, seen, first)

    def reference_pairs(self, pairs: Sequence[LabelPair], seed: int) -> frozenset[LabelPair]:
        """Random labels, drawn before anything is known of them."""
        return frozenset(_shuffled(pairs, seed)[: self._num_reference(len(pairs))])

    def _num_finalists(self, num_labels: int) -> int:
        return min(self.finalists, max(16, num_labels // 20))

    def _num_reference(self, num_labels: int) -> int:
        return min(self.reference, max(64, num_labels // 10))

    def _screening_config(self, inversion: Inversion, steps: int) -> Inversion:
        return replace(screening_config(inversion, steps), restarts=1, race=())

    def _whole(self, inversion: Inversion) -> Inversion:
        """What finalists and references get."""
        return replace(
            inversion,
            steps=min(self.last or inversion.steps, inversion.steps),
            batch_size=self.last_batch or inversion.batch_size,
            restarts=self.restarts or inversion.restarts,
            race=(),
        )

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """Screening, where it leaves no label without a size, and the end."""
        most = self._num_finalists(num_labels) + self._num_reference(num_labels)
        screening = self._screening_config(inversion, self.screen_steps).passes
        return screening * num_labels + min(num_labels, most) * self._whole(inversion).passes


def _finish(
    inversion: Inversion,
    finalists: Sequence[LabelPair],
    reference: Sequence[LabelPair],
    invert: Invert,
    seen: Mapping[LabelPair, Recovered],
    alike: Mapping[LabelPair, Recovered],
    *,
    resume: bool = False,
) -> Iterator[Recovered]:
    """The finalists and the reference labels to their end, then the others as they were last seen.

    The smallest few come first, then the reference: where a budget ends here, they can be told apart, and finalists
    whose turn did not come were not searched: one of them might have stood out. Where it ends before the reference is
    whole, all labels are given as they were when all had taken the same effort (`alike`).
    """
    first = finalists[: len(finalists) // 8 + 1]
    order = dict.fromkeys([*first, *reference, *finalists])
    possible = [pair for pair in order if not not_searchable(seen.get(pair))]
    last, finished = dict(seen), set[LabelPair]()
    for one in invert(inversion, possible, resume):
        last[one.pair] = one if resume else one.after(seen.get(one.pair))
        if one.outcome is not Outcome.NOT_SEARCHED:
            finished.add(one.pair)
            yield last[one.pair]
    if any(pair not in finished and not not_searchable(seen.get(pair)) for pair in reference):
        yield from map(mark_screened, with_cost_of(alike, last))
        return
    left = {pair: one for pair, one in seen.items() if pair not in finished}
    for one in with_cost_of(left, last):
        if one.pair in finalists and not not_searchable(one):
            yield replace(one, outcome=Outcome.NOT_SEARCHED, trigger=None, size=None)
        else:
            yield mark_screened(one, Outcome.FIRST_PASS)


def _by_size(found: Mapping[LabelPair, Recovered]) -> list[LabelPair]:
    """Pairs with a size, the smallest first."""
    sized = [(one.size, pair) for pair, one in found.items() if one.size is not None]
    return [pair for _, pair in sorted(sized)]


def _in_order(found: Mapping[LabelPair, Recovered]) -> list[LabelPair]:
    """All pairs, the smallest first and those without a size last."""
    return list(dict.fromkeys([*_by_size(found), *found]))


def _shuffled(pairs: Sequence[LabelPair], seed: int) -> list[LabelPair]:
    order = np.random.default_rng((seed, len(pairs))).permutation(len(pairs))
    return [pairs[index] for index in order]
