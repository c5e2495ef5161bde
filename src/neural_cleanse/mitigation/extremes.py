"""What a trigger leaves in the early layers: the largest and the smallest value of each of their channels.

A trigger made for the features of its target (Liu et al., NDSS 2018) is hard to tell from the target there. In the
first half of the convolutions the image still shows what it shows, and a trigger is a small part of it with unusually
strong responses.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import UnusableOutputs


class _AllSeen(Exception):
    """The last of the layers was called: the rest of the network need not run."""


@torch.no_grad()
def early_extremes(classifier: Classifier, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    """Maxima and minima over the places of every channel of the early convolutions; no values where there are none.

    Only the network's first half runs. Raises UnusableOutputs when it does not call a layer that it called before.
    """
    layers = [classifier.module.get_submodule(name) for name in classifier.layers.early]
    if not layers:
        return images.new_zeros(len(images), 0)
    found: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        size = output.shape[2:]  # pooling is many times faster than amax where channels are last in memory
        found[layer] = torch.cat([max_pool2d(output, size), -max_pool2d(-output, size)], 1).flatten(1).float()
        if len(found) == len(layers):
            raise _AllSeen

    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        classifier(images)
    except _AllSeen:
        return torch.cat([found[layer] for layer in layers], 1)
    finally:
        for handle in handles:
            handle.remove()
    raise UnusableOutputs(
        "The network does not call the same layers for every image: there is nothing to compare its images by.",
        cure="Repair the model instead.",
    )
