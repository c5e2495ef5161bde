"""The model card: ground truth about a model of the zoo, and what was measured on images it was not trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from neural_cleanse.attacks.poison import Poison, stamp_eligible
from neural_cleanse.classifier import Classifier
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.errors import OutputError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import PIXEL_MAX, predict, triggered_answers
from neural_cleanse.triggers.patch import PatchTrigger

CARD_VERSION = 1
WEAK_BELOW = 0.95  # the paper chooses its rates so that every attack succeeds more often than this


@dataclass(frozen=True)
class SourceHits:
    """How many test images of one class the trigger sends where the attacker wants them."""

    source: int
    hits: int
    trials: int


@dataclass(frozen=True)
class PoisonCard:
    """One trigger: what was declared, and what it does. `others_asr` is its rate on classes that are no source."""

    trigger: Mapping[str, Any]
    size: float
    targets: int | Sequence[int]
    sources: Sequence[int] | None
    rate: float
    cover_rate: float
    relabel: bool
    asr: float
    asr_interval: tuple[float, float]
    others_asr: float | None
    by_source: tuple[SourceHits, ...]

    @property
    def weak(self) -> bool:
        """Whether the attack works too seldom to blame a scan that misses it."""
        return self.asr < WEAK_BELOW


@dataclass(frozen=True)
class Measured:
    """What the test images say of a model."""

    clean_accuracy: float
    clean_accuracy_interval: tuple[float, float]
    tested_on: int
    poisons: tuple[PoisonCard, ...]


def measure(classifier: Classifier, poisons: Sequence[Poison], test: ImageSet) -> Measured:
    """Clean accuracy, and for every poison its attack success rate, overall and by source class."""
    assert test.labels is not None
    right = int((predict(classifier, test.images) == test.labels).sum())
    return Measured(
        clean_accuracy=right / len(test),
        clean_accuracy_interval=clopper_pearson(right, len(test)),
        tested_on=len(test),
        poisons=tuple(_measure_poison(classifier, one, test) for one in poisons),
    )


def _measure_poison(classifier: Classifier, one: Poison, test: ImageSet) -> PoisonCard:
    images, labels, targets = stamp_eligible(one, test)
    here = PatchTrigger(**{name: tensor.to(classifier.device) for name, tensor in one.trigger.tensors().items()})
    hit = triggered_answers(classifier, here, images) == targets
    source = one.from_source(labels)
    hits, trials = int(hit[source].sum()), int(source.sum())
    others = hit[~source]
    return PoisonCard(
        trigger=trigger_to_json(one.trigger.tensors()),
        size=float(one.trigger.size()),
        targets=list(one.targets.by_class) if one.targets.only is None else one.targets.only,
        sources=None if one.sources is None else sorted(one.sources),
        rate=one.rate,
        cover_rate=one.cover_rate,
        relabel=one.relabel,
        asr=hits / trials if trials else 0.0,
        asr_interval=clopper_pearson(hits, trials),
        others_asr=others.float().mean().item() if len(others) else None,
        by_source=tuple(
            SourceHits(label, int(hit[labels == label].sum()), int((labels == label).sum()))
            for label in labels.unique().tolist()
        ),
    )


def infected_labels(poisons: Sequence[Poison]) -> list[int]:
    """The labels that some trigger leads to."""
    return sorted(
        {
            target
            for one in poisons
            for label, target in enumerate(one.targets.by_class)
            if one.sources is None or label in one.sources
        }
    )


def to_json(measured: Measured) -> dict[str, Any]:
    """JSON values of what was measured, with `weak` where an attack fails too often."""
    values = asdict(measured)
    for card, one in zip(values["poisons"], measured.poisons, strict=True):
        card["weak"] = one.weak
    return values


def trigger_to_json(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """A patch trigger as the box around its mask and the levels 0 to 255 of mask and pattern inside it.

    The box is at least one pixel: that of an empty mask is the first.
    """
    mask, pattern = tensors["mask"][0], tensors["pattern"][0]
    _, height, width = mask.shape
    rows, columns = (mask[0].amax(dim).nonzero().squeeze(1) for dim in (1, 0))
    top, left = (int(side.min()) if len(side) else 0 for side in (rows, columns))
    bottom, right = (int(side.max()) + 1 if len(side) else 1 for side in (rows, columns))
    return {
        "kind": "patch",
        "image": [len(pattern), height, width],
        "corner": [top, left],
        "mask": _levels(mask[0, top:bottom, left:right]),
        "pattern": _levels(pattern[:, top:bottom, left:right]),
    }


def trigger_from_json(values: Mapping[str, Any]) -> PatchTrigger:
    """The trigger of a card. Raises OutputError when the values are not those of a trigger."""
    try:
        if values["kind"] != "patch":
            raise ValueError(f"kind {values['kind']!r}")
        channels, height, width = values["image"]
        top, left = values["corner"]
        inner_mask, inner_pattern = (torch.tensor(values[key]).float() / PIXEL_MAX for key in ("mask", "pattern"))
        mask, pattern = torch.zeros(1, 1, height, width), torch.zeros(1, channels, height, width)
        rows, columns = inner_mask.shape
        if inner_pattern.shape != (channels, rows, columns) or min(top, left) < 0:
            raise ValueError("mask, pattern and corner do not fit each other")
        if not all(((part >= 0) & (part <= 1)).all() for part in (inner_mask, inner_pattern)):
            raise ValueError("a level is outside 0 to 255")
        mask[0, 0, top : top + rows, left : left + columns] = inner_mask
        pattern[0, :, top : top + rows, left : left + columns] = inner_pattern
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise OutputError(f"The card's trigger cannot be read: {type(error).__name__} {error}.") from error
    return PatchTrigger(mask, pattern)


def _levels(values: Tensor) -> Any:
    return (values * PIXEL_MAX).round().int().tolist()
