"""Plans that give all labels the same: all steps at once, or screening first, which often settles it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from neural_cleanse.detection.plans.base import (
    EarlyDecision,
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
from neural_cleanse.inversion.batching import Invert
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.results.records import LabelPair, Outcome, Recovered


@dataclass(frozen=True)
class FullSweep(Search):
    """Every pair gets the full number of steps, as in the paper."""

    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, rule: StopRule = undecided) -> Found:
        """Yield one record a pair."""
        del seed, rule
        return invert(inversion, pairs)

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """All steps of all labels."""
        return inversion.passes * num_labels


@dataclass(frozen=True)
class Sequential(Search):
    """Screen all pairs with few steps, which often decides; where it does not, all pairs get all steps, afresh.

    Screening decides by the sizes after `screen_steps` steps, with thresholds of its own (verdict.py): a planted
    trigger is small early (docs/scale.md). Flagged labels then get all steps, for a tighter trigger. The test still
    compares the sizes after screening.
    """

    screen_steps: int = 80

    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, rule: StopRule = undecided) -> Found:
        """Yield what screening saw of every pair, or what all steps came to."""
        del seed
        if inversion.steps <= self.screen_steps:
            yield from invert(inversion, pairs)
            return
        screened = {
            one.pair: mark_screened(one) for one in invert(screening_config(inversion, self.screen_steps), pairs)
        }
        early = EarlyDecision() if unfinished(screened, pairs) else rule(list(screened.values()))
        if early.flagged_pairs:
            yield from _refined(screened, {one.pair: one for one in invert(inversion, early.flagged_pairs)})
        elif unfinished(screened, pairs) or early.clear:
            yield from screened.values()
        else:
            yield from _all_steps(inversion, pairs, invert, screened)

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """With all steps for all, which most models do not take."""
        if inversion.steps <= self.screen_steps:
            return inversion.passes * num_labels
        return (inversion.passes + replace(inversion, steps=self.screen_steps).passes) * num_labels


def _refined(screened: Mapping[LabelPair, Recovered], whole: Mapping[LabelPair, Recovered]) -> Found:
    """Everything as screening saw it, with the triggers of those that were searched on and found smaller ones."""
    for one in with_cost_of(screened, {pair: one.after(screened[pair]) for pair, one in whole.items()}):
        tight = whole.get(one.pair)
        if tight is None or tight.size is None:
            yield one
        else:
            yield replace(one, refined=tight, outcome=Outcome.REFINED)


def _all_steps(inversion: Inversion, pairs: Pairs, invert: Invert, screened: Mapping[LabelPair, Recovered]) -> Found:
    """Screening's pairs with all steps; where a budget cuts that off, as screening saw them all."""
    possible = [pair for pair in pairs if not not_searchable(screened[pair])]
    finished: dict[LabelPair, Recovered] = {}
    for one in invert(inversion, possible):
        finished[one.pair] = one.after(screened[one.pair])
        yield finished[one.pair]
    if unfinished(finished, possible):
        yield from with_cost_of(screened, finished)
    else:
        yield from (one for pair, one in screened.items() if pair not in finished)
