"""What the tests of other kinds of trigger come to: searches, what they flagged, and how it is named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from neural_cleanse.detection.shares import SHARES, over_share
from neural_cleanse.detection.stages import Subject
from neural_cleanse.detection.statistics.means import geometric_mean
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import KindRow, KindTest, LabelPair, Recovered, Verdict

LEAST_RATIO = 0.01


@dataclass(frozen=True)
class Searched:
    """What one kind's search came to."""

    found: tuple[Recovered, ...]
    subject: Subject
    inversion: Inversion

    @property
    def sized(self) -> list[tuple[LabelPair, float]]:
        """Pairs with a size."""
        return [(one.pair, one.size) for one in self.found if one.size is not None]

    @property
    def ended_at(self) -> list[tuple[LabelPair, float]]:
        """Pairs with the size that the search ended at, whether or not a trigger works."""
        return [(one.pair, one.last_size) for one in self.found if one.last_size is not None]

    @property
    def image_passes(self) -> int:
        """In passes of the whole network."""
        return round(self.subject.weight * sum(one.image_passes for one in self.found))

    @property
    def forward_passes(self) -> int:
        """The same of forward passes alone."""
        return round(self.subject.weight * sum(one.forward_passes for one in self.found))


@dataclass(frozen=True)
class Unfinished:
    """A search that a spent budget ended, or did not let begin."""

    image_passes: int = 0
    forward_passes: int = 0
    reason: str = "the budget was spent"


@dataclass(frozen=True)
class StudentRatios:
    """Sizes over those in a student, None where there is none to compare with; and what the student's search took."""

    ratios: Mapping[LabelPair, float] | None = None
    image_passes: int = 0
    forward_passes: int = 0


@dataclass(frozen=True)
class KindFound:
    """A test, and the triggers of what it flagged, with what they are triggers of; `notes` are for the report.

    `searched` are rows of the result's own table, with p-values by pair, where all that was searched stands there.
    `record` joins the settings in the provenance.
    """

    test: KindTest
    flagged: tuple[Recovered, ...] = ()
    subject: Subject | None = None
    notes: tuple[str, ...] = ()
    searched: tuple[Recovered, ...] = ()
    p_values: Mapping[LabelPair, float] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[Recovered, ...]:
        """What stands in the result's own table: by default what was flagged, if it is of pixels."""
        return self.searched or (self.flagged if self.test.kind.of_pixels else ())


def record_of(kind: Kind, searched: Searched, p_value: float, p_values: Mapping[LabelPair, float]) -> KindTest:
    """The record of a test that flagged nothing; p-values are divided by its share of alpha."""
    share = SHARES[kind]
    rows = tuple(
        KindRow(one.pair.target, one.pair.source, one.size, shared(p_values.get(one.pair), share))
        for one in searched.found
    )
    return KindTest(
        kind, share, Verdict.CLEAN, f"no {kind.singular} stands out", over_share(p_value, share), rows=rows,
        image_passes=searched.image_passes, forward_passes=searched.forward_passes,
    )  # fmt: skip


def not_made(kind: Kind, why: str, searched: Searched | Unfinished | None = None) -> KindFound:
    """The record of a test that could not be made, and what it took."""
    passes, forward = (0, 0) if searched is None else (searched.image_passes, searched.forward_passes)
    return KindFound(KindTest(kind, SHARES[kind], None, why, image_passes=passes, forward_passes=forward))


@runtime_checkable
class Cost(Protocol):
    """What something took, in passes of the whole network."""

    @property
    def image_passes(self) -> int: ...

    @property
    def forward_passes(self) -> int: ...


def charged(test: KindTest, more: Cost) -> KindTest:
    """The test with what more work for it took."""
    return replace(
        test, image_passes=test.image_passes + more.image_passes,
        forward_passes=test.forward_passes + more.forward_passes,
    )  # fmt: skip


def shared(p_value: float | None, share: float) -> float | None:
    """The p-value of a test that has that share of alpha."""
    return None if p_value is None else over_share(p_value, share)


def share_of_student(ratios: Sequence[float]) -> str:
    """The geometric mean of the ratios, in words."""
    return f"{geometric_mean(ratios, LEAST_RATIO):.0%}"


def named(pairs: Sequence[LabelPair], sizes: Mapping[LabelPair, float], kind: Kind) -> str:
    """What was found, in words."""
    sized = {pair: f"{sizes[pair]:.1f} px" if kind is Kind.PAIRS else f"size {sizes[pair]:.1f}" for pair in pairs}
    said = [
        f"{f'images of any class to label {pair.target}' if pair.source is None else f'{pair.source} to {pair.target}'}"
        f" ({sized[pair]})"
        for pair in pairs
    ]
    return f"{kind.singular}{'s' if len(pairs) > 1 else ''}: {', '.join(said)}"
