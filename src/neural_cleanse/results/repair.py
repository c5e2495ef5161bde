"""What a repair did, as plain frozen values."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from neural_cleanse.results.provenance import Provenance
from neural_cleanse.results.records import Verdict


@dataclass(frozen=True)
class Measurement:
    """Clean accuracy, and for every trigger how many images it sends to its target, of how many."""

    accuracy: float
    hits: tuple[int, ...]
    trials: tuple[int, ...]

    @property
    def worst_asr(self) -> float:
        """The highest attack success rate of any trigger; 0 without triggers."""
        return max((hits / trials for hits, trials in zip(self.hits, self.trials, strict=True) if trials), default=0.0)


@dataclass(frozen=True)
class TracePoint:
    """One try of a mitigation, measured on the images that decide.

    `amount` is the learning rate of an unlearning, or the share of the layer's neurons that are pruned. `outcome` is
    "kept", or why it was not, in words; "" in records of before.
    """

    method: str
    amount: float
    accuracy: float
    worst_asr: float
    outcome: str = ""


class RepairStatus(enum.Enum):
    """How a repair ended; the value is what JSON holds."""

    REPAIRED = "repaired"
    FAILED = "failed"
    NOTHING_TO_REPAIR = "nothing_to_repair"


@dataclass(frozen=True)
class TriggerChange:
    """Of `trials` images, how many one trigger sent to its target before and after.

    `found_in` is the number of the scan that recovered it, or of the search that was then made beside it: 1 for the one
    that was given, or 0 for the attacker's own. The size of a shift of activations is in units of their spread.
    """

    target: int
    source: int | None
    name: str | None
    found_in: int
    size: float
    hits_before: int
    hits_after: int
    trials: int
    shift: bool = False


@dataclass(frozen=True)
class ClassChange:
    """Of `trials` clean images of one class, how many were answered right before and after."""

    label: int
    name: str | None
    right_before: int
    right_after: int
    trials: int


@dataclass(frozen=True)
class RepairRound:
    """One round: what was done about which labels, every try of it, and what a new scan then said.

    `fresh_worst` is the highest success of the `fresh_tried` triggers that were then recovered anew from the model as
    it came, `fresh_working` how many of them worked more often than they may: where there were some, the next
    round began without a scan.
    """

    number: int
    targets: tuple[int, ...]
    method: str | None
    trace: tuple[TracePoint, ...]
    verdict: Verdict | None
    flagged: tuple[int, ...]
    fresh_tried: int = 0
    fresh_working: int = 0
    fresh_worst: float = 0.0


@dataclass(frozen=True)
class RepairResult:
    """What a repair did and what it is worth; `triggers` and `classes` are of images that decided nothing."""

    status: RepairStatus
    reason: str
    max_drop: float
    max_asr: float
    triggers: tuple[TriggerChange, ...]
    verified: tuple[TriggerChange, ...]
    classes: tuple[ClassChange, ...]
    rounds: tuple[RepairRound, ...]
    num_images: Mapping[str, int]
    wall_s: float
    provenance: Provenance

    @property
    def accuracy(self) -> tuple[float, float]:
        """Clean accuracy before and after."""
        trials = sum(change.trials for change in self.classes)
        before = sum(change.right_before for change in self.classes)
        after = sum(change.right_after for change in self.classes)
        return (before / trials, after / trials) if trials else (0.0, 0.0)
