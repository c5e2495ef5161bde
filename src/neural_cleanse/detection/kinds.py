"""Triggers that are no patch for all images: shifts in feature space, one-class and all-to-all triggers,
and triggers of any shape.

Tests beside that of patches, each cheap: sizes of shifts over the labels (feature_test.py); triggers of maps of all
classes (all_to_all.py); sizes of patches over all pairs of labels (one_class.py; with all steps, which is not cheap,
one_class_all_steps.py); the largest margins that inputs reach (margin_test.py). Classes that are near each other by
nature have small triggers between them, so what a test flags by few steps must be much smaller than in a student of
those classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from neural_cleanse.detection.all_to_all import AllToAll
from neural_cleanse.detection.behind_cut import BehindCut
from neural_cleanse.detection.feature_test import FeatureTest
from neural_cleanse.detection.kind_search import KindSearch
from neural_cleanse.detection.kind_tester import Earlier, KindTester
from neural_cleanse.detection.kinds_found import KindFound
from neural_cleanse.detection.margin_test import MarginTest
from neural_cleanse.detection.one_class import OneClass
from neural_cleanse.detection.one_class_all_steps import OneClassAllSteps
from neural_cleanse.detection.pairs import PairPlan
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.stages import Stages
from neural_cleanse.detection.teaching import Teaching
from neural_cleanse.detection.verdict import Decision
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import Recovered


@dataclass(frozen=True)
class KindTests:
    """The tests of one scan, made one after the other."""

    prepared: PreparedScan
    stages: Stages
    teaching: Teaching
    pair_plan: PairPlan = PairPlan()

    def plan(self) -> None:
        """Announce the searches that will be made, as far as is known before the labels have been searched."""
        for test in self._wanted():
            for part, passes in test.planned().items():
                self.stages.work.plan(part, passes)

    def run(self, patches: tuple[Recovered, ...], decision: Decision) -> tuple[KindFound, ...]:
        """All of them, after the search for patches and the decision on it, in the order of their kinds."""
        earlier = Earlier(patches, decision)
        for test in self._wanted():
            earlier = replace(earlier, found=(*earlier.found, test.run(earlier)))
        order = list(Kind)
        return tuple(sorted(earlier.found, key=lambda one: order.index(one.test.kind)))

    def _wanted(self) -> Iterator[KindTester]:
        """The tests in the order in which they are made: a new one is a file, and a line here."""
        settings, of_scan = self.prepared.settings, (self.prepared, self.stages, self.teaching)
        if settings.beyond_patches and self.prepared.doubt is None:
            behind = BehindCut(self.prepared, self.stages)
            yield FeatureTest(KindSearch(Kind.FEATURE, *of_scan), behind)
            yield AllToAll(Kind.ALL_TO_ALL, *of_scan, behind)
            yield AllToAll(Kind.FEATURE_ALL_TO_ALL, *of_scan, behind)
            if not settings.pairs:
                yield OneClass(KindSearch(Kind.PAIRS, *of_scan))
            yield MarginTest(*of_scan)
        if settings.pairs:
            yield OneClassAllSteps(self.prepared, self.stages, self.pair_plan)
