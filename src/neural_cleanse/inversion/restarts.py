"""What the restarts of a label pair come to: one size, one trigger, and its ASR on images that chose nothing."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.metrics import attack_hits
from neural_cleanse.results.records import LabelPair, Outcome, Recovered
from neural_cleanse.triggers.base import Trigger


@dataclass(frozen=True)
class Choice:
    """What one restart came to: `size` None when no kept trigger held."""

    trigger: Trigger
    size: float | None
    settled: bool
    forward_passes: int


def merge(
    classifier: Classifier,
    confirm: UInt8[Tensor, "n c h w"],
    pair: LabelPair,
    choices: Sequence[Choice],
    passes: int,
) -> Recovered:
    """The median of the log sizes over restarts; the restart nearest to it stands for the label.

    Its ASR is measured on the `confirm` images.
    """
    logs = [math.log(choice.size) for choice in choices if choice.size is not None]
    reached = 2 * len(logs) > len(choices)
    middle = statistics.median(logs) if reached else None
    nearest = min(choices, key=lambda choice: _distance(choice.size, middle))
    settled = all(choice.settled for choice in choices if choice.size is not None)
    outcome = Outcome.CONVERGED if settled else Outcome.STEP_LIMIT
    return Recovered(
        pair=pair,
        trigger=nearest.trigger,
        size=None if middle is None else math.exp(middle),
        log_size_sd=statistics.stdev(logs) if reached and len(logs) > 1 else None,
        hits=attack_hits(classifier, nearest.trigger, confirm, pair.target),
        trials=len(confirm),
        outcome=outcome if reached else Outcome.ASR_NOT_REACHED,
        image_passes=passes,
        forward_passes=sum(choice.forward_passes for choice in choices) + len(confirm),
    )


def _distance(size: float | None, middle: float | None) -> float:
    return abs(math.log(size) - middle) if size is not None and middle is not None else math.inf
