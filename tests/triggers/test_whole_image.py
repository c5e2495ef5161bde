"""Triggers that are no patch: what changes nothing, what moves where, and that all stay pixels of the same images."""

from collections.abc import Callable

import pytest
import torch
from networks import seeded
from torch import Tensor

from neural_cleanse.triggers.additive import AdditiveTrigger
from neural_cleanse.triggers.base import SearchedTrigger, Trigger
from neural_cleanse.triggers.generated import GeneratedTrigger, num_weights, random_weights
from neural_cleanse.triggers.patch import PatchTrigger
from neural_cleanse.triggers.tone import ToneTrigger
from neural_cleanse.triggers.warp import WarpTrigger

SHAPE = (3, 8, 6)
IDENTITY = torch.linspace(0, 1, 256).expand(2, 3, 256)


IMAGES = torch.randint(256, (2, 5, *SHAPE), generator=seeded()) / 255


def additive(rows: int) -> AdditiveTrigger:
    return AdditiveTrigger(torch.rand(rows, *SHAPE, generator=seeded(1)) * 2 - 1)


def tone(rows: int) -> ToneTrigger:
    return ToneTrigger(torch.rand(rows, 3, 256, generator=seeded(2)), *SHAPE[1:])


def warp(rows: int) -> WarpTrigger:
    return WarpTrigger(torch.randn(rows, 2, 4, 4, generator=seeded(3)) * 3, *SHAPE)


def generated(rows: int) -> GeneratedTrigger:
    assert rows == 1
    return GeneratedTrigger(random_weights(3, seeded(4)) * 4, *SHAPE)


def patch(rows: int) -> PatchTrigger:
    mask = torch.rand(rows, 1, *SHAPE[1:], generator=seeded(5))
    return PatchTrigger(mask, torch.rand(rows, *SHAPE, generator=seeded(6)))


KINDS: list[Callable[[int], Trigger]] = [additive, tone, warp, generated, patch]


@pytest.mark.parametrize("kind", KINDS)
def test_triggered_images_are_images_of_the_same_shape_and_range(kind: Callable[[int], Trigger]) -> None:
    trigger = kind(1)
    triggered = trigger(IMAGES[:1])
    assert triggered.shape == IMAGES[:1].shape and triggered.dtype == IMAGES.dtype
    assert triggered.min() >= 0 and triggered.max() <= 1
    assert not torch.equal(triggered, IMAGES[:1])
    assert trigger.image_shape == SHAPE


@pytest.mark.parametrize("kind", KINDS)
def test_the_given_images_stay_as_they_were(kind: Callable[[int], Trigger]) -> None:
    images = IMAGES[:1].clone()
    kind(1)(images)
    assert torch.equal(images, IMAGES[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_s_trigger_does_not_depend_on_its_neighbours(kind: Callable[[int], Trigger]) -> None:
    trigger = kind(1)
    alone = torch.cat([trigger(IMAGES[:1, row : row + 1]) for row in range(5)], dim=1)
    assert torch.allclose(trigger(IMAGES[:1]), alone, atol=1e-4)


@pytest.mark.parametrize("kind", [additive, tone, warp, patch])
def test_rows_do_not_see_each_other(kind: Callable[[int], Trigger]) -> None:
    both = kind(2)
    for row in range(2):
        own = {name: tensor[row : row + 1] for name, tensor in both.tensors().items()}
        single = type(both)(**{**vars(both), **own})
        assert torch.equal(both(IMAGES)[row], single(IMAGES[row : row + 1])[0])
        assert both.size()[row] == single.size()[0]


@pytest.mark.parametrize("kind", KINDS)
def test_moving_takes_every_tensor_along_and_nothing_else(kind: Callable[[int], Trigger]) -> None:
    trigger = kind(1)
    moved = trigger.to(torch.device("meta"))
    assert {tensor.device.type for tensor in moved.tensors().values()} == {"meta"}
    assert moved.image_shape == SHAPE and type(moved) is type(trigger)
    assert torch.equal(trigger.to(torch.device("cpu"))(IMAGES[:1]), trigger(IMAGES[:1]))


def test_only_the_patch_is_searched_for() -> None:
    assert [isinstance(kind(1), SearchedTrigger) for kind in KINDS] == [False, False, False, False, True]


# --- what changes nothing ---


@pytest.mark.parametrize(
    "trigger",
    [
        AdditiveTrigger(torch.zeros(2, *SHAPE)),
        ToneTrigger(IDENTITY, *SHAPE[1:]),
        WarpTrigger(torch.zeros(2, 2, 4, 4), *SHAPE),
    ],
    ids=["additive", "tone", "warp"],
)
def test_no_change_changes_nothing(trigger: Trigger) -> None:
    assert torch.allclose(trigger(IMAGES), IMAGES, atol=1e-5)
    assert torch.equal((trigger(IMAGES) * 255).round(), (IMAGES * 255).round()), "not one level"


def test_without_a_mask_a_generated_pattern_is_not_seen() -> None:
    """A bias far below 0 closes the mask: tanh(20 tanh(-inf)) is -1."""
    weights = random_weights(3, seeded())
    of_mask, _ = num_weights(3)
    weights[0, of_mask - 1] = -100
    assert torch.allclose(GeneratedTrigger(weights, *SHAPE)(IMAGES[:1]), IMAGES[:1], atol=1e-6)


# --- what moves where ---


def test_a_pattern_is_added_and_clipped() -> None:
    image = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 1, 3)
    added = AdditiveTrigger(torch.tensor([-0.2, 0.2, 0.2]).view(1, 1, 1, 3))(image)
    assert added.flatten().tolist() == pytest.approx([0.0, 0.7, 1.0])


def test_the_size_of_a_pattern_is_the_pixels_it_touches() -> None:
    pattern = torch.zeros(1, *SHAPE)
    pattern[0, 1, 2:4, 3] = 0.1
    pattern[0, 2, 2, 3] = -0.1
    assert AdditiveTrigger(pattern).size().tolist() == [2.0]
    assert warp(2).size().tolist() == tone(2).size().tolist() == [48.0, 48.0]
    assert generated(1).size().tolist() == [48.0]


def test_each_channel_has_its_own_curve() -> None:
    curves = torch.stack([torch.linspace(1, 0, 256), torch.linspace(0, 1, 256), torch.full((256,), 0.5)])[None]
    toned = ToneTrigger(curves, *SHAPE[1:])(IMAGES[:1])
    assert torch.allclose(toned[:, :, 0], 1 - IMAGES[:1, :, 0])
    assert torch.allclose(toned[:, :, 1], IMAGES[:1, :, 1])
    assert (toned[:, :, 2] == 0.5).all()


def moved_by(pixels: float) -> Tensor:
    """Shifts along x alone: a pixel of an image of width w is 2 / (w - 1), a shift of 1 is 1 / h."""
    points = torch.zeros(1, 2, 4, 4)
    points[:, 0] = pixels * 2 / (SHAPE[2] - 1) * SHAPE[1]
    return points


def test_a_constant_shift_moves_the_image_by_whole_pixels() -> None:
    moved = WarpTrigger(moved_by(1), *SHAPE)(IMAGES[:1])
    assert torch.allclose(moved[..., :-1], IMAGES[:1, ..., 1:], atol=1e-5)
    assert torch.allclose(moved[..., -1], IMAGES[:1, ..., -1], atol=1e-5), "the border stays"


def test_a_warp_moves_but_makes_no_new_brightness() -> None:
    """Bilinear values lie between those of the image."""
    warped = warp(2)(IMAGES)
    assert (warped.amax((-1, -2)) <= IMAGES.amax((-1, -2)) + 1e-6).all()
    assert (warped.amin((-1, -2)) >= IMAGES.amin((-1, -2)) - 1e-6).all()


def test_the_noise_mode_warps_every_image_in_its_own_way() -> None:
    trigger = warp(1)
    same = IMAGES[0, :1].expand(6, -1, -1, -1)
    jittered = trigger.jittered(same, seeded(1))
    assert torch.equal(jittered, trigger.jittered(same, seeded(1)))
    assert not torch.equal(jittered, trigger.jittered(same, seeded(2)))
    assert len({image.numpy().tobytes() for image in jittered}) == 6
    assert jittered.min() >= 0 and jittered.max() <= 1


def test_a_generated_trigger_depends_on_the_image() -> None:
    trigger = generated(1)
    masks, patterns = trigger.mask_and_pattern(IMAGES[0])
    assert len({mask.numpy().tobytes() for mask in masks}) == len({one.numpy().tobytes() for one in patterns}) == 5
    assert ((masks >= 0) & (masks <= 1)).all() and ((patterns >= 0) & (patterns <= 1)).all()
    assert torch.allclose(trigger(IMAGES[:1])[0], (1 - masks) * IMAGES[0] + masks * patterns, atol=1e-6)


def test_in_cross_trigger_mode_an_image_carries_anothers_pattern() -> None:
    trigger = generated(1)
    masks, patterns = trigger.mask_and_pattern(IMAGES[1])
    crossed = trigger.drawn_for(IMAGES[1], IMAGES[0])
    assert torch.allclose(crossed, (1 - masks) * IMAGES[0] + masks * patterns, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_weights_are_as_many_as_the_networks_need(channels: int) -> None:
    assert random_weights(channels, seeded()).shape == (1, sum(num_weights(channels)))
    assert not torch.equal(random_weights(channels, seeded(1)), random_weights(channels, seeded(2)))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 55, 47), (1, 9, 5)])
def test_a_generated_trigger_fits_images_of_any_size(shape: tuple[int, int, int]) -> None:
    images = torch.rand(1, 2, *shape, generator=seeded())
    assert GeneratedTrigger(random_weights(shape[0], seeded()), *shape)(images).shape == images.shape
