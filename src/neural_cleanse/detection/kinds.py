"""Triggers that are no patch for all images: shifts in feature space, one-class and all-to-all triggers,
and triggers of any shape.

Tests beside that of patches, each cheap: sizes of shifts over the labels (feature_test.py); sizes of patches over all
pairs of labels (one_class.py); triggers of maps of all classes (all_to_all.py); the largest margins that inputs reach
(margin_test.py). Classes that are near each other by nature have small triggers between them, so what a test flags must
be much smaller than in a student of those classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from neural_cleanse.deadline import OutOfTime
from neural_cleanse.detection.all_to_all import AllToAll
from neural_cleanse.detection.feature_space import FeatureSpace, feature_space
from neural_cleanse.detection.feature_test import EXPECTED_SHARE, MOST_LABELS, FeatureTest
from neural_cleanse.detection.kind_search import PARTS, KindSearch
from neural_cleanse.detection.kinds_found import KindFound, Unfinished, charged
from neural_cleanse.detection.margin_test import PART as MARGINS
from neural_cleanse.detection.margin_test import SUPPORT_P, MarginTest
from neural_cleanse.detection.one_class import OneClass
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.stages import Stages
from neural_cleanse.detection.teaching import Teaching
from neural_cleanse.detection.verdict import Decision
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import LabelPair, Recovered


@dataclass(frozen=True)
class KindTests:
    """The tests of one scan, made one after the other."""

    prepared: PreparedScan
    stages: Stages
    teaching: Teaching

    def plan(self) -> None:
        """Announce the searches that will be made, as far as is known before the labels have been searched."""
        if not self._wanted:
            return
        work = self.stages.work
        if self.prepared.num_labels <= MOST_LABELS:
            work.plan(PARTS[Kind.FEATURE], self._features.planned())
            for part, passes in self._maps.planned(EXPECTED_SHARE).items():
                work.plan(part, passes)
        if not self.prepared.settings.pairs:
            work.plan(PARTS[Kind.PAIRS], self._one_class().planned())
        work.plan(MARGINS, self._margins.planned())

    def run(self, patches: tuple[Recovered, ...], decision: Decision) -> tuple[KindFound, ...]:
        """All of them, after the search for patches and the decision on it; one that cannot be made says why."""
        if not self._wanted:
            return ()
        spent: list[int] = []
        space = self._space(spent.append)
        shifts, maps = self._features.run(space), self._maps.run(space)
        shifts = replace(shifts, test=charged(shifts.test, Unfinished(forward_passes=sum(spent))))
        found: tuple[KindFound, ...] = (shifts, *maps)
        if not self.prepared.settings.pairs:  # else searched with all steps
            explained = frozenset(pair for one in maps for pair in one.test.mapped)
            found = (shifts, self._one_class(decision.flagged).run(explained), *maps)
        taken = bool(decision.flagged) or any(one.test.flagged for one in found)
        shifted = {LabelPair(row.target): row.p_value for row in shifts.test.rows if row.p_value is not None}
        tested = (decision.p_values, self.prepared.share), (shifted, shifts.test.share)
        small = {pair for known, share in tested for pair, p in known.items() if p * share <= SUPPORT_P}
        return *found, replace(self._margins, patches=patches, small=small).run(needed=not taken)

    @property
    def _wanted(self) -> bool:
        return self.prepared.settings.beyond_patches and self.prepared.doubt is None

    @property
    def _features(self) -> FeatureTest:
        return FeatureTest(KindSearch(Kind.FEATURE, self.prepared, self.stages, self.teaching))

    def _one_class(self, taken: tuple[int, ...] = ()) -> OneClass:
        return OneClass(KindSearch(Kind.PAIRS, self.prepared, self.stages, self.teaching), taken)

    @property
    def _margins(self) -> MarginTest:
        return MarginTest(self.prepared, self.stages, self.teaching)

    @property
    def _maps(self) -> AllToAll:
        return AllToAll(self.prepared, self.stages, self.teaching)

    def _space(self, spent: Callable[[int], None]) -> FeatureSpace | str:
        if self.prepared.num_labels > MOST_LABELS:
            return f"over {MOST_LABELS} labels"
        try:
            return feature_space(self.prepared.classifier, self.prepared.images, spent)
        except OutOfTime:
            self.stages.tracker.truncated = True
            return Unfinished().reason
