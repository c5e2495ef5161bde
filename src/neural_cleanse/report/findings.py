"""What is known of each thing that was flagged, and what is weak about that. Page, Markdown and SARIF share it."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.report.content import FEW_TO_COMPARE
from neural_cleanse.report.text import MAPPED, Flagged, Titles, flagged
from neural_cleanse.results.records import Evidence, LabelPair, LabelResult, Outcome, ScanResult
from neural_cleanse.text import p_is

NEAR_ALPHA = 10.0  # a p within this factor of alpha would change sides with a little less luck
WIDE_SPREAD = 0.22  # sd of log size over restarts: as much as labels of one clean network differ (outlier.py)
FEW_IMAGES = 50  # under which a success rate of 100 % is known to some 7 points only
LOW_SUCCESS = 0.5  # of a class: half of its images resist
CLASSES_NAMED = 5
EXAMPLES = 6  # images of a map, of as many of its classes as there are
NO_WEAK_POINT = "Enough images, every class, p far from alpha, and searches that agree."


@dataclass(frozen=True)
class SourceRow:
    """How many images of one class the trigger sends to the target, with the 95 % interval of the share."""

    title: str
    hits: int
    trials: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """The share itself; 0 without images."""
        return self.hits / self.trials if self.trials else 0.0


@dataclass(frozen=True)
class Finding:
    """One thing that was flagged, with what is known of it and what is weak about that."""

    flagged: Flagged
    evidence: Evidence
    sources: tuple[SourceRow, ...]
    weak: tuple[str, ...]

    @property
    def pair(self) -> LabelPair:
        """The pair; of a map the first."""
        return self.flagged.pairs[0]

    @property
    def row(self) -> LabelResult:
        """Its size, p-value and success."""
        return self.flagged.row

    @property
    def heading(self) -> str:
        """What it is called."""
        return self.flagged.heading


def findings(result: ScanResult) -> tuple[Finding, ...]:
    """Everything flagged that has evidence; all pairs of a map are one."""
    titles, found = Titles(result), []
    for one in flagged(result):
        seen = [each for each in result.evidence if each.pair in one.pairs and (each.kind in MAPPED) == one.is_map]
        if not seen:
            continue
        sources = tuple(
            SourceRow(
                titles.label(rate.source) if not one.is_map else titles.pair(each.pair),
                rate.hits, rate.trials, *clopper_pearson(rate.hits, rate.trials),
            )
            for each in seen
            for rate in each.by_source
        )  # fmt: skip
        found.append(Finding(one, _together(seen), sources, _weak(result, one, sources)))
    return tuple(found)


def _together(seen: Sequence[Evidence]) -> Evidence:
    """The evidence of a map as one, with images of many classes; evidence alone stays as it is.

    Of each class an image on which the trigger works comes first: a single failure would stand for its whole class.
    """
    if len(seen) == 1:
        return seen[0]
    order = [(turn, each, place) for each in seen for turn, place in enumerate(_works_first(each))]
    shown = [(each, place) for _, each, place in sorted(order, key=lambda one: one[0])[:EXAMPLES]]
    after = [each.after[place] for each, place in shown if place < len(each.after)]
    return dataclasses.replace(
        seen[0],
        before=torch.stack([each.before[place] for each, place in shown]) if shown else seen[0].before,
        after=torch.stack(after) if after else seen[0].after,
        answers_before=tuple(each.answers_before[place] for each, place in shown),
        answers_after=tuple(each.answers_after[place] for each, place in shown),
        by_source=tuple(rate for each in seen for rate in each.by_source),
    )


def _works_first(evidence: Evidence) -> list[int]:
    """The places of its images, those on which the trigger works first."""
    return sorted(range(len(evidence.before)), key=lambda place: evidence.answers_after[place] != evidence.target)


def _weak(result: ScanResult, one: Flagged, sources: tuple[SourceRow, ...]) -> tuple[str, ...]:
    """Where the evidence against one label is thin, in sentences."""
    row, found = one.row, list[str]()
    if row.p_value is not None and result.alpha / NEAR_ALPHA < row.p_value:
        found.append(f"{p_is(row.p_value)} is near alpha, {result.alpha:g}: a close call.")
    sized = sum(other.size is not None for other in result.labels)
    if sized < FEW_TO_COMPARE:
        found.append(f"Only {sized} labels have a trigger size to compare with.")
    trials = sum(source.trials for source in sources)
    if trials < FEW_IMAGES:
        found.append(f"Its success was measured on {trials} images only.")
    low = [source for source in sources if source.trials and source.share < LOW_SUCCESS]
    if low:
        named = [f"{source.title} ({source.hits} of {source.trials})" for source in low[:CLASSES_NAMED]]
        more = f" and {len(low) - CLASSES_NAMED} more classes" if len(low) > CLASSES_NAMED else ""
        found.append(f"It seldom works on images of {', '.join(named)}{more}.")
    shown = row.shown
    if any(each.pair == row.pair and not each.has_pictures for each in result.evidence):
        found.append("It acts between the layers: no image shows it, and repairs of patches may not reach it.")
    elif row.log_size_sd is None:
        found.append("One search only: how much its size varies from search to search is not known.")
    elif row.log_size_sd > WIDE_SPREAD:
        found.append(f"Repeated searches typically differ in size by a factor of {math.exp(row.log_size_sd):.2f}.")
    if one.by_margin:
        found.append(
            "The patch shown is as large as other labels have by nature: it is no proof, and not the attacker's."
        )
        return tuple(found)
    if shown.outcome is Outcome.STEP_LIMIT:
        found.append("Its size was still shrinking when the steps ran out: the true one is smaller.")
    if shown.outcome is Outcome.SCREENED:
        found.append("The budget ended before its trigger was searched with all steps: the true one is smaller.")
    return tuple(found)
