"""What a recovered trigger is good for, as Wang et al. 2019 tried it: activations, input filter, pruning (section VI).

All is fitted with the recovered trigger on images that no search saw, and measured with the recovered and with the
original trigger on others.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from linear_filter import TOP, linear_filter, top
from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import eligible_rows
from neural_cleanse.mitigation.base import Backdoor, measure
from neural_cleanse.mitigation.gates import silenced
from neural_cleanse.mitigation.guard_fitting import fisher
from ranking import Activations, activation_gap, activations, features, rank

RATES = (0.05, 0.10)  # of clean images that the filter may reject
SHARES = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of neurons, pruned
MEASURED = 0.5  # of the fresh images, for each point of a pruning curve
SHOWN = 1000  # images of Table III

Vectors = Float[Tensor, "n d"]


def channels(classifier: Classifier, images: Float[Tensor, "n c h w"]) -> Vectors:
    """The channels of the last convolution, batch norm included, each as the mean of its positive values."""
    convolution, norm = classifier.layers.convolutions[-1]
    kept: list[Tensor] = []

    def keep(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        kept.append(output)

    handle = classifier.module.get_submodule(norm or convolution).register_forward_hook(keep)
    try:
        classifier(images)
    finally:
        handle.remove()
    return kept[-1].relu().mean((2, 3))


def by_difference(clean: Vectors, triggered: Vectors) -> Int[Tensor, " d"]:
    """The neurons as the paper ranks them: by the bare difference of the mean activations."""
    return rank(triggered.mean(0) - clean.mean(0))


def paper_top(clean: Vectors, triggered: Vectors) -> Float[Tensor, " d"]:
    """The paper's filter: the mean of the 1 % of neurons that lead its ranking."""
    neurons = by_difference(clean, triggered)[: max(1, round(TOP * clean.shape[1]))]
    return torch.zeros(clean.shape[1]).index_fill(0, neurons, 1 / len(neurons))


DIRECTIONS = {"paper": paper_top, "top": top, "fisher": fisher}


def mechanism(
    classifier: Classifier, recovered: Backdoor, original: Backdoor, calm: ImageSet, fresh: ImageSet
) -> dict[str, Any]:
    """Activations, filter and pruning of one model."""
    return {
        "activations": table_three(classifier, recovered, original, calm, fresh),
        "filter": filters(classifier, recovered, original, calm, fresh),
        "pruning": curves(
            classifier, recovered, original, calm, fresh.take(torch.arange(round(MEASURED * len(fresh))))
        ),
    }


def _both(of: Activations, classifier: Classifier, data: ImageSet, backdoor: Backdoor) -> tuple[Vectors, Vectors]:
    """Activations of the images that the attack is measured on, without and with the trigger."""
    assert data.labels is not None
    images = data.images[eligible_rows(data.labels, backdoor.pair)]
    return activations(of, classifier, images), activations(of, classifier, images, backdoor.on(classifier.device))


def table_three(
    classifier: Classifier, recovered: Backdoor, original: Backdoor, calm: ImageSet, fresh: ImageSet
) -> dict[str, float]:
    """Mean activation of the top 1 % of neurons at the second last layer, ranked with the recovered trigger."""
    order = by_difference(*_both(features, classifier, calm, recovered))
    neurons = order[: max(1, round(TOP * len(order)))]
    few = fresh.take(torch.arange(len(fresh))[:SHOWN])
    clean, reversed_ = _both(features, classifier, few, recovered)
    _, planted = _both(features, classifier, few, original)
    named = {"clean": clean, "recovered": reversed_, "original": planted}
    return {"neurons": len(neurons)} | {
        name: round(found[:, neurons].mean().item(), 3) for name, found in named.items()
    }


def filters(
    classifier: Classifier, recovered: Backdoor, original: Backdoor, calm: ImageSet, fresh: ImageSet
) -> list[dict[str, Any]]:
    """Clean images rejected, and images with the original trigger that pass, for each direction and rate."""
    found = []
    for name, direction in DIRECTIONS.items():
        for wanted in RATES:
            made = linear_filter(
                classifier, [recovered], [original], calm=calm, fresh=fresh, direction=direction, rate=wanted
            )
            fpr, fnr = made.fpr, made.accepted[0]
            found.append({"direction": name, "wanted": wanted, "fpr": round(fpr, 4), "fnr": round(fnr, 4)})
    return found


def curves(
    classifier: Classifier, recovered: Backdoor, original: Backdoor, calm: ImageSet, fresh: ImageSet
) -> list[dict[str, Any]]:
    """Accuracy and success of both triggers against the share of neurons pruned, for each layer and ranking."""
    layers = classifier.layers
    places: Sequence[tuple[str, str, Activations]] = (
        ("features", layers.last_linear, features),
        ("convolution", layers.convolutions[-1][0], channels),
    )
    found = []
    for place, layer, of in places:
        both = _both(of, classifier, calm, recovered)
        for ranking, order in (("difference", by_difference(*both)), ("spread", rank(activation_gap(*both)))):
            points = []
            for count in dict.fromkeys(round(share * len(order)) for share in SHARES):
                neurons = [(layer, index) for index in order[:count].tolist()]
                pruned = classifier.changed(module=silenced(classifier, neurons))
                got = measure(pruned, [recovered, original], fresh)
                rates = [hits / trials for hits, trials in zip(got.hits, got.trials, strict=True)]
                values = (count / len(order), got.accuracy, *rates)
                points.append([round(value, 4) for value in values])
            found.append({"place": place, "ranking": ranking, "neurons": len(order), "points": points})
    return found
