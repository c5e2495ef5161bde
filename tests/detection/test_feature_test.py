"""What the test of shifts makes of the sizes that it is told."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from draws import heavy_tailed

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.feature_space import feature_space
from neural_cleanse.detection.feature_test import FeatureTest
from neural_cleanse.detection.kind_search import KindSearch
from neural_cleanse.detection.kinds_found import Searched, Unfinished
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.detection.stages import Subject
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import LabelPair, Outcome, Recovered, Verdict


@dataclass(frozen=True)
class Sized(KindSearch):
    """A search that comes to shifts of these sizes."""

    sizes: Sequence[float] = ()

    def run(
        self, inversion: Inversion, pairs: Sequence[LabelPair], subject: Subject, said: str = ""
    ) -> Searched | Unfinished:
        found = [
            replace(Recovered.skipped(pair, Outcome.CONVERGED), size=size)
            for pair, size in zip(pairs, self.sizes, strict=True)
        ]
        return Searched(tuple(found), subject, inversion)


def test_a_shift_no_smaller_than_many_heavy_tailed_ones_make_likely_is_left_open(
    clean: Classifier, digits: ImageSet
) -> None:
    sizes = [20.0 * math.exp(0.2 * value) for value in heavy_tailed(60)]
    prepared: Any = SimpleNamespace(
        settings=ScanSettings(), inversion=Inversion(), pairs=[LabelPair(label) for label in range(60)]
    )
    nothing: Any = SimpleNamespace()
    behind: Any = SimpleNamespace(space=lambda: feature_space(clean, ScanImages.of(clean, digits, 0)), forward_passes=0)
    test = FeatureTest(Sized(Kind.FEATURE, prepared, nothing, nothing, sizes), behind).run(nothing).test
    assert test.verdict is Verdict.INCONCLUSIVE and "heavy-tailed" in test.reason and test.flagged == ()
    assert test.p_value is not None and test.p_value <= ScanSettings().alpha
