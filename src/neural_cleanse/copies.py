"""Copies of modules, also of those that `copy.deepcopy` refuses.

`weight_norm`, `spectral_norm` and pruning of torch.nn.utils keep a weight that was computed from others as a plain
attribute. While it hangs on a computation it cannot be copied; its values can.
"""

import copy
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def copied(module: ModuleT) -> ModuleT:
    """A copy that shares nothing with the module. Raises whatever the module's own class raises when copied."""
    known = {id(tensor): tensor.detach().clone() for tensor in _computed(module)}
    with torch.no_grad():  # a copy of TorchScript would else hang on the weights that it was copied from
        return copy.deepcopy(module, known)


def frozen(module: ModuleT) -> ModuleT:
    """A copy in eval mode of which no weight gets a gradient."""
    own = copied(module)
    own.eval()  # a user's own may return nothing
    return own.requires_grad_(False)


def _computed(module: nn.Module) -> Iterator[Tensor]:
    """The attributes and buffers that hang on a computation."""
    for part in module.modules():
        for value in (*vars(part).values(), *part.buffers(recurse=False)):
            if isinstance(value, Tensor) and not value.is_leaf:
                yield value
