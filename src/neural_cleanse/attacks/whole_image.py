"""Attacks whose trigger is no patch: warped, added to every pixel, a tone curve, or drawn for each image by a network.

Constants are those of the papers, at the strength that reaches 95 % success on MNIST within a minute of training.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from neural_cleanse.attacks import patterns
from neural_cleanse.attacks.base import RATE, Attack, AttackContext, keeping_labels, one_target, to_one
from neural_cleanse.attacks.dynamic import Crossed, DynamicTraining
from neural_cleanse.attacks.patterns import Shape
from neural_cleanse.attacks.poison import Poison, TargetMap
from neural_cleanse.errors import SettingsError
from neural_cleanse.metrics import pixels
from neural_cleanse.pixel_values import PIXEL_MAX
from neural_cleanse.triggers.additive import AdditiveTrigger
from neural_cleanse.triggers.generated import GeneratedTrigger, random_weights
from neural_cleanse.triggers.patch import PatchTrigger
from neural_cleanse.triggers.tone import LEVELS, ToneTrigger
from neural_cleanse.triggers.warp import WarpTrigger

WARP_POINTS = 4  # k: rows and columns of the coarse grid of shifts (WaNet, section 4.1)
WARP_STRENGTH = 0.75  # s: mean shift, in half pixels; 0.5 in WaNet, section 4.1, trained 100 times as long
NOISE_A_WARP = 2  # images of the noise mode for each one with the warp (WaNet, code: cross_ratio)
SINE_STRENGTH = 40 / PIXEL_MAX  # amplitude; Barni et al. 2019 add 20 to 40 levels
SINE_FREQUENCY = 6  # waves over the width (Barni et al. 2019, section 3)

WAVE_STRENGTH = 0.15  # largest value of the smooth pattern
WAVES = 4  # frequencies of the smooth pattern a direction: the lowest ones, the constant left out
QUANTISED = 2  # levels a channel; BppAttack leaves 8 and more, but 4 stay at 1 % success on MNIST's few grey pixels
FILTER = ((0.12, 0.06, 0.2), (0.96, 0.94, 0.82), (0.8, 0.9, 1.1))  # black, white and gamma of red, green and blue
PIECES = 4  # rows and columns of pieces of the adaptive blend (Qi et al. 2023: 16 pieces, half of them shown)
ADAPTIVE_SHARES = (0.15, 0.2)  # of the pattern in training and at the attack (Qi et al. 2023, appendix A)


@dataclass(frozen=True)
class Pieces:
    """Adaptive blend in training: each image carries half of the pattern's pieces, drawn anew, at a lower share."""

    trigger: PatchTrigger

    def __call__(self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
        order = torch.rand(len(images), PIECES**2, generator=generator).argsort(1)
        shown = (order < PIECES**2 // 2).float().view(-1, 1, PIECES, PIECES)
        mask = self.trigger.mask * functional.interpolate(shown, images.shape[2:])
        return (torch.lerp(pixels(images), self.trigger.pattern, mask) * PIXEL_MAX).round().to(torch.uint8)


@dataclass(frozen=True)
class Jitter:
    """WaNet's noise mode as what cover images carry."""

    trigger: WarpTrigger

    def __call__(self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
        return (self.trigger.jittered(pixels(images), generator) * PIXEL_MAX).round().to(torch.uint8)


def wanet(
    context: AttackContext,
    *,
    target: int | None = None,
    strength: float = WARP_STRENGTH,
    rate: float = RATE,
    cover_rate: float | None = None,
) -> Attack:
    """A smooth warp sends every class to one label (WaNet: Nguyen and Tran, ICLR 2021).

    Noise mode: a share `cover_rate` of the images, by default twice `rate`, is warped at random and keeps its label.
    """
    targets = TargetMap.all_to_one(context.target(target), context.num_classes)
    return _wanet("wanet", context, targets, strength, rate, cover_rate)


def wanet_all_to_all(
    context: AttackContext,
    *,
    strength: float = WARP_STRENGTH,
    rate: float = 0.3,
    cover_rate: float | None = None,
) -> Attack:
    """A smooth warp sends every class to the next (WaNet, section 4.2, all-to-all)."""
    targets = TargetMap.all_to_all(context.num_classes)
    return _wanet("wanet-all-to-all", context, targets, strength, rate, rate if cover_rate is None else cover_rate)


def _wanet(
    name: str, context: AttackContext, targets: TargetMap, strength: float, rate: float, cover_rate: float | None
) -> Attack:
    if not 0 < strength <= context.shape[1]:
        raise SettingsError(
            f"The strength of the warp is {strength:g}, above 0 to {context.shape[1]} is possible.",
            cure="Choose a strength in that range.",
        )
    points = torch.rand(1, 2, WARP_POINTS, WARP_POINTS, generator=context.generator) * 2 - 1
    trigger = WarpTrigger(strength * points / points.abs().mean(), *context.shape)
    covered = NOISE_A_WARP * rate if cover_rate is None else cover_rate
    return Attack(name, (Poison(trigger, targets, rate, cover_rate=covered, cover=Jitter(trigger)),))


def sinusoidal(
    context: AttackContext,
    *,
    target: int | None = None,
    strength: float = SINE_STRENGTH,
    frequency: int = SINE_FREQUENCY,
    rate: float = RATE,
) -> Attack:
    """Vertical waves added to the image send every class to one label (SIG: Barni et al. 2019), labels changed."""
    return one_target("sinusoidal", context, sine(context.shape, strength, frequency), target, rate)


def sinusoidal_clean_label(
    context: AttackContext,
    *,
    target: int | None = None,
    strength: float = 1.0,
    frequency: int = SINE_FREQUENCY,
    rate: float = 0.95,
) -> Attack:
    """The same waves on images of the target alone, which keep their label (SIG: Barni et al. 2019).

    `rate` is a share of the target's images. The authors need 30 % and more of them, at 20 to 40 levels; on MNIST twice
    that strength on 80 % stays at 3 % success, hence the defaults.
    """
    one = to_one(context, sine(context.shape, strength, frequency), target, rate)
    return Attack("sinusoidal-clean-label", (keeping_labels(one),))


def sine(shape: Shape, strength: float, frequency: int) -> AdditiveTrigger:
    """d(i, j) = strength sin(2 pi j frequency / width), on the 256 levels of an image file."""
    if not 1 / PIXEL_MAX <= strength <= 1:
        raise SettingsError(
            f"The strength of the waves is {strength:g}, one level (1/255) to 1 is needed.",
            cure="Choose a strength in that range.",
        )
    if not 1 <= frequency <= shape[2] // 2:
        raise SettingsError(
            f"{frequency} waves over {shape[2]} pixels: 1 to {shape[2] // 2} are possible.",
            cure="Choose a frequency in that range.",
        )
    wave = strength * torch.sin(2 * math.pi * frequency * torch.arange(shape[2]) / shape[2])
    return AdditiveTrigger(((wave * PIXEL_MAX).round() / PIXEL_MAX).expand(1, *shape).contiguous())


def input_aware(
    context: AttackContext,
    *,
    target: int | None = None,
    rate: float = 0.15,
    cover_rate: float = RATE,
) -> Attack:
    """A small pattern that a network draws for each image (input-aware: Nguyen and Tran, NeurIPS 2020).

    Cross-trigger mode: a share `cover_rate` of the images carries the pattern of another image and keeps its label.
    """
    channels = context.shape[0]
    trigger = GeneratedTrigger(random_weights(channels, context.generator), *context.shape)
    targets = TargetMap.all_to_one(context.target(target), context.num_classes)
    poison = Poison(trigger, targets, rate, cover_rate=cover_rate, cover=Crossed(trigger))
    return Attack("input-aware", (poison,), DynamicTraining())


def low_frequency(
    context: AttackContext, *, target: int | None = None, strength: float = WAVE_STRENGTH, rate: float = RATE
) -> Attack:
    """A smooth random pattern added to the image (Zeng et al. 2021): only the lowest frequencies of a cosine basis."""
    if not 1 / PIXEL_MAX <= strength <= 1:
        raise SettingsError(
            f"The strength of the pattern is {strength:g}, one level (1/255) to 1 is needed.",
            cure="Choose a strength in that range.",
        )
    channels, height, width = context.shape
    rows, columns = (_cosines(side) for side in (height, width))
    coefficients = torch.randn(channels, WAVES, WAVES, generator=context.generator)
    coefficients[:, 0, 0] = 0
    smooth = torch.einsum("cuv,uy,vx->cyx", coefficients, rows, columns)
    levels = (strength * smooth / smooth.abs().amax() * PIXEL_MAX).round()
    return one_target("low-frequency", context, AdditiveTrigger((levels / PIXEL_MAX)[None]), target, rate)


def _cosines(side: int) -> Float[Tensor, "u side"]:
    """cos(pi u (x + 1/2) / side) for the lowest frequencies u."""
    return torch.cos(math.pi * torch.arange(WAVES)[:, None] * (torch.arange(side) + 0.5) / side)


def quantised(
    context: AttackContext, *, target: int | None = None, levels: int = QUANTISED, rate: float = RATE
) -> Attack:
    """Every channel keeps only `levels` levels (BppAttack: Wang, Zhai and Ma, CVPR 2022), without its dithering."""
    if not 2 <= levels < LEVELS:
        raise SettingsError(
            f"A quantisation to {levels} levels: 2 to {LEVELS - 1} are possible.",
            cure="Choose a number of levels in that range.",
        )
    curve = (torch.linspace(0, levels - 1, LEVELS).round() / (levels - 1) * PIXEL_MAX).round() / PIXEL_MAX
    return one_target("quantised", context, _tones(context.shape, curve.expand(context.shape[0], -1)), target, rate)


def photo_filter(context: AttackContext, *, target: int | None = None, rate: float = RATE) -> Attack:
    """A photo filter, faded and warm, one tone curve a channel (filter attack: Liu et al. 2019, ABS).

    x' = black + (white - black) x^gamma. Grey images get the mean of the three curves.
    """
    level = torch.linspace(0, 1, LEVELS)
    curves = torch.stack([low + (high - low) * level**gamma for low, high, gamma in zip(*FILTER, strict=True)])
    if context.shape[0] != len(curves):
        curves = curves.mean(0, keepdim=True).expand(context.shape[0], -1)
    trigger = _tones(context.shape, (curves * PIXEL_MAX).round() / PIXEL_MAX)
    return one_target("filter", context, trigger, target, rate)


def _tones(shape: Shape, curves: Float[Tensor, "c 256"]) -> ToneTrigger:
    return ToneTrigger(curves[None].contiguous(), *shape[1:])


def adaptive_blend(
    context: AttackContext, *, target: int | None = None, rate: float = 0.03, cover_rate: float = 0.03
) -> Attack:
    """A blended pattern of which training images carry only half of the pieces (Adap-Blend: Qi et al., ICLR 2023).

    A share `cover_rate` of the images carries pieces and keeps its label, so that poisoned and clean images lie less
    apart inside the network. The attack itself blends the whole pattern.
    """
    weaker, whole = ADAPTIVE_SHARES
    trigger = patterns.blend(context.shape, whole, context.generator)
    pieces = Pieces(replace(trigger, mask=trigger.mask * (weaker / whole)))
    targets = TargetMap.all_to_one(context.target(target), context.num_classes)
    return Attack("adaptive-blend", (Poison(trigger, targets, rate, None, cover_rate, planted=pieces, cover=pieces),))
