"""Where the sizes leave the verdict open and no student decides, all labels are searched again from other starts.

A search can end in a poor local minimum: of a planted 3x3 grid in a WRN-16-1, two of eight searches ended at 22 px and
six at 4 to 8. All labels get the same, and the smaller size of each stands, so that none is favoured.
"""

from collections.abc import Sequence
from dataclasses import replace

from neural_cleanse.choices import Preset
from neural_cleanse.detection.plans import FullSweep
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.stages import Stages, Subject
from neural_cleanse.detection.statistics.outlier import MANY_LABELS
from neural_cleanse.detection.student_test import FULL, Compared, unconfirmed
from neural_cleanse.results.records import LabelPair, Outcome, Recovered, Verdict

OTHER_STARTS = "patches from other starts"
SEARCHED_TO_END = (*FULL, Outcome.ASR_NOT_REACHED)  # to the end
LEFT_OPEN = "the sizes left the verdict open"
SEED_STEP = 7919  # between the seeds of the searches
MOST_SEARCHES = 3  # the first included


def search_again(
    prepared: PreparedScan, found: Sequence[Recovered], compared: Compared, stages: Stages
) -> tuple[tuple[Recovered, ...], Compared]:
    """The records of all searches and the decision on them; unchanged where the verdict is not open for its sizes."""
    best = tuple(found)
    for searches in range(2, MOST_SEARCHES + 1):
        if not _is_open(prepared, best, compared) or stages.spent():
            break
        again = _searched(prepared, searches - 1, stages)
        if any(one.pair not in again or again[one.pair].outcome not in SEARCHED_TO_END for one in best):
            return tuple(one.after(again.get(one.pair)) for one in best), compared  # a budget ended it
        best = tuple(_smaller(one, again[one.pair]) for one in best)
        decision = unconfirmed(prepared.decide(best, searches), prepared)
        notes = tuple(note for note in compared.notes if not note.startswith(LEFT_OPEN))
        compared = replace(compared, decision=decision, notes=(*notes, _said(searches)))
    return best, compared


def _said(searches: int) -> str:
    return (
        f"{LEFT_OPEN}, so all labels were searched {searches} times, from other starts each time, and the smallest "
        f"trigger of each was kept; the p-values were multiplied by {searches} for it"
    )


def _searched(prepared: PreparedScan, number: int, stages: Stages) -> dict[LabelPair, Recovered]:
    """All labels, searched as before but for the starts and the order of images."""
    images, inversion = prepared.images, prepared.inversion
    shuffled = replace(images, seed=images.seed + number * SEED_STEP)
    subject = Subject(prepared.classifier, shuffled, f"other-starts-{number}")
    report = stages.report(OTHER_STARTS, inversion.passes * len(prepared.pairs), len(prepared.pairs))
    searched = FullSweep().run(inversion, prepared.pairs, stages.invert(subject, report), prepared.settings.seed)
    return {one.pair: one for one in searched}


def _is_open(prepared: PreparedScan, found: Sequence[Recovered], compared: Compared) -> bool:
    """Whether only the sizes of labels that took all steps stand in the way, and no student has decided."""
    decided = compared.student_test is not None and compared.student_test.decides
    return (
        compared.decision.verdict is Verdict.INCONCLUSIVE
        and not decided
        and prepared.doubt is None
        and prepared.baseline_sizes is None
        and prepared.settings.preset == Preset.DEFAULT
        and len(found) == prepared.num_labels <= MANY_LABELS
        and all(one.outcome in SEARCHED_TO_END for one in found)
    )


def _smaller(one: Recovered, other: Recovered) -> Recovered:
    """The record with the smaller trigger, with what both took."""
    if other.size is not None and (one.size is None or other.size < one.size):
        return other.after(one)
    return one.after(other)
