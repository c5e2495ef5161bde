"""Which neurons carry the backdoor (Wang et al., S&P 2019, section VI): those that the trigger excites most.

    gap_j = mean over images x of ( a_j(A(x, m, p)) - a_j(x) ) / sd over x of a_j(x)

at the features (input of the last linear layer). The paper ranks by the bare difference; in units of the neuron's
own spread on clean images the same share of neurons tells triggered images apart better (docs/repair.md has figures).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.metrics import FORWARD_BATCH, pixels
from neural_cleanse.triggers.base import Trigger

LEAST_SPREAD = 0.01  # of the mean spread of the layer's neurons

Activations = Callable[[Classifier, Float[Tensor, "n c h w"]], Float[Tensor, "n d"]]


def features(classifier: Classifier, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    """What goes into the last linear layer."""
    return classifier.with_features(images)[1]


@torch.no_grad()
def activations(
    of: Activations, classifier: Classifier, images: UInt8[Tensor, "n c h w"], trigger: Trigger | None = None
) -> Float[Tensor, "n d"]:
    """The neurons' values for every image, with the trigger (k = 1) on it if one is given."""
    parts = []
    for part in images.to(classifier.device).split(FORWARD_BATCH):
        batch = pixels(part)
        parts.append(of(classifier, batch if trigger is None else trigger(batch.unsqueeze(0)).squeeze(0)))
    return torch.cat(parts).cpu()


def activation_gap(clean: Float[Tensor, "n d"], triggered: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """How far the trigger lifts each neuron, in clean standard deviations.

    A neuron that is silent on every clean image has none: the least spread that counts is a share of the layer's own.
    Where nothing varies (one image) it is the bare difference.
    """
    spread = clean.std(0) if len(clean) > 1 else torch.zeros(clean.shape[1])
    if not spread.any():
        return triggered.mean(0) - clean.mean(0)
    least = (LEAST_SPREAD * spread.mean()).clamp_min(torch.finfo(spread.dtype).tiny)
    return (triggered.mean(0) - clean.mean(0)) / spread.clamp_min(least)


def rank(gap: Float[Tensor, " d"]) -> Int[Tensor, " d"]:
    """The neurons, the one with the largest gap first; ties in the order of the layer."""
    return gap.argsort(descending=True, stable=True)
