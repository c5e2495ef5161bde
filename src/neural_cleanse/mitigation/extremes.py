"""What a trigger leaves in the early layers: the largest and the smallest value of each of their channels.

A trigger made for the features of its target (Liu et al., NDSS 2018) is hard to tell from the target there. In the
first half of the convolutions the image still shows what it shows, and a trigger is a small part of it with unusually
strong responses.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import Signal
from neural_cleanse.errors import UnusableOutputs

MOST_KEPT = 2**28  # bytes of one pass over a batch; larger networks run their first half again instead


class EarlyLayers:
    """Context in which the early layers keep what they return, so that a forward pass need not be run again."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._layers = [classifier.module.get_submodule(name) for name in classifier.layers.early]
        self._kept: dict[nn.Module, tuple[Tensor, int]] = {}
        self._bytes = 0

    def __enter__(self) -> "EarlyLayers":
        self._handles = [layer.register_forward_hook(self._keep) for layer in self._layers]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        self._bytes += output.numel() * output.element_size()
        if self._bytes > MOST_KEPT:
            self._kept.clear()
        elif not output.is_inference():  # such a tensor does not tell whether it was written over
            self._kept[layer] = output, output._version

    def extremes(self, images: Float[Tensor, "n c h w"], rows: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """Maxima and minima over the places of every channel, for some rows of the images that passed; no values where
        there are no convolutions.

        Raises UnusableOutputs when the network does not call a layer that it called before.
        """
        if not self._layers or not len(rows):
            return images.new_zeros(len(rows), 0)
        kept = [self._kept[layer] for layer in self._layers if layer in self._kept]
        if len(kept) == len(self._layers) and all(output._version == version for output, version in kept):
            return torch.cat([_extremes(output[rows]) for output, _ in kept], 1)
        return self._again(images[rows])

    def _again(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """The same from another pass through the first half of the network."""
        found: dict[nn.Module, Tensor] = {}

        def note(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            found[layer] = _extremes(output)
            if len(found) == len(self._layers):
                raise _AllSeen

        handles = [layer.register_forward_hook(note) for layer in self._layers]
        try:
            self._classifier(images)
        except _AllSeen:
            return torch.cat([found[layer] for layer in self._layers], 1)
        finally:
            for handle in handles:
                handle.remove()
        raise UnusableOutputs(
            "The network does not call the same layers for every image: there is nothing to compare its images by.",
            cure="Repair the model instead.",
        )


class _AllSeen(Signal):
    """The last of the layers was called: the rest of the network need not run."""


def _extremes(output: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    size = output.shape[2:]  # pooling is many times faster than amax where channels are last in memory
    return torch.cat([max_pool2d(output, size), -max_pool2d(-output, size)], 1).flatten(1).float()
