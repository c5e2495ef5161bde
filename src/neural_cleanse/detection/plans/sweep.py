"""Plans that give all labels the same: all steps at once, or a short look first, which often settles it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from neural_cleanse.detection.plans.base import (
    Found,
    Pairs,
    Rule,
    Ruling,
    Search,
    as_looked,
    brief,
    hopeless,
    paid,
    undecided,
    unfinished,
)
from neural_cleanse.inversion.batching import Invert
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.results.records import LabelPair, Outcome, Recovered


@dataclass(frozen=True)
class FullSweep(Search):
    """Every pair gets the full number of steps, as in the paper."""

    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, rule: Rule = undecided) -> Found:
        """Yield one record a pair."""
        del seed, rule
        return invert(inversion, pairs)

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """All steps of all labels."""
        return inversion.passes * num_labels


@dataclass(frozen=True)
class Sequential(Search):
    """A short look at all pairs, which often settles it; all steps for all, afresh, where it does not.

    It settles what the sizes after `look` steps make a verdict of, which for a look has thresholds of its own
    (verdict.py): a planted trigger is small early (docs/speed.md). What it accuses then gets all steps by itself, for a
    tighter trigger; the sizes that are compared stay those that all had alike.
    """

    look: int = 80

    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, rule: Rule = undecided) -> Found:
        """Yield what the look saw of every pair, or what all steps came to."""
        del seed
        if inversion.steps <= self.look:
            yield from invert(inversion, pairs)
            return
        looked = {one.pair: as_looked(one) for one in invert(brief(inversion, self.look), pairs)}
        ruling = Ruling() if unfinished(looked, pairs) else rule(list(looked.values()))
        if ruling.accused:
            yield from _refined(looked, {one.pair: one for one in invert(inversion, ruling.accused)})
        elif unfinished(looked, pairs) or ruling.acquitted:
            yield from looked.values()
        else:
            yield from _all_steps(inversion, pairs, invert, looked)

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """With all steps for all, which most models do not take."""
        if inversion.steps <= self.look:
            return inversion.passes * num_labels
        return (inversion.passes + replace(inversion, steps=self.look).passes) * num_labels


def _refined(looked: Mapping[LabelPair, Recovered], whole: Mapping[LabelPair, Recovered]) -> Found:
    """Everything as the look saw it, with the triggers of those that were searched on and found smaller ones."""
    for one in paid(looked, {pair: one.after(looked[pair]) for pair, one in whole.items()}):
        tight = whole.get(one.pair)
        if tight is None or tight.size is None:
            yield one
        else:
            yield replace(one, refined=tight, outcome=Outcome.REFINED)


def _all_steps(inversion: Inversion, pairs: Pairs, invert: Invert, looked: Mapping[LabelPair, Recovered]) -> Found:
    """The look's pairs with all steps; where a budget cuts that off, as the look saw them all."""
    possible = [pair for pair in pairs if not hopeless(looked[pair])]
    finished: dict[LabelPair, Recovered] = {}
    for one in invert(inversion, possible):
        finished[one.pair] = one.after(looked[one.pair])
        yield finished[one.pair]
    if unfinished(finished, possible):
        yield from paid(looked, finished)
    else:
        yield from (one for pair, one in looked.items() if pair not in finished)
