"""Kinds of trigger that a test is not about."""

import pytest

from neural_cleanse.detection.all_to_all import AllToAll
from neural_cleanse.detection.feature_test import FeatureTest
from neural_cleanse.detection.kinds_found import not_made
from neural_cleanse.detection.margin_test import MarginTest
from neural_cleanse.detection.one_class import OneClass
from neural_cleanse.results.kind import Kind


def left_out(patch: pytest.MonkeyPatch, *, features: bool = False, pairs: bool = False, margins: bool = True) -> None:
    """Maps are not looked for, and what is named."""
    patch.setattr(AllToAll, "run", lambda self, _: not_made(self.kind, "left out"))
    for test, kind, left in (
        (FeatureTest, Kind.FEATURE, features),
        (OneClass, Kind.PAIRS, pairs),
        (MarginTest, Kind.MARGIN, margins),
    ):
        if left:
            patch.setattr(test, "run", lambda *_, kind=kind: not_made(kind, "left out"))
