"""A copy of a network with weights drawn anew: what a student begins with."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from neural_cleanse.copies import copied

MOST_FIXED = 0.1  # of a network's values: beyond, a student would keep the suspect's own
NORM = nn.modules.batchnorm._NormBase  # whose buffers are statistics


def fresh(module: nn.Module, seed: int) -> nn.Module | None:
    """A copy with weights drawn anew: by each layer's own rule, else the values of a tensor in another order.

    A permutation keeps a tensor's scale and destroys what it does. Where buffers hold over MOST_FIXED of all values,
    they are weights too. None where the network has none, cannot be copied, or more than that cannot be drawn anew.
    """
    try:
        found = copied(module)
    except Exception:  # the network's own code
        return None
    devices = [weight.device for weight in found.parameters() if weight.device.type == "cuda"][:1]
    drawn: set[int] = set()
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(seed)
        for layer in found.modules():
            own = [*layer.parameters(recurse=False)]
            if own and _reset(layer):
                drawn.update(map(id, own))
        for weight in found.parameters():
            if weight.is_floating_point():
                weight.requires_grad_(True)
                if id(weight) not in drawn:
                    weight.copy_(_shuffled(weight))
        if _fixed_share(found) > MOST_FIXED:
            _make_parameters(found)
    if _fixed_share(found) > MOST_FIXED or not any(weight.requires_grad for weight in found.parameters()):
        return None
    return found


def _reset(layer: nn.Module) -> bool:
    """Draw a layer's weights by its own rule; False where it has none that can be asked."""
    reset = getattr(layer, "reset_parameters", None)
    try:
        if callable(reset):
            reset()
            return True
    except Exception:  # the network's own code: one that wants to be told how
        return False
    return False


def _shuffled(values: Tensor) -> Tensor:
    """The same values in another order."""
    order = torch.randperm(values.numel(), device=values.device)
    return values.flatten()[order].view_as(values)


def _fixed(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Buffers of more than one value, and parameters that no gradient changes, but for statistics of norm layers."""
    for layer in module.modules():
        if isinstance(layer, NORM):
            continue
        parameters = [(name, one) for name, one in layer.named_parameters(recurse=False) if not one.requires_grad]
        for name, value in (*layer.named_buffers(recurse=False), *parameters):
            if value.numel() > 1:
                yield layer, name, value


def _fixed_share(module: nn.Module) -> float:
    total = sum(value.numel() for value in (*module.parameters(), *module.buffers()))
    return sum(value.numel() for _, _, value in _fixed(module)) / max(1, total)


def _make_parameters(module: nn.Module) -> None:
    """Make weights of the buffers that can be some, in another order."""
    for layer, name, value in [*_fixed(module)]:
        if value.is_floating_point() and bool(value.isfinite().all()) and name in layer._buffers:
            del layer._buffers[name]
            layer.register_parameter(name, nn.Parameter(_shuffled(value)))


def values_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    buffers = module.named_buffers(remove_duplicate=False)
    return {**dict(module.named_parameters(remove_duplicate=False)), **dict(buffers)}
