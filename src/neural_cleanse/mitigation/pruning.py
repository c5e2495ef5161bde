"""Pruning (Wang et al., S&P 2019, section VI-B): silence the neurons that the trigger excites, most excited first.

Neurons really are zeroed in the weights: at the features their column in the last linear layer, at the last
convolution the filter, its bias, and weight and bias of the batch norm behind it. What a residual connection adds
behind the layer stays.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import DataError, SettingsError, UnusableOutputs
from neural_cleanse.metrics import eligible_rows
from neural_cleanse.mitigation.base import Backdoor, Mitigated, Mitigation, RepairLimits, measure
from neural_cleanse.mitigation.ranking import Activations, activation_gap, activations, channels, features, rank
from neural_cleanse.results.repair import TracePoint

PLACES = ("convolution", "features")
STEP = 0.01  # of the layer's neurons between two measurements
MOST = 0.5  # of the neurons: the paper's curves end at 30 %


@dataclass(frozen=True)
class Pruning(Mitigation):
    """Prune at `place` until no trigger works, or one step more would break the accuracy floor."""

    place: str = "convolution"

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise SettingsError(
                f"Neurons are pruned at {' or '.join(PLACES)}, not at {self.place!r}.", cure="Choose one of them."
            )

    def possible(self, classifier: Classifier, backdoors: Sequence[Backdoor]) -> bool:
        """Whether the network has such a layer, and there is a trigger to rank its neurons by."""
        try:
            layers = classifier.layers
        except UnusableOutputs:  # no linear layer
            return False
        ranking = any(backdoor.place is None for backdoor in backdoors)  # by what a trigger on images excites
        return ranking and (self.place == "features" or layers.last_convolution is not None)

    def __call__(
        self, classifier: Classifier, backdoors: Sequence[Backdoor], limits: RepairLimits, generator: torch.Generator
    ) -> Mitigated:
        """The least pruned classifier that keeps both bounds; else the most pruned one that keeps the floor."""
        if not self.possible(classifier, backdoors):
            raise SettingsError(f"There is nothing to prune at the {self.place}.", cure="Prune elsewhere, or unlearn.")
        order = rank_neurons(classifier, backdoors, limits, features if self.place == "features" else channels)
        step = max(1, round(STEP * len(order)))
        trace: list[TracePoint] = []
        kept: Classifier | None = None
        for count in range(0, int(MOST * len(order)) + 1, step):
            limits.on_step(f"pruning, {self.place}, {count} of {len(order)} neurons")
            pruned = classifier.changed(module=zeroed(classifier, order[:count], self.place))
            found = measure(pruned, backdoors, limits.check)
            trace.append(TracePoint(f"pruning, {self.place}", count / len(order), found.accuracy, found.worst_asr))
            if found.accuracy < limits.min_accuracy:
                break
            if limits.satisfied(found):
                kept = pruned
                break
            kept = pruned if count else None
        return Mitigated(kept, tuple(trace))


def rank_neurons(
    classifier: Classifier, backdoors: Sequence[Backdoor], limits: RepairLimits, of: Activations
) -> Int[Tensor, " d"]:
    """The neurons by their largest gap over all backdoors that there are images for."""
    assert limits.train.labels is not None
    clean = activations(of, classifier, limits.train.images)
    gaps: list[Float[Tensor, " d"]] = []
    for backdoor in backdoors:
        rows = eligible_rows(limits.train.labels, backdoor.pair)
        if len(rows) == 0 or backdoor.place is not None:
            continue
        triggered = activations(of, classifier, limits.train.images[rows], backdoor.on(classifier.device))
        gaps.append(activation_gap(clean[rows], triggered))
    if not gaps:
        raise DataError(
            "There are no images of other classes than the target to rank neurons with.",
            cure="Give images of several classes.",
        )
    return rank(torch.stack(gaps).amax(0))


def zeroed(classifier: Classifier, neurons: Int[Tensor, " m"], place: str) -> nn.Module:
    """A copy of the network in which the neurons say nothing."""
    module, layers = copy.deepcopy(classifier.module), classifier.layers
    with torch.no_grad():
        if place == "features":
            last = module.get_submodule(layers.last_linear)
            assert isinstance(last, nn.Linear)
            last.weight[:, neurons] = 0
            return module
        assert layers.last_convolution is not None
        silenced = [module.get_submodule(name) for name in (layers.last_convolution, layers.its_norm) if name]
        for layer in silenced:
            for parameter in (layer.weight, layer.bias):
                if isinstance(parameter, Tensor):
                    parameter[neurons] = 0
    return module
