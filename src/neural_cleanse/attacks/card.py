"""The model card: ground truth about a model of the zoo, and what was measured on images it was not trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from neural_cleanse.attacks.poison import Poison
from neural_cleanse.attacks.trigger_json import trigger_to_json
from neural_cleanse.classifier import Classifier
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import clean_accuracy, predict, triggered_answers

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
    """One trigger: what was declared, and what it does.

    `others_asr` is its rate on classes that are no source; `cover_accuracy` the clean accuracy on images that carry
    what the cover images carried, where that is not the trigger itself; `known_class` that on the same images without
    the trigger, where every class has a target of its own.
    """

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
    cover_accuracy: float | None
    known_class: float | None
    by_source: tuple[SourceHits, ...]

    @property
    def weak(self) -> bool:
        """Whether the attack works too seldom to blame a scan that misses it.

        Where every class has a target of its own, it works at most on images whose class the network knows.
        """
        return self.asr < WEAK_BELOW * (1.0 if self.known_class is None else self.known_class)


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
    right_rows = predict(classifier, test.images) == test.labels
    right = int(right_rows.sum())
    return Measured(
        clean_accuracy=right / len(test),
        clean_accuracy_interval=clopper_pearson(right, len(test)),
        tested_on=len(test),
        poisons=tuple(_measure_poison(classifier, one, test, right_rows) for one in poisons),
    )


def _measure_poison(classifier: Classifier, one: Poison, test: ImageSet, right_rows: Bool[Tensor, " n"]) -> PoisonCard:
    assert test.labels is not None
    rows = one.eligible(test.labels)
    images, labels = test.images[rows], test.labels[rows]
    targets = one.targets(labels)
    hit = triggered_answers(classifier, one.trigger.to(classifier.device), images) == targets
    source = one.meant_for(labels)
    hits, trials = int(hit[source].sum()), int(source.sum())
    others = hit[~source]
    return PoisonCard(
        trigger=trigger_to_json(one.trigger),
        size=float(one.trigger.size()),
        targets=list(one.targets.by_class) if one.targets.only is None else one.targets.only,
        sources=None if one.works_from is None else sorted(one.works_from),
        rate=one.rate,
        cover_rate=one.cover_rate,
        relabel=one.relabel,
        asr=hits / trials if trials else 0.0,
        asr_interval=clopper_pearson(hits, trials),
        others_asr=others.float().mean().item() if len(others) else None,
        known_class=right_rows[rows][source].float().mean().item() if one.targets.only is None and trials else None,
        cover_accuracy=_cover_accuracy(classifier, one, test),
        by_source=tuple(
            SourceHits(label, int(hit[labels == label].sum()), int((labels == label).sum()))
            for label in labels.unique().tolist()
        ),
    )


def _cover_accuracy(classifier: Classifier, one: Poison, test: ImageSet) -> float | None:
    if one.cover is None or not one.cover_rate:
        return None
    assert test.labels is not None
    covered = one.cover(test.images, torch.Generator().manual_seed(0))
    return clean_accuracy(predict(classifier, covered), test.labels)


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
