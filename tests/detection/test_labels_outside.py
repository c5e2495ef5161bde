"""Labels that the model does not have are refused with a short message, however many they are."""

import pytest

from neural_cleanse.detection.prepare import _pairs
from neural_cleanse.errors import SettingsError


def test_many_labels_outside_are_told_as_ranges() -> None:
    with pytest.raises(SettingsError, match=r"labels 0 to 9, not 10-99, 200\.") as caught:
        _pairs((3, *range(10, 100), 200), 10)
    assert "0 to 9" in (caught.value.cure or "")
