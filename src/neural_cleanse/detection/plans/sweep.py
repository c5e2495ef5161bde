"""Plans that give all labels the same: all steps at once, or screening first, which often settles it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

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
        """Yield one record a pair, and a second one of a pair that took extra steps."""
        del seed, rule
        found = {}
        for one in invert(inversion, pairs, resume=bool(inversion.extra_steps)):
            found[one.pair] = one
            yield one
        yield from _extended(inversion, pairs, invert, found)

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """All steps of all labels."""
        return inversion.passes * num_labels


@dataclass(frozen=True)
class InRounds(Search):
    """A full sweep under a budget: all pairs get a part of the steps, then more, so that any end leaves equal effort.

    What comes to its end is the same, to the last bit, and on the record it is a full sweep: with more time a scan may
    go on as one.
    """

    parts: tuple[float, ...] = (1 / 64, 1 / 16, 1 / 4)

    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, rule: StopRule = undecided) -> Found:
        """Yield what all steps came to, else what the last whole round saw of every pair."""
        del seed, rule
        seen: dict[LabelPair, Recovered] = {}
        for steps in sorted({max(1, int(part * inversion.steps)) for part in self.parts}):
            found = {one.pair: one for one in invert(replace(inversion, steps=steps), pairs, resume=True)}
            if unfinished(found, pairs):
                yield from with_cost_of(seen or {pair: mark_screened(one) for pair, one in found.items()}, found)
                return
            seen = {pair: mark_screened(one) for pair, one in found.items()}
        yield from _all_steps(inversion, pairs, invert, seen)

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """Those of the full sweep."""
        return FullSweep().passes(inversion, num_labels)

    def describe(self) -> dict[str, Any]:
        """That of the full sweep."""
        return FullSweep().describe()


@dataclass(frozen=True)
class Sequential(Search):
    """Screen all pairs with few steps, which often decides; where it does not, all pairs go on to all steps.

    Screening decides by the sizes after `screen_steps` steps, with thresholds of its own (verdict.py): a planted
    trigger is small early (docs/scale.md). Flagged labels then get all steps, for a tighter trigger. The test still
    compares the sizes after screening.
    """

    screen_steps: int = 84

    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, rule: StopRule = undecided) -> Found:
        """Yield what screening saw of every pair, or what all steps came to."""
        if inversion.steps <= self.screen_steps:
            yield from FullSweep().run(inversion, pairs, invert, seed)
            return
        screening = screening_config(inversion, self.screen_steps)
        screened = {one.pair: mark_screened(one) for one in invert(screening, pairs, resume=True)}
        early = EarlyDecision() if unfinished(screened, pairs) else rule(list(screened.values()))
        if early.flagged_pairs:
            flagged = invert(inversion, early.flagged_pairs, resume=True)
            yield from _refined(screened, {one.pair: one for one in flagged})
        elif unfinished(screened, pairs) or early.clear:
            yield from screened.values()
        else:
            yield from _all_steps(inversion, pairs, invert, screened)

    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """Those of the full sweep, which most models do not take."""
        return FullSweep().passes(inversion, num_labels)


def _refined(screened: Mapping[LabelPair, Recovered], whole: Mapping[LabelPair, Recovered]) -> Found:
    """Everything as screening saw it, with the triggers of those that were searched on and found smaller ones."""
    for one in with_cost_of(screened, whole):
        tight = whole.get(one.pair)
        if tight is None or tight.size is None:
            yield one
        else:
            yield replace(one, refined=tight, outcome=Outcome.REFINED)


def _all_steps(inversion: Inversion, pairs: Pairs, invert: Invert, screened: Mapping[LabelPair, Recovered]) -> Found:
    """Screening's pairs with all steps; where a budget cuts that off, as screening saw them all."""
    possible = [pair for pair in pairs if not not_searchable(screened[pair])]
    finished: dict[LabelPair, Recovered] = {}
    for one in invert(inversion, possible, resume=True):
        finished[one.pair] = one
        yield one
    if unfinished(finished, possible):
        yield from with_cost_of(screened, finished)
        return
    yield from (one for pair, one in screened.items() if pair not in finished)
    yield from _extended(inversion, possible, invert, finished)


def _extended(inversion: Inversion, pairs: Pairs, invert: Invert, found: Mapping[LabelPair, Recovered]) -> Found:
    """Extra steps for pairs whose trigger still shrank or did not work.

    A pair that a spent budget cuts off stays as it was.
    """
    shrinking = [one.pair for one in found.values() if one.outcome in (Outcome.STEP_LIMIT, Outcome.ASR_NOT_REACHED)]
    if not inversion.extra_steps or not shrinking or unfinished(found, pairs):
        return
    for one in invert(replace(inversion, steps=inversion.steps + inversion.extra_steps), shrinking, resume=True):
        if one.outcome is not Outcome.NOT_SEARCHED:
            yield one
