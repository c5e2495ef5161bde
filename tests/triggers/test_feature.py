"""A shift of activations: nothing where it is zero, its norm as its size."""

import torch

from neural_cleanse.triggers.feature import FeatureTrigger

FEATURES = torch.rand(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_a_zero_shift_changes_nothing_and_has_no_size() -> None:
    none = FeatureTrigger(torch.zeros(2, 3, 4, 4))
    assert torch.equal(none(FEATURES), FEATURES) and none.size().tolist() == [0, 0]


def test_every_image_of_a_row_is_shifted_alike_and_the_size_is_the_norm() -> None:
    shift = torch.zeros(2, 3, 4, 4)
    shift[0, 1, 2, 2], shift[1, 0, 0, 0], shift[1, 2, 3, 3] = 2.0, 3.0, -4.0
    trigger = FeatureTrigger(shift)
    assert torch.allclose(trigger(FEATURES) - FEATURES, shift.unsqueeze(1).expand_as(FEATURES), atol=1e-6)
    assert trigger.size().tolist() == [2.0, 5.0]


def test_it_is_written_down_and_read_back() -> None:
    generator = torch.Generator().manual_seed(3)
    free = [part.unsqueeze(0) for part in FeatureTrigger.random_free((3, 4, 4), generator)]
    trigger = FeatureTrigger.decode(free)
    again = FeatureTrigger.of(trigger.tensors())
    assert torch.equal(again.shift, trigger.shift)
    assert torch.equal(FeatureTrigger.size_of(free), trigger.size())
