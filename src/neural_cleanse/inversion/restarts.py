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
    """The smallest restart stands for the label: a search ends above the smallest trigger, never under it.

    Its ASR is measured on the `confirm` images.
    """
    smallest = min(choices, key=lambda choice: math.inf if choice.size is None else choice.size)
    logs = [math.log(choice.size) for choice in choices if choice.size is not None]
    outcome = Outcome.CONVERGED if smallest.settled else Outcome.STEP_LIMIT
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
    )
