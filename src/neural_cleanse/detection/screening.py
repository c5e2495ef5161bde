"""When screening, the first steps that all labels have alike, decides by itself."""

import statistics
from collections.abc import Sequence

from neural_cleanse.detection.reasons import count
from neural_cleanse.detection.statistics.outlier import OutlierTest
from neural_cleanse.results.records import Outcome, Recovered, Verdict
from neural_cleanse.text import p_is

SCREEN_LEAST_MEDIAN = 0.05  # of the image: with a trigger in every label 1.6 to 2 %, in clean models 9 % and more
# Share of the image above which a trigger has hardly begun to shrink (masks start at half of it), and share of labels
# that may be there for screening to decide.
NOT_BEGUN, MAX_NOT_BEGUN = 0.3, 0.05
# Fall of a log size lately (restarts.py) from which a label is on its way down, and nobody knows how far: .51 to .66 at
# most in clean networks that end near the sizes of screening, 1.5 in an infected one that ends at a tenth of it.
HALVING = 0.69


def nothing_in_screening(
    found: Sequence[Recovered],
    sizes: Sequence[float],
    test: OutlierTest,
    area: int,
    limit: float | None,
    undecided: str | None,
    clear_p: float,
) -> tuple[Verdict, str]:
    """Clean only if all triggers have begun to shrink and none is even near; in between a longer search decides."""
    middle = statistics.median(sizes)
    falling = sum(one.fall > HALVING for one in found)
    if undecided:
        why = undecided
    elif falling:
        have = "trigger has" if falling == 1 else "triggers have"
        why = f"{falling} {have} just halved in size, and a longer search decides"
    elif test.p_value < clear_p:
        why = f"{p_is(test.p_value)}, and under {clear_p:g} a longer search decides"
    elif middle < SCREEN_LEAST_MEDIAN * area:
        why = (
            f"the median of {middle:.1f} px is under {SCREEN_LEAST_MEDIAN:.0%} of the image, and a longer search "
            "decides"
        )
    else:
        return Verdict.CLEAN, (
            "no patch-like backdoor found in screening; a label with a trigger under "
            f"{limit or 0.0:.1f} px after these steps would have been searched further"
        )
    return Verdict.INCONCLUSIVE, f"nothing was flagged after screening, but not clearly: {why}"


def screening_undecided(found: Sequence[Recovered], area: int) -> str | None:
    """Why screening decides nothing: triggers that do not work yet, or have not begun to shrink."""
    without = count(found, Outcome.ASR_NOT_REACHED)
    if without:
        have = "label has" if without == 1 else "labels have"
        return f"{without} {have} no trigger that works yet, and a longer search decides"
    sizes = [one.size for one in found if one.size is not None]
    early = sum(size > NOT_BEGUN * area for size in sizes)
    if early > MAX_NOT_BEGUN * len(sizes):
        which = "trigger still covers" if early == 1 else "triggers still cover"
        return f"{early} {which} over {NOT_BEGUN:.0%} of the image, and a longer search decides"
    return None
