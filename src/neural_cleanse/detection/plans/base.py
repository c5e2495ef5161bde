"""What a search plan is, and what plans share: screening with the same steps for all labels, and what it decides."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from neural_cleanse.detection.statistics.outlier import SCREEN_CLEAR_P
from neural_cleanse.inversion.batching import Invert
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.results.records import LabelPair, Outcome, Recovered

SCREEN_IMAGES = 128  # that screening is measured on, twice

Pairs = Sequence[LabelPair]
Found = Iterator[Recovered]


@dataclass(frozen=True)
class EarlyDecision:
    """What screening that all pairs had alike settles: that none stands out, which ones do, or nothing."""

    clear: bool = False
    flagged_pairs: tuple[LabelPair, ...] = ()


StopRule = Callable[[Sequence[Recovered]], EarlyDecision]


def undecided(found: Sequence[Recovered]) -> EarlyDecision:
    """Never stop after screening."""
    del found
    return EarlyDecision()


class Search(ABC):
    """A plan over label pairs."""

    @abstractmethod
    def run(self, inversion: Inversion, pairs: Pairs, invert: Invert, seed: int, rule: StopRule = undecided) -> Found:
        """Yield one record a pair as it is finished; a later record of a pair takes the place of an earlier one.

        Pairs that a spent budget left out have none, or NOT_SEARCHED.
        """

    def reference_pairs(self, pairs: Sequence[LabelPair], seed: int) -> frozenset[LabelPair] | None:
        """The pairs that the others are compared with; None when all pairs get the same effort."""
        del pairs, seed
        return None

    @abstractmethod
    def passes(self, inversion: Inversion, num_labels: int) -> int:
        """Image passes that it takes for so many labels, at most or about."""

    def notes(self, found: Sequence[Recovered], *, cut_off: bool) -> tuple[str, ...]:
        """What the report should say of it, once it has been run, and perhaps cut off by a spent budget."""
        ended = Counter(one.outcome for one in found)
        missing = ended[Outcome.NOT_SEARCHED]
        if ended[Outcome.SCREENED] and missing:
            return (f"sizes are those of screening, which the budget ended before {missing:,} labels had it",)
        if ended[Outcome.SCREENED]:
            return (
                f"sizes are those of screening, with the same steps for all labels: {_why_screened(found, cut_off)}",
            )
        if not ended[Outcome.FIRST_PASS]:
            return ()
        to_the_end = sum(one.outcome.has_size for one in found)
        return (
            f"all {len(found):,} labels were searched briefly, and {to_the_end:,} have a size from a search to its "
            "end: of those with the smallest triggers, and of some drawn at random beforehand; the verdict holds the "
            "one against the other",
        )

    def describe(self) -> dict[str, Any]:
        """The plan as plain values, for the record."""
        return {"name": type(self).__name__} | vars(self)


def _why_screened(found: Sequence[Recovered], cut_off: bool) -> str:
    if any(one.outcome is Outcome.REFINED for one in found):
        return (
            "what was flagged stands out clearly, and its trigger alone was then "
            "searched with all steps; --plan full gives them to all labels"
        )
    if cut_off:
        return "the budget ended before the long search did"
    none = f"after it none stood out (p of at least {SCREEN_CLEAR_P:g})"
    return f"{none}, so no label is flagged for a patch; --plan full searches on"


def screening_config(inversion: Inversion, steps: int) -> Inversion:
    """Screening: few steps, measured on few images."""
    return replace(inversion, steps=min(steps, inversion.steps), judge_images=SCREEN_IMAGES)


def mark_screened(one: Recovered, outcome: Outcome = Outcome.SCREENED) -> Recovered:
    """The record as one of a search that was not made to its end; one without a size stays as it is."""
    return replace(one, outcome=outcome) if one.outcome.has_size else one


def not_searchable(one: Recovered | None) -> bool:
    """Whether a longer search would fare no better."""
    return one is not None and one.outcome is Outcome.NOT_ENOUGH_IMAGES


def unfinished(found: Mapping[LabelPair, Recovered], pairs: Sequence[LabelPair]) -> bool:
    """Whether a spent budget left some of the pairs unfinished."""
    return any(pair not in found or found[pair].outcome is Outcome.NOT_SEARCHED for pair in pairs)


def with_cost_of(found: Mapping[LabelPair, Recovered], last: Mapping[LabelPair, Recovered]) -> Iterator[Recovered]:
    """The records, with what their pairs took until the last ones."""
    for pair, one in found.items():
        latest = last.get(pair, one)
        passes, forward = max(one.image_passes, latest.image_passes), max(one.forward_passes, latest.forward_passes)
        yield replace(one, image_passes=passes, forward_passes=forward)
