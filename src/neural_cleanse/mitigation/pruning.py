"""Pruning (Wang et al., S&P 2019, VI-B), and fine-tuning of what is left (Fine-Pruning; Liu et al., RAID 2018).

The neurons that the trigger needs are silenced in the weights, in all layers together, until it no longer works;
gates.py ranks them. The accuracy may then be under its floor: fine-tuning on clean images brings it back, the silenced
neurons staying at zero. What a residual connection adds behind a layer stays.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import SettingsError, UnusableOutputs
from neural_cleanse.mitigation.base import Backdoor, Mitigated, Mitigation, RepairLimits, measure
from neural_cleanse.mitigation.fine_tuning import LIGHTLY, FineTuning, Start
from neural_cleanse.mitigation.gates import Neuron, rank_neurons, silence, silenced
from neural_cleanse.results.repair import Measurement, TracePoint

STEP = 0.02  # of the neurons between two measurements
MOST = 0.5  # of the neurons
LEAST_ACCURACY = 0.5  # of the accuracy floor: no fine-tuning brings back more
BEYOND = 1.5  # times the neurons after which the trigger no longer works: fine-tuning wakes some of it
FURTHER = 1.25  # times those, where it still comes back
TRIES = 3  # fine-tunings
TUNING = FineTuning()


@dataclass
class _Best:
    """Of what keeps the accuracy floor, that under which the triggers work least."""

    limits: RepairLimits
    classifier: Classifier | None = None
    worst_asr: float = math.inf
    place: int = -1

    def consider(self, classifier: Classifier, found: Measurement, place: int) -> None:
        """Take this one, the last of a trace at that `place`, where it is better."""
        if found.accuracy >= self.limits.min_accuracy and found.worst_asr < self.worst_asr:
            self.classifier, self.worst_asr, self.place = classifier, found.worst_asr, place


@dataclass(frozen=True)
class Pruning(Mitigation):
    """Prune until no trigger works, fine-tune, and prune more where a trigger comes back."""

    gains_from_more: ClassVar[bool] = False  # they share the neurons that may go
    untried: ClassVar[str] = "faint patterns over the whole image were not tried: pruning does not search for them"

    tuning: FineTuning = TUNING

    def possible(self, classifier: Classifier, backdoors: Sequence[Backdoor]) -> bool:
        """Whether the network has features, and there is a trigger to rank its neurons by."""
        try:
            return bool(classifier.layers and backdoors)
        except UnusableOutputs:  # no linear layer
            return False

    def __call__(
        self, classifier: Classifier, backdoors: Sequence[Backdoor], limits: RepairLimits, generator: torch.Generator
    ) -> Mitigated:
        """The first try that keeps both bounds, else the best that keeps the floor."""
        if not self.possible(classifier, backdoors):
            raise SettingsError("There is nothing to prune.", cure="Unlearn.")
        limits.on_step("pruning, learning which neurons the trigger needs")
        order = rank_neurons(classifier, backdoors, limits.train, generator)
        best, trace = _Best(limits), []
        for count, pruned, found in self._curve(classifier, order, backdoors, limits):
            trace.append(TracePoint("pruning", count / len(order), found.accuracy, found.worst_asr))
            if count or limits.satisfied(found):
                best.consider(pruned, found, len(trace) - 1)
            if found.worst_asr <= limits.max_asr or found.accuracy < LEAST_ACCURACY * limits.min_accuracy:
                break
        if found.worst_asr > limits.max_asr or (count == 0 and limits.satisfied(found)):
            return Mitigated(best.classifier, tuple(trace), best.place)
        for attempt in range(TRIES):
            chosen = order[: min(len(order) - 1, round(count * BEYOND * FURTHER**attempt))]
            tuned = self._tuned(classifier, chosen, limits, generator)
            found = measure(tuned, backdoors, limits.check)
            share = len(chosen) / len(order)
            trace.append(TracePoint("pruning, fine-tuned", share, found.accuracy, found.worst_asr))
            if limits.satisfied(found):
                return Mitigated(tuned, tuple(trace))
            best.consider(tuned, found, len(trace) - 1)
            if found.accuracy < limits.min_accuracy:  # more neurons would cost more
                break
        return Mitigated(best.classifier, tuple(trace), best.place)

    def _curve(
        self, classifier: Classifier, order: Sequence[Neuron], backdoors: Sequence[Backdoor], limits: RepairLimits
    ) -> Iterator[tuple[int, Classifier, Measurement]]:
        """More and more neurons silenced, without fine-tuning: how many, the network, and what is left."""
        step = max(1, round(STEP * len(order)))
        for count in range(0, int(MOST * len(order)) + 1, step):
            pruned = classifier.changed(module=silenced(classifier, order[:count]))
            found = measure(pruned, backdoors, limits.check)
            limits.on_step(
                f"pruning, {count} of {len(order)} neurons: the trigger works on {found.worst_asr:.1%}, clean accuracy "
                f"{found.accuracy:.1%}"
            )
            yield count, pruned, found

    def _tuned(
        self, classifier: Classifier, chosen: Sequence[Neuron], limits: RepairLimits, generator: torch.Generator
    ) -> Classifier:
        """Fine-tuned on clean images without these neurons."""
        start = Start(
            silenced(classifier, chosen),
            f"fine-tuning without {len(chosen)} neurons",
            partial(silence, layers=classifier.layers, neurons=chosen),
        )
        return self.tuning.tuned(classifier, start, (), limits, self.tuning.learning_rates[0], LIGHTLY, generator)
