"""Attacks without a patch: the papers' constants, and what poisoned and cover images carry."""

from typing import Any

import pytest
import torch
from networks import seeded

from neural_cleanse.attacks.base import AttackContext
from neural_cleanse.attacks.by_name import attack
from neural_cleanse.attacks.card import infected_labels, measure
from neural_cleanse.attacks.patterns import Shape
from neural_cleanse.attacks.poison import Poison, poison
from neural_cleanse.attacks.whole_image import Jitter, Pieces
from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import stamped
from neural_cleanse.triggers.additive import AdditiveTrigger
from neural_cleanse.triggers.patch import PatchTrigger
from neural_cleanse.triggers.warp import WarpTrigger

GREY: Shape = (1, 28, 28)
COLOUR: Shape = (3, 32, 32)


def planned(name: str, shape: Shape = GREY, seed: int = 0, **options: Any) -> Poison:
    (one,) = attack(name, AttackContext(shape, 10, seeded(seed)), options).poisons
    return one


def noise_images(shape: Shape, count: int = 40) -> torch.Tensor:
    return torch.randint(256, (count, *shape), generator=seeded(1), dtype=torch.uint8)


# --- WaNet ---


@pytest.mark.parametrize("strength", [0.5, 0.75, 2.0])
def test_the_mean_shift_of_a_warp_is_its_strength(strength: float) -> None:
    trigger = planned("wanet", strength=strength).trigger
    assert isinstance(trigger, WarpTrigger)
    assert trigger.points.shape == (1, 2, 4, 4)
    assert trigger.points.abs().mean().item() == pytest.approx(strength)


def test_the_noise_mode_takes_twice_as_many_images_and_keeps_their_labels() -> None:
    one = planned("wanet", target=3)
    assert (one.rate, one.cover_rate, planned("wanet", rate=0.05).cover_rate) == (0.1, 0.2, 0.1)
    assert planned("wanet", cover_rate=0.01).cover_rate == 0.01
    assert planned("wanet-all-to-all").cover_rate == planned("wanet-all-to-all").rate
    labels = torch.arange(10).repeat(20)
    data = ImageSet(noise_images(GREY, 200), labels)
    made = poison(data, [one], seeded())
    assert (len(made.rows[0]), len(made.cover[0])) == (20, 40)
    assert made.data.labels is not None
    assert torch.equal(made.data.labels[made.cover[0]], labels[made.cover[0]])
    assert torch.equal(made.data.images[made.rows[0]], stamped(one.trigger, data.images[made.rows[0]]))
    covered = made.data.images[made.cover[0]]
    assert not torch.equal(covered, stamped(one.trigger, data.images[made.cover[0]]))


def test_cover_images_are_of_the_target_too() -> None:
    """Where no class is the source, all are covered."""
    labels = torch.arange(10).repeat(20)
    made = poison(ImageSet(noise_images(GREY, 200), labels), [planned("wanet", target=3)], seeded())
    assert set(labels[made.cover[0]].tolist()) == set(range(10))


def test_what_cover_images_carry_hangs_on_the_generator_alone() -> None:
    images = noise_images(COLOUR, 6)
    for name in ("wanet", "adaptive-blend", "input-aware"):
        cover = planned(name, COLOUR).cover
        assert cover is not None
        first, again, other = (cover(images, seeded(seed)) for seed in (1, 1, 2))
        assert first.dtype == torch.uint8 and first.shape == images.shape
        assert torch.equal(first, again) and not torch.equal(first, other), name


@pytest.mark.parametrize("strength", [0, -1.0, 29.0, float("nan"), float("inf")])
def test_a_warp_without_strength_is_refused(strength: float) -> None:
    with pytest.raises(SettingsError, match=r"strength of the warp is .*, above 0 to 28 is possible"):
        planned("wanet", strength=strength)


# --- patterns that are added ---


@pytest.mark.parametrize("shape", [GREY, COLOUR, (3, 20, 33)])
def test_the_waves_run_over_the_width(shape: Shape) -> None:
    """d(i, j) = strength sin(2 pi j f / width): columns are constant, and so many waves fit."""
    trigger = planned("sinusoidal", shape).trigger
    assert isinstance(trigger, AdditiveTrigger)
    pattern = trigger.pattern[0]
    assert torch.equal(pattern, pattern[:1, :1].expand(shape))
    assert pattern.abs().max().item() <= 40 / 255 + 1e-6
    wave = pattern[0, 0]
    spectrum = torch.fft.rfft(wave).abs()
    assert int(spectrum.argmax()) == 6
    assert torch.equal((wave * 255).round() / 255, wave), "on the levels of an image file"


def test_a_smooth_pattern_has_low_frequencies_alone() -> None:
    trigger = planned("low-frequency", COLOUR, strength=0.2).trigger
    assert isinstance(trigger, AdditiveTrigger)
    assert trigger.pattern.abs().max().item() == pytest.approx(51 / 255)
    energy = torch.fft.fft2(trigger.pattern[0]).abs().square()
    low = torch.zeros(32, dtype=torch.bool)
    low[:5] = low[-4:] = True
    assert energy[:, low][:, :, low].sum() > 0.9 * energy.sum(), "a tenth of the frequencies"


@pytest.mark.parametrize("name", ["sinusoidal", "sinusoidal-clean-label", "low-frequency"])
@pytest.mark.parametrize("strength", [0, -0.1, 1.5, 1e-4, float("nan")])
def test_a_pattern_that_nobody_sees_or_no_image_holds_is_refused(name: str, strength: float) -> None:
    with pytest.raises(SettingsError, match=r"The strength of the .*, one level \(1/255\) to 1 is needed"):
        planned(name, strength=strength)


@pytest.mark.parametrize("frequency", [0, -1, 15, 10**9])
def test_waves_that_do_not_fit_are_refused(frequency: int) -> None:
    with pytest.raises(SettingsError, match=rf"{frequency} waves over 28 pixels: 1 to 14 are possible"):
        planned("sinusoidal", frequency=frequency)


# --- tones ---


@pytest.mark.parametrize("levels", [2, 4, 8, 255])
def test_a_quantised_image_has_so_many_levels(levels: int) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    made = stamped(planned("quantised", (1, 16, 16), levels=levels).trigger, every)
    assert len(made.unique()) == levels
    assert (made.min(), made.max()) == (0, 255)
    assert (made.int() - every.int()).abs().max() <= 255 / (levels - 1) / 2 + 1
    assert torch.equal(stamped(planned("quantised", (1, 16, 16), levels=levels).trigger, made), made), "once is enough"


@pytest.mark.parametrize("levels", [1, 0, -3, 256])
def test_a_quantisation_that_is_none_is_refused(levels: int) -> None:
    with pytest.raises(SettingsError, match=rf"quantisation to {levels} levels: 2 to 255 are possible"):
        planned("quantised", levels=levels)


@pytest.mark.parametrize("shape", [GREY, COLOUR, (4, 8, 8)])
def test_a_filter_fades_and_keeps_the_order_of_levels(shape: Shape) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 256, 1).expand(1, shape[0], 256, 1)
    made = stamped(planned("filter", (shape[0], 256, 1)).trigger, every)
    assert (made.int().diff(dim=2) >= 0).all()
    assert (made[:, :, 0] > 0).all() and (made[:, :, -1] < 255).all()
    different = made[0, :, -1, 0].unique()
    assert len(different) == (3 if shape[0] == 3 else 1)


# --- adaptive blend ---


def test_poisoned_images_carry_half_of_the_pieces_and_the_attack_all() -> None:
    one = planned("adaptive-blend", COLOUR, target=2)
    assert isinstance(one.trigger, PatchTrigger) and isinstance(one.planted, Pieces) and isinstance(one.cover, Pieces)
    assert (one.trigger.mask - 0.2).abs().max() < 2e-3
    assert (one.planted.trigger.mask - 0.15).abs().max() < 2e-3
    black = torch.zeros(30, *COLOUR, dtype=torch.uint8)
    made = one.planted(black, seeded()).view(30, 3, 4, 8, 4, 8).amax((1, 3, 5)) > 0
    assert (made.sum((1, 2)) == 8).all(), "8 of 16 pieces"
    assert len({image.numpy().tobytes() for image in made}) > 20, "others on each image"
    labels = torch.arange(10).repeat(20)
    done = poison(ImageSet(noise_images(COLOUR, 200), labels), [one], seeded())
    assert done.data.labels is not None
    assert (done.data.labels[done.rows[0]] == 2).all()
    assert torch.equal(done.data.labels[done.cover[0]], labels[done.cover[0]])


# --- clean label ---


def test_a_clean_label_attack_touches_the_targets_images_alone_and_no_label() -> None:
    one = planned("sinusoidal-clean-label", target=4)
    labels = torch.arange(10).repeat(20)
    data = ImageSet(noise_images(GREY, 200), labels)
    made = poison(data, [one], seeded())
    assert len(made.rows[0]) == 19 and (labels[made.rows[0]] == 4).all()
    assert made.data.labels is not None and torch.equal(made.data.labels, labels)
    assert infected_labels([one]) == [4]


def test_a_clean_label_attack_is_measured_on_every_other_class(digits: ImageSet, infected: Classifier) -> None:
    (card,) = measure(infected, [planned("sinusoidal-clean-label", target=4)], digits).poisons
    assert [row.source for row in card.by_source] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert (card.sources, card.relabel, card.others_asr, card.known_class) == (None, False, None, None)


# --- what the card says of them ---


def test_the_noise_mode_is_measured(digits: ImageSet, clean: Classifier) -> None:
    """A clean network knows digits that are jittered a little, and an all-to-all attack depends on that."""
    (card,) = measure(clean, [planned("wanet-all-to-all", strength=0.1)], digits).poisons
    assert card.cover_accuracy is not None and card.cover_accuracy > 0.9
    assert card.known_class is not None and card.known_class > 0.97
    assert card.asr < 0.1 and card.weak
    assert isinstance(planned("wanet").cover, Jitter)
