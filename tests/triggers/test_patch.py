"""The patch trigger: what a mask does at 0, at 1 and between."""

import torch

from neural_cleanse.triggers.patch import PatchTrigger

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(2, 5, 3, 8, 6, generator=GENERATOR)
PATTERN = torch.rand(2, 3, 8, 6, generator=GENERATOR)


def test_a_zero_mask_changes_nothing() -> None:
    assert torch.equal(PatchTrigger(torch.zeros(2, 1, 8, 6), PATTERN)(IMAGES), IMAGES)


def test_a_full_mask_leaves_only_the_pattern() -> None:
    triggered = PatchTrigger(torch.ones(2, 1, 8, 6), PATTERN)(IMAGES)
    assert torch.equal(triggered, PATTERN.unsqueeze(1).expand_as(IMAGES))


def test_between_it_blends_and_stays_in_range() -> None:
    """A(x, m, p) = (1 - m) x + m p (Wang et al. 2019, equation 2)."""
    mask = torch.rand(2, 1, 8, 6, generator=GENERATOR)
    triggered = PatchTrigger(mask, PATTERN)(IMAGES)
    expected = (1 - mask.unsqueeze(1)) * IMAGES + mask.unsqueeze(1) * PATTERN.unsqueeze(1)
    assert torch.allclose(triggered, expected, atol=1e-6)
    assert triggered.min() >= 0 and triggered.max() <= 1


def test_size_is_the_l1_norm_of_the_mask_in_pixels() -> None:
    mask = torch.zeros(2, 1, 8, 6)
    mask[0, 0, :3, :3] = 1
    mask[1] = 0.5
    assert PatchTrigger(mask, PATTERN).size().tolist() == [9.0, 24.0]


def test_random_starts_are_uniform_pixels() -> None:
    free = PatchTrigger.random_free((3, 64, 64), torch.Generator().manual_seed(1))
    trigger = PatchTrigger.decode([variables.unsqueeze(0) for variables in free])
    assert abs(trigger.mask.mean().item() - 0.5) < 0.02 and abs(trigger.pattern.mean().item() - 0.5) < 0.02
    assert trigger.mask.min() >= 0 and trigger.mask.max() <= 1


def test_size_of_free_variables_is_that_of_what_they_stand_for() -> None:
    free = PatchTrigger.random_free((3, 5, 4), torch.Generator().manual_seed(0))
    free = tuple(variables.unsqueeze(0) for variables in free)
    assert torch.equal(PatchTrigger.size_of(free), PatchTrigger.decode(free).size())


def test_values_stay_in_range_at_the_ends_of_float32() -> None:
    free = (torch.full((1, 1, 2, 2), -60.0, requires_grad=True), torch.full((1, 3, 2, 2), 60.0, requires_grad=True))
    trigger = PatchTrigger.decode(free)
    assert trigger.mask.min() >= 0 and trigger.pattern.max() <= 1
    (trigger.mask.sum() + trigger.pattern.sum()).backward()
    assert all(variables.grad is not None and variables.grad.abs().max() == 0 for variables in free)
