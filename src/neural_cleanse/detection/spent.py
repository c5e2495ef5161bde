"""What a spent budget left undone, in words: how far the labels were searched, and what could still hide."""

from collections.abc import Sequence

from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.progress import BudgetTracker
from neural_cleanse.results.records import Outcome, Recovered
from neural_cleanse.text import ranges

SHORT = (Outcome.SCREENED, Outcome.REFINED, Outcome.FIRST_PASS)


def budget_notes(prepared: PreparedScan, tracker: BudgetTracker, found: Sequence[Recovered]) -> tuple[str, ...]:
    """Nothing where the budget cut nothing off."""
    if not tracker.truncated:
        return ()
    labels = [one for one in found if one.pair.source is None]
    open_still = [one for one in labels if one.outcome is Outcome.NOT_SEARCHED]
    begun = [one for one in open_still if one.image_passes]
    untouched = [one.pair.target for one in open_still if not one.image_passes]
    short = sum(one.outcome in SHORT for one in labels)
    said = (
        f"the budget was spent after {tracker.image_passes:,.0f} image passes: "
        f"{len(labels) - len(open_still):,} of {len(labels):,} labels were searched for patches"
    )
    if short:
        said += f", {short:,} of them with the few steps of screening"
    if begun:
        share = sum(one.image_passes for one in begun) / (prepared.inversion.passes * len(begun))
        said += f"; in part: {ranges([one.pair.target for one in begun])} (about {share:.0%} of their steps)"
    if untouched:
        said += f"; not at all: {ranges(untouched)}"
    if open_still:
        said += "; in those a backdoor could still hide"
    return (said,)
