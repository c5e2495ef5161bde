"""Search plans: which label pairs are inverted, in which order, with how many steps. All stream their results.

`FullSweep` gives every label all steps, `InRounds` the same for a budget, `Sequential` screening first (sweep.py);
`LowCost` and `Adaptive` are for many labels (many.py).
"""

from neural_cleanse.choices import Plan, Preset
from neural_cleanse.detection.plans.base import EarlyDecision, Search, StopRule
from neural_cleanse.detection.plans.many import Adaptive, LowCost
from neural_cleanse.detection.plans.sweep import FullSweep, InRounds, Sequential
from neural_cleanse.errors import SettingsError

__all__ = [
    "Adaptive",
    "EarlyDecision",
    "FullSweep",
    "InRounds",
    "LowCost",
    "Plan",
    "Search",
    "Sequential",
    "StopRule",
    "plan",
]

MANY_LABELS = 200  # from which a plan that gives up labels early can save anything (Wang et al.: 2 x 100 finish)
VERY_MANY_LABELS = 500  # from which ours takes fewer image passes than a full sweep, whatever it finds


def plan(name: str, num_labels: int, preset: str) -> Search:
    """The plan of that name, as far as there are labels enough for it. Raises SettingsError."""
    if name not in tuple(Plan):
        raise SettingsError(
            f"There is no search {name!r}; the names are {', '.join(Plan)}.", cure="Choose one of them."
        )
    if name == Plan.LOW_COST and num_labels >= MANY_LABELS:
        return LowCost()
    if name in (Plan.FULL, Plan.LOW_COST) or preset != Preset.DEFAULT:
        return FullSweep()
    least = {Plan.AUTO: VERY_MANY_LABELS, Plan.ADAPTIVE: MANY_LABELS}.get(Plan(name))
    return Sequential() if least is None or num_labels < least else Adaptive()
