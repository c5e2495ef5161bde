"""Chance by a seed, and what is inside a network: its hooks and its weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier


def seeded(seed: int = 0) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def num_hooks(module: nn.Module) -> int:
    """How many hooks hang on the module and all in it."""
    return sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in module.modules())


def state_of(classifier: Classifier) -> dict[str, Tensor]:
    """A copy of all weights and buffers, by name."""
    return {name: tensor.clone() for name, tensor in classifier.module.state_dict().items()}


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Whether two states are equal to the last bit."""
    return set(left) == set(right) and all(torch.equal(left[name], right[name]) for name in left)
