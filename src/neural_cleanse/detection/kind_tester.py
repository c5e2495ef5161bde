"""What the tests beside that of patches have in common, and what each may know of those made before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from neural_cleanse.detection.kinds_found import KindFound
from neural_cleanse.detection.verdict import Decision
from neural_cleanse.results.records import LabelPair, Recovered


@dataclass(frozen=True)
class Earlier:
    """What a scan has come to before a test: its patches, the decision on them, and the tests made so far."""

    patches: tuple[Recovered, ...]
    decision: Decision
    found: tuple[KindFound, ...] = ()

    @property
    def mapped(self) -> frozenset[LabelPair]:
        """The pairs that the trigger of an all-to-all map explains."""
        return frozenset(pair for one in self.found for pair in one.test.mapped)

    @property
    def flagged(self) -> bool:
        """Whether anything was flagged."""
        return bool(self.decision.flagged) or any(one.test.flagged for one in self.found)


class KindTester(Protocol):
    """Makes the test of one kind of trigger in one scan."""

    def planned(self) -> Mapping[str, int]:
        """Image passes by part, as far as is known before the labels have been searched."""
        ...

    def run(self, earlier: Earlier, /) -> KindFound:
        """The test; where it cannot be made, its record says why."""
        ...
