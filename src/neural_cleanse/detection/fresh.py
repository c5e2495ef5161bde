"""A copy of a network with weights drawn anew: what a student begins with."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from neural_cleanse.copies import copied
from neural_cleanse.layers import NORM

MOST_FIXED = 0.1  # of a network's values: beyond, a student would keep the suspect's own


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
            before = [weight.detach().clone() for weight in own]
            if own and _reset(layer):  # a rule may draw what others are computed into, as that of weight_norm does
                drawn.update(id(new) for new, old in zip(own, before, strict=True) if not torch.equal(new, old))
        for weight in found.parameters():
            if weight.is_floating_point():
                weight.requires_grad_(True)
                if id(weight) not in drawn:
                    weight.copy_(_shuffled(weight))
        _make_parameters(found)
    if _beyond(found) > 0 or not any(weight.requires_grad for weight in found.parameters()):
        return None
    return found


def _reset(layer: nn.Module) -> bool:
    """Draw a layer's weights by its own rule; False where it has none that can be asked."""
    reset = getattr(layer, "reset_parameters", None)
    if not callable(reset):
        return False
    try:
        reset()
    except Exception:  # the network's own code: one that wants to be told how
        return False
    return True


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


def _beyond(module: nn.Module) -> float:
    """How many more values are fixed than may be; one that several layers share counts once."""
    total = sum(value.numel() for value in (*module.parameters(), *module.buffers()))
    return sum({id(value): value.numel() for _, _, value in _fixed(module)}.values()) - MOST_FIXED * total


def _make_parameters(module: nn.Module) -> None:
    """Make weights of the largest buffers that can be some, in another order, until few values are fixed."""
    made, beyond = dict[int, nn.Parameter](), _beyond(module)
    for layer, name, value in sorted(_fixed(module), key=lambda one: one[2].numel(), reverse=True):
        if id(value) not in made and beyond <= 0:
            continue
        if value.is_floating_point() and bool(value.isfinite().all()) and name in layer._buffers:
            if id(value) not in made:
                made[id(value)] = nn.Parameter(_shuffled(value))
                beyond -= value.numel()
            try:
                del layer._buffers[name]
                layer.register_parameter(name, made[id(value)])
            except (RuntimeError, TypeError):  # TorchScript's stay as they are
                return


def values_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    buffers = module.named_buffers(remove_duplicate=False)
    return {**dict(module.named_parameters(remove_duplicate=False)), **dict(buffers)}
