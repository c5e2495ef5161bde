"""What a graph does to shapes: found on the meta device, where no memory is taken, before any value is computed.

Serves two ends. A graph that would fill our memory is refused. And an archive exported with a fixed batch size B
gets any: the graph runs at B and at another size, the dimensions that differ are those of the batch, and B written
into a reshape is replaced by "what is left". That is a guess, so both networks are compared on random images; where
they differ, or the guess fails, the images go through in portions of B, which is always right and slower.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import OTHER_THAN_EXPORTED
from neural_cleanse.loading.dry_run import DryRun, TooLarge, without_memory
from neural_cleanse.loading.graph import Step, Value, filled
from neural_cleanse.loading.pt2.graph import Parts
from neural_cleanse.loading.pt2.operators import SIZED, Creating, expand, reshape
from neural_cleanse.text import first_line

MAX_VALUES = 2**26  # of one image in one tensor: 256 MB, four times the largest of a network on 1024 x 1024 pixels
TOGETHER = 8  # images at most that MAX_VALUES is granted for: a fixed batch may be any number
AGREEMENT = 1e-4  # relative and absolute: float32 sums in another order
BATCH = "batch size of the images"  # no name in a graph has spaces

Shape = tuple[int, ...]


class InPortions(nn.Module):
    """A network that takes `portion` images at a time and no other number, for any number of images."""

    def __init__(self, network: nn.Module, portion: int) -> None:
        super().__init__()
        self.network = network
        self._portion = portion

    def forward(self, images: Float[Tensor, "n c h w"]) -> Tensor:
        answers = []
        for portion in images.split(self._portion):
            missing = self._portion - len(portion)
            whole = torch.cat([portion, portion[-1:].expand(missing, *portion.shape[1:])]) if missing else portion
            answers.append(self.network(whole)[: len(portion)])
        return torch.cat(answers)


@dataclass(frozen=True)
class _Seen:
    """Shapes of one step: of its first tensor argument (None without one) and of its first result."""

    source: Shape | None
    result: Shape | None


def check_shapes(parts: Parts, shape: tuple[int, int, int], images: int, name: str) -> list[_Seen]:
    """Run the graph without values on so many images. Raises ModelError when it fails or a tensor is too large."""
    return _run(parts, shape, images, name, lambda _, keywords: keywords)


def any_batch(parts: Parts, shape: tuple[int, int, int], fixed: int, name: str) -> nn.Module:
    """The network for any number of images, from a graph made for `fixed` of them."""
    before = check_shapes(parts, shape, fixed, name)
    portions = InPortions(parts.network(), fixed)
    other = 3 if fixed != 3 else 2
    try:
        lifted = _lifted(parts, shape, before, fixed, other, name).network()
        images = torch.rand(max(other, min(fixed, TOGETHER)), *shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            if torch.allclose(lifted(images), portions(images), rtol=AGREEMENT, atol=AGREEMENT):
                return lifted
    except Exception:  # whatever a wrong guess makes torch raise
        return portions.eval()
    return portions.eval()


def _lifted(parts: Parts, shape: tuple[int, int, int], before: list[_Seen], fixed: int, other: int, name: str) -> Parts:
    """The graph with the fixed batch size taken out of its sizes."""
    found: dict[int, Mapping[str, Any]] = {}

    def lift(number: int, keywords: Mapping[str, Any]) -> Mapping[str, Any]:
        call, now = parts.steps[number].call, keywords
        size = keywords.get("size")
        if call in SIZED or isinstance(call, Creating):
            source = keywords.get("self")
            shapes = before[number], tuple(source.shape) if isinstance(source, Tensor) else None
            now = {**keywords, "size": _without_batch(call, size, *shapes, fixed)} if size else keywords
            found[number] = {
                key: now[key] if key == "size" else value for key, value in parts.steps[number].keywords.items()
            }
        return {key: _at(value, other) if key == "size" else value for key, value in now.items()}

    _run(parts, shape, other, name, lift)
    steps = [replace(step, keywords=found.get(number, step.keywords)) for number, step in enumerate(parts.steps)]
    return replace(parts, steps=[Step((BATCH,), _count, (Value(parts.image),)), *steps])


def _without_batch(call: Any, size: list[int], seen: _Seen, now: Shape | None, fixed: int) -> list[Any]:
    """`size` with the batch's place as -1 or the batch's Value; `seen` at the fixed batch, `now` at another."""
    differing = seen.source is not None and now is not None and seen.source != now
    if differing and call is reshape:
        return _reshaped(seen.source or (), now or (), list(seen.result or ()), fixed)
    if differing and call is expand:
        pairs = list(zip(reversed(seen.source or ()), reversed(now or ()), strict=True))
        backwards = [-1 if at < len(pairs) and pairs[at][0] != pairs[at][1] else s for at, s in enumerate(size[::-1])]
        return backwards[::-1]
    return [Value(BATCH), *size[1:]] if call is not reshape and size[0] == fixed else size


def _reshaped(before: Shape, now: Shape, sizes: list[int], fixed: int) -> list[int]:
    """`sizes`, what `before` was reshaped to, with -1 where the batch went, by the order of the values in memory."""
    (place,) = (at for at, (old, new) in enumerate(zip(before, now, strict=True)) if old != new)
    start, end = math.prod(before[:place]), math.prod(before[: place + 1])
    could = [
        at
        for at, size in enumerate(sizes)
        if size % fixed == 0 and math.prod(sizes[:at]) * fixed <= end and math.prod(sizes[: at + 1]) >= start * fixed
    ]
    alone = [at for at in could if sizes[at] == fixed]
    same_place = [place] if place in could and len(sizes) == len(before) else []
    (target, *_) = (*alone, *same_place, *could)
    return [-1 if at == target else size for at, size in enumerate(sizes)]


def _at(size: Any, images: int) -> Any:
    return [images if isinstance(part, Value) else part for part in size] if isinstance(size, list) else size


def _count(images: Tensor) -> int:
    return images.shape[0]


def _run(
    parts: Parts,
    shape: tuple[int, int, int],
    images: int,
    name: str,
    change: Callable[[int, Mapping[str, Any]], Mapping[str, Any]],
) -> list[_Seen]:
    """The graph without memory, `change` applied to every step's keywords, sizes checked against MAX_VALUES."""
    seen: list[_Seen] = []
    layers = {layer_name: without_memory(layer) for layer_name, layer in parts.layers.items()}
    dry = DryRun(images, each=MAX_VALUES * min(images, TOGETHER) / images)
    dry.values.update({key: tensor.to("meta") for key, tensor in parts.constants.items()})
    dry.take_images(parts.image, shape)
    try:
        for number, step in enumerate(parts.steps):
            call = layers[step.call] if isinstance(step.call, str) else step.call
            arguments = filled(step.arguments, dry.values)
            keywords = {key: filled(value, dry.values) for key, value in step.keywords.items()}
            made = dry.call(call, arguments, change(number, keywords))
            results = made if isinstance(made, list | tuple) else [made]
            dry.keep(step.results, [made] if len(step.results) == 1 else results)
            source = keywords.get("self", arguments[0] if arguments else None)
            tensors = [found for found in results if isinstance(found, Tensor)]
            shapes = (tuple(found.shape) if isinstance(found, Tensor) else None for found in (source, *tensors[:1]))
            seen.append(_Seen(*shapes) if tensors else _Seen(None, None))
    except TooLarge as error:
        raise ModelError(
            f"{name} makes a tensor of {error.values} values for one image: more than {MAX_VALUES}.",
            cure=OTHER_THAN_EXPORTED,
        ) from error
    except Exception as error:  # whatever a broken graph makes torch raise
        first = first_line(error) or type(error).__name__
        raise ModelError(
            f"The graph of {name} fails on images of its own shape {shape}: {first}", cure=OTHER_THAN_EXPORTED
        ) from error
    return seen
