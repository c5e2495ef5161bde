"""What the restarts of a label pair come to: one size, one trigger, and its ASR on images that chose nothing."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jaxtyping import Num
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.metrics import attack_hits
from neural_cleanse.results.records import LabelPair, Outcome, Recovered
from neural_cleanse.triggers.base import Trigger

# A row has settled when its log size, over about the last ten steps, is less than this under that over about the last
# fifty: it then falls by less than a tenth in a hundred steps.
SETTLED_FALL = 0.04
ONE_IN_TWENTY = 1.645  # standard deviations of the normal distribution


@dataclass(frozen=True)
class Choice:
    """What one restart came to: `size` None when no kept trigger held; `fall` is how far its log size fell lately."""

    trigger: Trigger
    size: float | None
    fall: float
    forward_passes: int


def choose(
    classifier: Classifier,
    images: Num[Tensor, "n c h w"],
    target: int,
    candidates: Iterable[tuple[Trigger, float]],
    least_asr: float,
    fall: float,
    *,
    allow_chance: bool,
) -> Choice | None:
    """The first of the candidates, the smallest first with their sizes, that succeeds on `least_asr` of the images.

    Where none does, with `allow_chance` the one that succeeds most often, unless chance alone would not explain what it
    lacks: of few images a trigger may miss one too many. None where there is none.
    """
    best: tuple[int, Trigger, float] | None = None
    forward = 0
    for trigger, size in candidates:
        forward += len(images)
        hits = attack_hits(classifier, trigger, images, target)
        if hits >= least_asr * len(images):
            return Choice(trigger, size, fall, forward)
        if best is None or hits > best[0]:
            best = hits, trigger, size
    if best is None or not allow_chance or best[0] < _by_chance(least_asr, len(images)):
        return None
    return Choice(best[1], best[2], fall, forward)


def _by_chance(rate: float, trials: int) -> float:
    """Hits that a trigger of that success rate falls short of in one case of twenty (normal approximation)."""
    return rate * trials - ONE_IN_TWENTY * math.sqrt(trials * rate * (1 - rate))


def merge(
    classifier: Classifier,
    confirm: Num[Tensor, "n c h w"],
    pair: LabelPair,
    choices: Sequence[Choice],
    passes: int,
) -> Recovered:
    """The smallest restart stands for the label: a search ends above the smallest trigger, never under it.

    Its ASR is measured on the `confirm` images.
    """
    smallest = min(choices, key=lambda choice: math.inf if choice.size is None else choice.size)
    logs = [math.log(choice.size) for choice in choices if choice.size is not None]
    outcome = Outcome.CONVERGED if smallest.fall < SETTLED_FALL else Outcome.STEP_LIMIT
    return Recovered(
        pair=pair,
        trigger=smallest.trigger,
        size=smallest.size,
        log_size_sd=statistics.stdev(logs) if len(logs) > 1 else None,
        hits=attack_hits(classifier, smallest.trigger, confirm, pair.target),
        trials=len(confirm),
        outcome=Outcome.ASR_NOT_REACHED if smallest.size is None else outcome,
        image_passes=passes,
        forward_passes=sum(choice.forward_passes for choice in choices) + len(confirm),
        fall=smallest.fall,
    )
