"""Where a network can be cut in two, so that a trigger can be searched for between its layers.

The cut is behind the first layer or block that has halved the resolution and is no affine function of the image; at
full resolution where there is none. It is found by running the network, not by names: the output of a layer is a cut if
all that follows depends on the image through it alone, which is tried. The second part, the tail, is the network itself
with that output put in its place.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

MOST_TRIED = 60  # calls of layers that are looked at: a cut lies early
ALIKE = 1e-3  # of the spread of the values: float32 through some layers


@dataclass(frozen=True)
class Cut:
    """The `call`-th call of the layer of that name, whose output has `shape` for one image."""

    layer: str
    call: int
    shape: tuple[int, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape as channels, height, width; what has no places is all channels."""
        if len(self.shape) == 3:
            return self.shape[0], self.shape[1], self.shape[2]
        return int(torch.Size(self.shape).numel()), 1, 1

    @property
    def numel(self) -> int:
        """Values an image."""
        return int(torch.Size(self.shape).numel())


class Tail(nn.Module):
    """What follows a cut: features as (n, *image_shape) to the network's answers.

    The network runs on one empty image up to the cut, where the features take the place of what it made of it;
    on as many as there are features where it would mix up the numbers (`whole`). Values under `least` become that: what
    no image brings about at the cut (below 0 behind a ReLU) no trigger does.
    """

    def __init__(
        self, network: nn.Module, cut: Cut, empty: Float[Tensor, "1 c h w"], least: float, whole: bool = False
    ) -> None:
        super().__init__()
        self.network, self.cut, self.least, self.whole = network, cut, least, whole
        self.empty: Tensor
        self.register_buffer("empty", empty)

    def forward(self, features: Float[Tensor, "n c h w"]) -> Tensor:
        replacing = features.clamp_min(self.least).reshape(len(features), *self.cut.shape)
        empty = self.empty.expand(len(features), -1, -1, -1) if self.whole else self.empty

        def put(output: Any) -> Any:
            return replacing if isinstance(output, Tensor) else (replacing, *output[1:])

        with _at(self.network, self.cut, put):
            answers: Tensor = self.network(empty)
        return answers


class Shifted(nn.Module):
    """A network with what comes out at a cut shifted: by one amount for every image, or by one an image.

    No value sinks under `least` by it, as in the tail.
    """

    def __init__(self, network: nn.Module, cut: Cut, shift: Float[Tensor, "k c h w"], least: float) -> None:
        super().__init__()
        self.network, self.cut, self.least = network, cut, least
        self.shift: Tensor
        self.register_buffer("shift", shift)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Tensor:
        def put(output: Any) -> Any:
            features = _tensor(output)
            shift = self.shift.reshape(len(self.shift), *self.cut.shape)
            moved = torch.maximum(features + shift, features.clamp_max(self.least))
            return moved if isinstance(output, Tensor) else (moved, *output[1:])

        with _at(self.network, self.cut, put):
            answers: Tensor = self.network(images)
        return answers


@contextmanager
def _at(network: nn.Module, cut: Cut, act: Callable[[Any], Any]) -> Iterator[None]:
    """Context in which `act` gets what comes out at the cut, and may put something in its place."""
    calls = itertools.count()

    def hook(layer: nn.Module, inputs: Any, output: Any) -> Any:
        return act(output) if next(calls) == cut.call else None

    handle = network.get_submodule(cut.layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def features_at(network: nn.Module, cut: Cut, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n fc fh fw"]:
    """What comes out at the cut for normalised images, as (n, *image_shape)."""
    kept: list[Tensor] = []
    with _at(network, cut, lambda output: kept.append(_tensor(output))):
        network(images)
    return kept[0].reshape(len(images), *cut.image_shape)


@torch.no_grad()
def find_cut(
    network: nn.Module, images: Float[Tensor, "2 c h w"], before_each: Callable[[], object] = lambda: None
) -> tuple[Cut, bool] | None:
    """The first cut of the network (in eval mode), tried on two normalised images, and whether it needs `whole`.

    None where there is none: everything depends on the image in several ways, or on no layer that is a module.
    `before_each` is called before each trial, and may raise to end them.
    """
    tried = torch.cat([images, images.mean(0, keepdim=True)])
    answers = network(tried)
    outputs = [(cut, output) for cut, output in _outputs(network, tried) if cut.numel > answers[0].numel()]
    halved = images[0, 0].numel() / 2
    for most in (halved, math.inf):
        for cut, output in outputs:
            if _places(output) > most or not _bent(output):
                continue
            for whole in (False, True):
                before_each()
                if _follows(network, cut, output, answers, tried, whole):
                    return cut, whole
    return None


def _follows(network: nn.Module, cut: Cut, output: Tensor, answers: Tensor, images: Tensor, whole: bool) -> bool:
    """Whether the answers follow from the output at the cut alone."""
    tail = Tail(network, cut, torch.zeros_like(images[:1]), float(output.min()), whole)
    try:
        found = tail(output.reshape(len(output), *cut.image_shape))
    except Exception:  # whatever a network of somebody else's making raises
        return False
    return found.shape == answers.shape and _alike(found, answers)


def _outputs(network: nn.Module, images: Tensor) -> list[tuple[Cut, Tensor]]:
    """Outputs of layers, one row an image, in the order in which they come out."""
    found: list[tuple[Cut, Tensor]] = []
    calls: dict[str, int] = {}

    def noting(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(layer: nn.Module, inputs: Any, output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            tensor = _tensor(output)
            if len(found) >= MOST_TRIED or not isinstance(tensor, Tensor) or tensor.dim() not in (2, 3, 4):
                return
            if len(tensor) == len(images) and tensor.is_floating_point():
                found.append((Cut(name, calls[name] - 1, tuple(tensor.shape[1:])), tensor))

        return note

    handles = [
        layer.register_forward_hook(noting(name)) for name, layer in network.named_modules() if layer is not network
    ]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _places(output: Tensor) -> int:
    """How many places an output has: pixels of a map, tokens, or one."""
    return output[0, 0].numel() if output.dim() == 4 else output.shape[1] if output.dim() == 3 else 1


def _bent(output: Tensor) -> bool:
    """Whether the output for the mean of two images is not the mean of their outputs."""
    return not _alike(output[2], output[:2].mean(0))


def _alike(one: Tensor, other: Tensor) -> bool:
    spread = float(other.float().std()) if other.numel() > 1 else 1.0
    return float((one - other).abs().max()) <= ALIKE * max(spread, 1e-12)


def _tensor(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) and output else output


def work(module: nn.Module, images: Tensor) -> int:
    """Floating point operations of one forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(images)
    return int(counter.get_total_flops())
