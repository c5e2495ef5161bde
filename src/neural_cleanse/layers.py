"""Which layers of a network see features, told by running it: names say little, order of execution says it.

The features are the input of the last linear layer ("second to last layer" of Wang et al. 2019, section VI); neurons
are pruned there and in the convolutions. Where that layer sees several vectors an image (the tokens of a
transformer) the features are their mean, which gives the very logits if the answers are averaged afterwards.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neural_cleanse.errors import SettingsError, UnusableOutputs

WEIGHTED = (nn.Linear, nn.Conv2d, nn.BatchNorm2d)
NORM = nn.modules.batchnorm._NormBase  # of every kind that keeps statistics, as buffers
DROPOUT = nn.modules.dropout._DropoutNd


@dataclass(frozen=True)
class Layers:
    """Names of modules, as `get_submodule` takes them.

    `last_linear` is the layer whose input are the features; `convolutions` come as they are called, each with the batch
    norm right behind it, None where there is none. `early` are the first half of those that see each image once, each
    as its batch norm where there is one.
    """

    last_linear: str
    convolutions: tuple[tuple[str, str | None], ...]
    early: tuple[str, ...] = ()


@torch.no_grad()
def find_layers(module: nn.Module, images: Float[Tensor, "n c h w"], features: str | None = None) -> Layers:
    """Run `module` on normalised images and see in which order its layers are called.

    `features` names the linear layer whose input are the features, where the last one is not it. Raises SettingsError
    when there is no such layer, UnusableOutputs when the network has no linear layer at all, or when that layer does
    not see one row an image.
    """
    order: list[str] = []
    rows: dict[str, int] = {}
    named: dict[str, nn.Module] = {name: layer for name, layer in module.named_modules() if isinstance(layer, WEIGHTED)}
    handles = [
        layer.register_forward_hook(_noting(order, rows, name), with_kwargs=True) for name, layer in named.items()
    ]
    try:
        module(images)
    finally:
        for handle in handles:
            handle.remove()
    linear = [name for name in order if isinstance(named[name], nn.Linear)]
    if features is not None and features not in linear:
        raise SettingsError(
            f"The network has no linear layer {features!r}.", cure=f"It has {', '.join(linear[-8:]) or 'none'}."
        )
    if not linear:
        raise UnusableOutputs(
            "The network has no linear layer, so nothing says which activations are its features.",
            cure="Give the network as a torch.nn.Module (not TorchScript) that ends in a torch.nn.Linear.",
        )
    chosen = features or linear[-1]
    if rows[chosen] != len(images):
        raise UnusableOutputs(
            f"The linear layer {chosen!r} sees {rows[chosen]} rows for {len(images)} images: no features of an image.",
            cure="Name another linear layer with --features.",
        )
    last_call = {name: place for place, name in enumerate(order) if isinstance(named[name], nn.Conv2d)}
    by_call = sorted(last_call.items(), key=lambda one: one[1])
    convolutions = tuple((name, _norm_behind(order, named, place)) for name, place in by_call)
    of_images = [norm or name for name, norm in convolutions if rows[name] == len(images)]
    return Layers(chosen, convolutions, tuple(of_images[: (len(of_images) + 1) // 2]))


def _noting(order: list[str], rows: dict[str, int], name: str) -> Callable[[nn.Module, Any, Any, Any], None]:
    def note(layer: nn.Module, inputs: tuple[Tensor, ...], given: dict[str, Tensor], output: Any) -> None:
        order.append(name)
        rows[name] = len(inputs[0] if inputs else given["input"])

    return note


Kinds = type[nn.Module] | tuple[type[nn.Module], ...]


def set_training(module: nn.Module, kinds: Kinds, but: Kinds = ()) -> None:
    """Layers of these kinds in train mode, no others; `module.train` may be the network's own."""
    for layer in module.modules():
        layer.training = isinstance(layer, kinds) and not isinstance(layer, but)


def one_vector(seen: Float[Tensor, "n ... d"]) -> Float[Tensor, "n d"]:
    """What a linear layer sees of every image, the mean where that are several vectors."""
    return seen if seen.dim() == 2 else seen.flatten(1, -2).mean(1)


def _norm_behind(order: list[str], named: dict[str, nn.Module], place: int) -> str | None:
    """The batch norm called right after the layer at `place`, if it has as many channels."""
    if place + 1 == len(order):
        return None
    layer, following = named[order[place]], named[order[place + 1]]
    fits = isinstance(following, nn.BatchNorm2d) and following.num_features == getattr(layer, "out_channels", None)
    return order[place + 1] if fits else None


class Tap:
    """Context in which what goes into one layer is kept: `kept` after every forward pass."""

    def __init__(self, layer: nn.Module) -> None:
        self.kept: Tensor | None = None
        self._layer = layer

    def __enter__(self) -> "Tap":
        self._handle = self._layer.register_forward_pre_hook(self._keep, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        self.kept = inputs[0] if inputs else named["input"]

    def take(self) -> Tensor:
        """What the last forward pass left. Raises UnusableOutputs when the layer was not called."""
        if self.kept is None:
            raise UnusableOutputs(
                "The network did not call the layer whose activations are asked for.",
                cure="Name another layer with --features.",
            )
        kept, self.kept = self.kept, None
        return kept
