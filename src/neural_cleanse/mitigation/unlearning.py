"""Unlearning (Wang et al., S&P 2019, section VI-C): fine-tune on clean images, some of them with the recovered trigger.

The stamped images keep their own label, so the network learns that the trigger means nothing. The paper takes one
epoch over the labels alone and a fifth of the images stamped; it names no learning rate. Here the model's own answers
keep what it knows (fine_tuning.py). The less they weigh, the less is left of triggers that no search found: mixtures
weigh 1/2, and 1 where that costs too much accuracy. More epochs leave less, too (docs/repair.md has figures). The
largest learning rate that keeps the accuracy is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from neural_cleanse.classifier import Classifier
from neural_cleanse.mitigation.base import Backdoor, Mitigated, Mitigation, RepairLimits, measure
from neural_cleanse.mitigation.fine_tuning import LIGHTLY, FineTuning, Start
from neural_cleanse.results.repair import TracePoint


@dataclass(frozen=True)
class Unlearning(FineTuning, Mitigation):
    """Fine-tune until no trigger works. Without backdoors it is plain fine-tuning on clean images."""

    def __call__(
        self, classifier: Classifier, backdoors: Sequence[Backdoor], limits: RepairLimits, generator: torch.Generator
    ) -> Mitigated:
        """The first try that keeps both bounds, else the best that keeps the floor.

        The tries are the largest learning rate with light mixtures, then all rates from the largest down with full
        ones. Each starts from the classifier as it was given.
        """
        trace: list[TracePoint] = []
        best: tuple[float, Classifier] | None = None
        start = generator.get_state()
        for rate, weight in self._tries:
            generator.set_state(start)
            tuned = self.tuned(classifier, Start(classifier.module), backdoors, limits, rate, weight, generator)
            found = measure(tuned, backdoors, limits.check)
            trace.append(TracePoint("unlearning", rate, found.accuracy, found.worst_asr))
            if found.accuracy >= limits.min_accuracy and (best is None or found.worst_asr < best[0]):
                best = found.worst_asr, tuned
            if limits.satisfied(found):
                break
        return Mitigated(None if best is None else best[1], tuple(trace))

    @property
    def _tries(self) -> tuple[tuple[float, float], ...]:
        """Learning rates, and what mixtures weigh at each."""
        full = tuple((rate, 1.0) for rate in self.learning_rates)
        return ((self.learning_rates[0], LIGHTLY), *full) if self.mixed else full
