"""Unlearning (Wang et al., S&P 2019, section VI-C): fine-tune on clean images, some of them with the recovered trigger.

The stamped images keep their own label, so the network learns that the trigger means nothing. The paper takes one
epoch over the labels alone and a fifth of the images stamped; it names no learning rate. Here the model's own answers
keep what it knows (fine_tuning.py). The less mixtures weigh and the larger the learning rate, the less is left of
triggers that no search found, and the more accuracy is lost where images are few. So the first two tries are strong,
with mixtures that weigh 1/10 and 1/2, and kept only where they cost nothing, or next to nothing; then these weigh 1/2,
and 1, and the largest learning rate that keeps the accuracy is taken. In the first up to half of the images have
triggers; in the others a quarter, for twice as many batches, which wins accuracy back (docs/design-notes.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.metrics import FORWARD_BATCH
from neural_cleanse.mitigation.base import Backdoor, Mitigated, Mitigation, RepairLimits, measure
from neural_cleanse.mitigation.fine_tuning import LIGHTLY, FineTuning, Start, mixtures
from neural_cleanse.results.repair import TracePoint

STRONG_RATE = 3e-3  # Adam's, of the first two tries ...
BARELY = 0.1  # ... the weight of mixtures in the first ...
SHORT, MOSTLY = 0.5, 0.5  # ... its share of a try's batches, and how many of its images have triggers at most
MOST_LOST = (0.0, 0.005)  # what they may cost of accuracy to be kept, and the first ...
# ... how many of its answers to mixtures of the images that decide may be others than before. Accuracy alone does not
# tell where those images are nearly the same as some that were learned from, like the frames of a film.
MOST_CHANGED = 0.1
COMPARED = 2048  # mixtures
CHANGES, COSTS = "undone: it changes too many answers", "undone: a strong try may not cost so much accuracy"


@dataclass(frozen=True)
class _Try:
    """A learning rate, what mixtures weigh at it, how much accuracy it may cost and how many answers it may change at
    most, as shares (1: the limits alone say); its share of the batches that few images make, and how many images have
    triggers at most (None: as the fine-tuning says)."""

    rate: float
    weight: float
    most_lost: float = 1.0
    most_changed: float = 1.0
    length: float = 1.0
    most_stamped: float | None = None

    def costs(self, accuracy: float, before: float) -> bool:
        """Whether it lost more accuracy than it may."""
        return accuracy < before - self.most_lost

    def changes(self, before: Classifier, after: Classifier, images: UInt8[Tensor, "n c h w"]) -> bool:
        """Whether it changed more answers to mixtures of the images than it may."""
        return self.most_changed < 1 and _changed(before, after, images) > self.most_changed


@dataclass(frozen=True)
class Unlearning(FineTuning, Mitigation):
    """Fine-tune until no trigger works. Without backdoors it is plain fine-tuning on clean images.

    Without mixtures, or with a `strong_rate` of None, there are no strong tries.
    """

    strong_rate: float | None = STRONG_RATE

    def __call__(
        self, classifier: Classifier, backdoors: Sequence[Backdoor], limits: RepairLimits, generator: torch.Generator
    ) -> Mitigated:
        """The first try that keeps both bounds, else the best that keeps the floor.

        The tries are a strong learning rate with barely any mixtures and with light ones, the largest of the others
        with light ones, then all of them from the largest down with full ones. Each starts from the classifier as it
        was given. A strong try that keeps both bounds and costs more than a strong one may is taken where no gentler
        one keeps them. Where a gentler try has left more than the one before it, and too much, the rest are spared.
        """
        trace: list[TracePoint] = []
        best: tuple[float, Classifier, int] | None = None
        costly: tuple[float, Classifier, int] | None = None
        drawn = generator.get_state()
        before = measure(classifier, (), limits.check).accuracy
        for number, one in enumerate(self._tries):
            generator.set_state(drawn)
            start = Start(classifier.module, f"unlearning, try {number + 1} of up to {len(self._tries)}")
            tuned = self._as_in(one).tuned(classifier, start, backdoors, limits, one.rate, one.weight, generator)
            found = measure(tuned, backdoors, limits.check)
            changes, costs = one.changes(classifier, tuned, limits.check.images), one.costs(found.accuracy, before)
            outcome = CHANGES if changes else COSTS if costs else limits.broken(found)
            trace.append(TracePoint("unlearning", one.rate, found.accuracy, found.worst_asr, outcome))
            limits.on_step(f"{start.name}: {_ended(trace[-1])}")
            if changes:
                continue
            if costs:
                if limits.satisfied(found) and (costly is None or found.accuracy > costly[0]):
                    costly = found.accuracy, tuned, number
                continue
            leaves_more = best is not None and found.worst_asr > max(best[0], limits.max_asr)
            if found.accuracy >= limits.min_accuracy and (best is None or found.worst_asr < best[0]):
                best = found.worst_asr, tuned, number
            if limits.satisfied(found):
                return Mitigated(tuned, tuple(trace))
            if leaves_more:
                break
        kept = costly or best
        return Mitigated(None, tuple(trace)) if kept is None else Mitigated(kept[1], tuple(trace), kept[2])

    def _as_in(self, one: _Try) -> FineTuning:
        stamped = self.most_stamped if one.most_stamped is None else one.most_stamped
        return replace(self, least_batches=math.ceil(self.least_batches * one.length), most_stamped=stamped)

    @property
    def _tries(self) -> tuple[_Try, ...]:
        full = tuple(_Try(rate, 1.0) for rate in self.learning_rates)
        if not self.mixed:
            return full
        calm = (_Try(self.learning_rates[0], LIGHTLY), *full)
        if self.strong_rate is None:
            return calm
        barely, lightly = MOST_LOST
        return (
            _Try(self.strong_rate, BARELY, barely, MOST_CHANGED, length=SHORT, most_stamped=MOSTLY),
            _Try(self.strong_rate, LIGHTLY, lightly),
            *calm,
        )


def _ended(point: TracePoint) -> str:
    """What a try left, and what became of it."""
    left = f"clean accuracy {point.accuracy:.1%}, the strongest trigger works on {point.worst_asr:.1%}"
    return f"{left}; {point.outcome or 'kept'}"


@torch.no_grad()
def _changed(before: Classifier, after: Classifier, images: UInt8[Tensor, "n c h w"]) -> float:
    """The share of mixtures of the images to which the two say different classes."""
    mixed = mixtures(images, COMPARED, torch.Generator().manual_seed(0)).split(FORWARD_BATCH)
    differing = [before(part.to(before.device)).argmax(1) != after(part.to(after.device)).argmax(1) for part in mixed]
    return torch.cat(differing).float().mean().item()
