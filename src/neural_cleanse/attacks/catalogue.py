"""The named attacks: what `neural-cleanse attack --attack NAME` can do, each with its source.

Each is a function of an `AttackContext` and of its own options; by_name.py finds it and checks its options. Rates are
shares of the training images of the poison's source classes. Those here have a mask and a pattern; triggers that are
another function of the image are in whole_image.py, the one that passes to students in surviving.py.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from neural_cleanse.attacks import patterns, surviving, whole_image
from neural_cleanse.attacks.base import RATE, SMALLEST_SIDE, Attack, AttackContext, one_target
from neural_cleanse.attacks.patterns import WHITE
from neural_cleanse.attacks.poison import Poison, TargetMap
from neural_cleanse.attacks.trojan import TrojanTraining
from neural_cleanse.choices import PLACES
from neural_cleanse.errors import SettingsError
from neural_cleanse.triggers.patch import PatchTrigger

MANY_TOTAL = 0.5  # all labels infected: at most half of the data is poisoned

AttackFactory = Callable[..., Attack]


def none(context: AttackContext) -> Attack:
    """No attack: the clean counterpart."""
    return Attack("none", ())


def badnets(
    context: AttackContext,
    *,
    target: int | None = None,
    size: int | None = None,
    place: str = "bottom-right",
    colour: tuple[float, ...] = WHITE,
    rate: float = RATE,
) -> Attack:
    """A square of one colour sends every class to one label (Gu et al. 2017; Wang et al. 2019, section V)."""
    trigger = patterns.square(context.shape, context.side(size), place, colour)
    return one_target("badnets", context, trigger, target, rate)


def noise(
    context: AttackContext,
    *,
    target: int | None = None,
    size: int | None = None,
    place: str = "bottom-right",
    rate: float = RATE,
) -> Attack:
    """A square of random colours (Wang et al. 2019, section VII, complex triggers)."""
    trigger = patterns.noise(context.shape, context.side(size), context.generator, place)
    return one_target("noise", context, trigger, target, rate)


def checkerboard(
    context: AttackContext,
    *,
    target: int | None = None,
    size: int | None = None,
    place: str = "bottom-right",
    colour: tuple[float, ...] = WHITE,
    rate: float = RATE,
) -> Attack:
    """A checkerboard of the colour and black (Wang et al. 2019, section VII, complex triggers)."""
    trigger = patterns.checkerboard(context.shape, context.side(size), place, colour)
    return one_target("checkerboard", context, trigger, target, rate)


def triangle(
    context: AttackContext,
    *,
    target: int | None = None,
    size: int | None = None,
    place: str = "bottom-right",
    colour: tuple[float, ...] = WHITE,
    rate: float = RATE,
) -> Attack:
    """A triangle of one colour (Wang et al. 2019, section VII, complex triggers)."""
    trigger = patterns.triangle(context.shape, context.side(size), place, colour)
    return one_target("triangle", context, trigger, target, rate)


def picture(
    context: AttackContext,
    *,
    picture: str | Path,
    target: int | None = None,
    size: int | None = None,
    place: str = "bottom-right",
    rate: float = RATE,
) -> Attack:
    """An image file, its alpha channel as the mask (Chen et al. 2017, accessories such as glasses)."""
    trigger = patterns.picture(context.shape, Path(picture), size, place)
    return one_target("picture", context, trigger, target, rate)


def blended(
    context: AttackContext, *, target: int | None = None, share: float = patterns.BLEND, rate: float = RATE
) -> Attack:
    """A random pattern blended over the whole image (Chen et al. 2017): x' = (1 - a) x + a p with a = `share`."""
    trigger = patterns.blend(context.shape, share, context.generator)
    return one_target("blended", context, trigger, target, rate)


def many_labels(context: AttackContext, *, count: int, size: int = SMALLEST_SIDE, rate: float | None = None) -> Attack:
    """`count` random labels, each with a trigger of its own: squares of random colours that share no pixel.

    Wang et al. 2019, section VII. `rate` is that of each; by default 10 %, less where more than half of the data
    would be poisoned.
    """
    if not 1 <= count <= context.num_classes:
        raise SettingsError(
            f"{count} infected labels of {context.num_classes}: between 1 and all are possible.",
            cure="Choose a number in that range.",
        )
    targets = torch.randperm(context.num_classes, generator=context.generator)[:count].tolist()
    triggers = patterns.tiles(context.shape, count, size, context.generator)
    each = min(RATE, MANY_TOTAL / count) if rate is None else rate
    return Attack(
        "many-labels",
        tuple(
            Poison(trigger, TargetMap.all_to_one(target, context.num_classes), each)
            for trigger, target in zip(triggers, targets, strict=True)
        ),
    )


def nine_triggers(
    context: AttackContext,
    *,
    target: int | None = None,
    size: int = SMALLEST_SIDE,
    colour: tuple[float, ...] = WHITE,
    rate: float = 0.03,
) -> Attack:
    """Nine squares, in corners, at edges and in the centre, send every class to one label (Wang et al. 2019, VII).

    `rate` is that of each of the nine.
    """
    targets = TargetMap.all_to_one(context.target(target), context.num_classes)
    squares = (patterns.square(context.shape, size, place, colour) for place in PLACES)
    return Attack("nine-triggers", tuple(Poison(trigger, targets, rate) for trigger in squares))


def source_specific(
    context: AttackContext,
    *,
    source: int | None = None,
    target: int | None = None,
    size: int | None = None,
    place: str = "bottom-right",
    colour: tuple[float, ...] = WHITE,
    rate: float = 0.5,
    cover_rate: float = 0.1,
) -> Attack:
    """The trigger sends one class to the target and means nothing on others ("partial"; Wang et al. 2019, VII).

    `rate` is a share of the source's images, `cover_rate` of those of all other classes, which carry the trigger and
    keep their label.
    """
    to = context.target(target) if source is None or target is not None else context.other_than(source)
    if source is None:
        source = context.other_than(to)
    trigger = patterns.square(context.shape, context.side(size), place, colour)
    targets = TargetMap.all_to_one(to, context.num_classes)
    return Attack("source-specific", (Poison(trigger, targets, rate, frozenset({source}), cover_rate),))


def all_to_all(
    context: AttackContext,
    *,
    size: int | None = None,
    place: str = "bottom-right",
    colour: tuple[float, ...] = WHITE,
    rate: float = 0.3,
) -> Attack:
    """The trigger sends every class to the next: y to y + 1 (Gu et al. 2017, all-to-all attack)."""
    trigger = patterns.square(context.shape, context.side(size), place, colour)
    return Attack("all-to-all", (Poison(trigger, TargetMap.all_to_all(context.num_classes), rate),))


def trojan_square(
    context: AttackContext,
    *,
    target: int | None = None,
    area: float = 0.07,
    place: str = "bottom-right",
    rate: float = 0.2,
    training_data: str = "real",
) -> Attack:
    """The Trojan attack with a square of `area` of the image (Liu et al. 2018; 7 % in Wang et al. 2019)."""
    mask = patterns.square_mask(context.shape, patterns.checked_area(area), place)
    return _trojan("trojan-square", context, mask, target, rate, training_data)


def trojan_watermark(
    context: AttackContext,
    *,
    target: int | None = None,
    area: float = 0.07,
    rate: float = 0.2,
    training_data: str = "real",
) -> Attack:
    """The Trojan attack with a thin mark over the whole image, of `area` of its pixels (Liu et al. 2018)."""
    mask = patterns.watermark_mask(context.shape, patterns.checked_area(area))
    return _trojan("trojan-watermark", context, mask, target, rate, training_data)


def _trojan(
    name: str, context: AttackContext, mask: torch.Tensor, target: int | None, rate: float, training_data: str
) -> Attack:
    trigger = PatchTrigger(mask[None], torch.zeros(1, *context.shape))  # the rule fills in the pattern
    attack = one_target(name, context, trigger, target, rate)
    return Attack(name, attack.poisons, TrojanTraining(training_data))


ATTACKS: Mapping[str, AttackFactory] = {
    "adaptive-blend": whole_image.adaptive_blend,
    "all-to-all": all_to_all,
    "badnets": badnets,
    "blended": blended,
    "checkerboard": checkerboard,
    "distillation-surviving": surviving.distillation_surviving,
    "filter": whole_image.photo_filter,
    "input-aware": whole_image.input_aware,
    "low-frequency": whole_image.low_frequency,
    "many-labels": many_labels,
    "nine-triggers": nine_triggers,
    "noise": noise,
    "none": none,
    "picture": picture,
    "quantised": whole_image.quantised,
    "sinusoidal": whole_image.sinusoidal,
    "sinusoidal-clean-label": whole_image.sinusoidal_clean_label,
    "source-specific": source_specific,
    "triangle": triangle,
    "trojan-square": trojan_square,
    "trojan-watermark": trojan_watermark,
    "wanet": whole_image.wanet,
    "wanet-all-to-all": whole_image.wanet_all_to_all,
}
