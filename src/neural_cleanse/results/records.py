"""What a scan found, as plain frozen values. Nothing here can run a model; reports and repairs read these."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jaxtyping import UInt8
from torch import Tensor

from neural_cleanse.results.kind import Kind
from neural_cleanse.results.provenance import Provenance
from neural_cleanse.results.student_test import StudentTest
from neural_cleanse.triggers.base import Trigger

SCHEMA_VERSION = 3


@dataclass(frozen=True, order=True)
class LabelPair:
    """Which images are to become which label: `source` None stands for images of any class."""

    target: int
    source: int | None = None


class OfPair:
    """What names its label pair by two fields."""

    target: int
    source: int | None

    @property
    def pair(self) -> LabelPair:
        """The pair as one value."""
        return LabelPair(self.target, self.source)


class Outcome(enum.Enum):
    """How the search for one label ended: the value that JSON holds, a remark, and its meaning in a clause."""

    remark: str
    meaning: str

    CONVERGED = "converged", "settled", "the success rate holds and the size has settled"
    STEP_LIMIT = "step_limit", "still shrinking", "the success rate holds, the size was still shrinking"
    SCREENED = "screened", "after screening", "the success rate holds after screening, and no longer search was made"
    REFINED = "refined", "screening, then all steps", "its size after screening counts, its trigger after all steps"
    ASR_NOT_REACHED = "asr_not_reached", "without a trigger", "no trigger worked: large, without a number"
    NOT_ENOUGH_IMAGES = "not_enough_images", "with too few images", "too few images of other classes"
    FIRST_PASS = "first_pass", "searched briefly", "not among the smallest after a short search"
    NOT_SEARCHED = "not_searched", "not searched", "the budget ended before its turn"
    SCREENED_OUT = "screened_out", "a few steps only", "a pair of labels not among the smallest after a few steps"

    def __new__(cls, value: str, remark: str = "", meaning: str = "") -> "Outcome":
        """The value alone stands for the member, also where one is looked up: Outcome("converged")."""
        member = object.__new__(cls)
        member._value_, member.remark, member.meaning = value, remark, meaning
        return member

    @property
    def has_size(self) -> bool:
        """Whether the label has a size that may enter the outlier test."""
        return self in (Outcome.CONVERGED, Outcome.STEP_LIMIT, *SCREENED_OUTCOMES)


SCREENED_OUTCOMES = (Outcome.SCREENED, Outcome.REFINED)
"""Outcomes whose size is that of screening."""


class Verdict(enum.Enum):
    """Found, not found and could not tell are three things."""

    INFECTED = "infected"
    CLEAN = "clean"
    INCONCLUSIVE = "inconclusive"


class BelowLimit(enum.Enum):
    """What one more label under the detection limit would have been; after screening often not flagged yet."""

    FLAGGED = "flagged"
    SEARCHED_ON = "searched_on"


@dataclass(frozen=True)
class Recovered:
    """The smallest trigger found for one label pair.

    `size` is the smallest over restarts in px (None when no trigger worked), `trigger` that restart's (k = 1);
    `hits` of `trials` confirm images landed on the target. The search and the choice never saw those images.
    `fall` is how far the log size fell lately (restarts.py), `last_size` the size in px of the averaged mask that the
    search ended at, whether or not it works (None: nothing was searched). Where the outcome is REFINED, all this is of
    screening, and `refined` what all steps came to.
    """

    pair: LabelPair
    trigger: Trigger | None
    size: float | None
    log_size_sd: float | None
    hits: int
    trials: int
    outcome: Outcome
    image_passes: int
    forward_passes: int
    fall: float = 0.0
    last_size: float | None = None
    refined: "Recovered | None" = None

    @property
    def shown(self) -> "Recovered":
        """The record whose trigger is the evidence."""
        return self.refined or self

    @classmethod
    def skipped(cls, pair: LabelPair, outcome: Outcome) -> "Recovered":
        """The record of a pair that was not searched, and why."""
        return cls(pair, None, None, None, 0, 0, outcome, 0, 0)

    def after(self, before: "Recovered | None") -> "Recovered":
        """The same, with what an earlier search of the pair took added to what it took."""
        if before is None:
            return self
        passes, forward = self.image_passes + before.image_passes, self.forward_passes + before.forward_passes
        return replace(self, image_passes=passes, forward_passes=forward)

    @property
    def asr(self) -> float | None:
        """Attack success rate on the confirm images."""
        return self.hits / self.trials if self.trials else None


@dataclass(frozen=True)
class Refined:
    """The trigger of a label that screening flagged, after all steps."""

    size: float
    log_size_sd: float | None
    asr: float | None
    asr_interval: tuple[float, float] | None
    outcome: Outcome


@dataclass(frozen=True)
class LabelResult(OfPair):
    """One row of the table: a label pair with what was found and what the tests say of it.

    Sizes are compared that took the same effort; `refined` is what a label that these flagged came to with more.
    """

    target: int
    source: int | None
    name: str | None
    size: float | None
    log_size_sd: float | None
    anomaly_index: float | None
    p_value: float | None
    asr: float | None
    asr_interval: tuple[float, float] | None
    outcome: Outcome
    image_passes: int
    refined: Refined | None = None

    @property
    def shown(self) -> "LabelResult | Refined":
        """What is said of the trigger that is shown as evidence."""
        return self.refined or self


@dataclass(frozen=True)
class SourceRate:
    """How many confirm images of one class the trigger sends to the target."""

    source: int
    hits: int
    trials: int


@dataclass(frozen=True)
class Evidence(OfPair):
    """What a flagged label's trigger does to images that it was not fitted on; of `source` alone if there is one.

    A trigger in feature space is no image: `after` then has no rows.
    """

    target: int
    before: UInt8[Tensor, "n c h w"]
    after: UInt8[Tensor, "shown c h w"]
    answers_before: tuple[int, ...]
    answers_after: tuple[int, ...]
    by_source: tuple[SourceRate, ...]
    source: int | None = None
    kind: Kind = Kind.PATCH

    @property
    def has_pictures(self) -> bool:
        """Whether images show the trigger."""
        return self.kind.of_pixels


@dataclass(frozen=True)
class KindRow(OfPair):
    """A label or pair in one test: its size (None: no trigger worked) and p-value."""

    target: int
    source: int | None
    size: float | None
    p_value: float | None


@dataclass(frozen=True)
class KindTest:
    """What one test came to. The tests share alpha: `p_value` is over `share`, and flags at alpha.

    `verdict` is None where the test was not made, and `reason` says why. `mapped` is the map of labels that an
    all-to-all trigger follows. `rows` are the sizes compared, in px, or in feature space in units of the layer's
    spread; those of patches, and of pairs searched with all steps, are in the result's own table. `usual_size` is what
    triggers of random maps have beside that of a map that was flagged. `image_passes` count as far as they ran the
    whole network.
    """

    kind: Kind
    share: float
    verdict: Verdict | None
    reason: str
    p_value: float | None = None
    flagged: tuple[LabelPair, ...] = ()
    mapped: tuple[LabelPair, ...] = ()
    rows: tuple[KindRow, ...] = ()
    usual_size: float | None = None
    image_passes: int = 0
    forward_passes: int = 0

    @property
    def in_table(self) -> bool:
        """Whether what was compared stands in the result's own table."""
        return self.kind is Kind.PATCH or (self.kind is Kind.PAIRS and not self.rows)


@dataclass(frozen=True)
class PaperRule:
    """The rule of Wang et al. 2019 beside ours: labels whose anomaly index on raw sizes is above the threshold."""

    threshold: float
    anomaly_index: float | None
    flagged: tuple[int, ...]


@dataclass(frozen=True)
class ScanResult:
    """The answer, its reasons and its evidence.

    `labels` has a row for every label, and after those one for every pair of labels that was searched, if any.
    `flagged` are the targets of what was flagged, `evidence` says of each whether images of any class go there. `level`
    is the p-value at which a label was flagged (None: not at any); it is below alpha after screening. `detection_limit`
    is the size in px under which one more label would have been what `below_limit` says; `triggers` maps pairs to the
    tensors of the trigger found: of every label, and of the pairs that were flagged. `cut_off` says that a budget ended
    before the search did. `tests` has one entry for every kind of trigger, looked for or not. `student_test` is what
    students said of the sizes of patches (None: none was asked).
    """

    verdict: Verdict
    reason: str
    flagged: tuple[int, ...]
    p_value: float | None
    alpha: float
    level: float | None
    detection_limit: float | None
    image_passes: int
    forward_passes: int
    wall_s: float
    image_shape: tuple[int, int, int]
    labels: tuple[LabelResult, ...]
    paper_rule: PaperRule
    provenance: Provenance
    cut_off: bool = False
    evidence: tuple[Evidence, ...] = ()
    triggers: Mapping[LabelPair, Mapping[str, Tensor]] = field(default_factory=dict)
    tests: tuple[KindTest, ...] = ()
    student_test: StudentTest | None = None
    below_limit: BelowLimit = BelowLimit.FLAGGED

    @property
    def label_rows(self) -> tuple[LabelResult, ...]:
        """The rows of labels: images of any class."""
        return tuple(row for row in self.labels if row.source is None)

    @property
    def flagged_pairs(self) -> tuple[LabelPair, ...]:
        """What was flagged: labels (images of any class), and pairs of labels."""
        pairs = tuple(evidence.pair for evidence in self.evidence if evidence.source is not None)
        through_pairs = {pair.target for pair in pairs}
        return (*(LabelPair(target) for target in self.flagged if target not in through_pairs), *pairs)

    @property
    def pair_rows(self) -> tuple[LabelResult, ...]:
        """The rows of pairs of labels, but for those of a map, which share one trigger."""
        mapped = {pair for test in self.tests for pair in test.mapped}
        return tuple(row for row in self.labels if row.source is not None and row.pair not in mapped)
