"""The classification loss of the objective: cross entropy as the paper says, or what the released code computes.

Method: Wang et al. 2019, section IV. The authors' visualizer.py hands Keras its two arguments the wrong way round,
which leaves 16.1 * (1 - p_target): no gradient from images the model is sure of. Both are kept, by name.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neural_cleanse.choices import LossName

KERAS_CLIP = 1e-7

Loss = Callable[[Float[Tensor, "k n classes"], Int[Tensor, "k n"]], Float[Tensor, " k"]]


def cross_entropy(logits: Float[Tensor, "k n classes"], targets: Int[Tensor, "k n"]) -> Float[Tensor, " k"]:
    """Mean cross entropy of each row's images against their targets: the paper's loss."""
    chances = logits.log_softmax(-1)
    return -chances.gather(2, targets.unsqueeze(2)).mean((1, 2))


def swapped_cross_entropy(logits: Float[Tensor, "k n classes"], targets: Int[Tensor, "k n"]) -> Float[Tensor, " k"]:
    """The loss as released: the authors' code swaps Keras' arguments, which leaves 16.1 * (1 - p_target)."""
    chances = logits.softmax(-1)
    onehot = torch.nn.functional.one_hot(targets, logits.shape[-1]).to(chances.dtype)
    logs = onehot.clamp(KERAS_CLIP, 1 - KERAS_CLIP).log()
    return -(chances * logs).sum(-1).mean(1)


LOSSES = {LossName.CE: cross_entropy, LossName.SWAPPED: swapped_cross_entropy}
