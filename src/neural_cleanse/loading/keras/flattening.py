"""Which linear layers of a network see a flattened feature map, found by watching one forward pass."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from neural_cleanse.errors import CheckpointMismatch, ModelError
from neural_cleanse.loading.cures import ITS_ARCHITECTURE, OTHER_KERAS

Sizes = tuple[int, int, int]  # channels, height, width
MOVES_AXES = {"permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims"}


def flattened_maps(module: nn.Module, shape: Sizes | None, name: str) -> dict[str, Sizes]:
    """For each linear layer whose input is a flattened map of more than one pixel: the map's sizes.

    Raises ModelError when the forward pass fails, CheckpointMismatch when values were mixed beyond following.
    """
    if shape is None:
        raise ModelError(f"Nothing says which images {name} takes.", cure="Give input_shape=(channels, height, width).")
    watch = _Watch()
    try:
        with torch.no_grad(), watch:
            module.eval()(torch.zeros(1, *shape))
    except Exception as error:  # whatever a user's own forward raises is theirs to read
        raise CheckpointMismatch(
            f"The architecture fails on images of {shape}: {error}", cure=ITS_ARCHITECTURE
        ) from error
    linear = {id(part.weight): place for place, part in module.named_modules() if isinstance(part, nn.Linear)}
    found = {linear[weight]: sizes for weight, sizes in watch.inputs.items() if weight in linear}
    lost = [place for place, sizes in found.items() if sizes is None]
    if lost or watch.normalized:
        raise CheckpointMismatch(
            f"How the architecture flattens its feature maps cannot be followed ({(lost or ['batch norm'])[0]}), and "
            "Keras' order of the values is another.",
            cure=OTHER_KERAS,
        )
    return {place: sizes for place, sizes in found.items() if sizes is not None}


class _Watch(TorchFunctionMode):
    """Follows flattened maps from the flattening to the linear layers; None: mixed with something else."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: dict[int, Sizes | None] = {}
        self.normalized = False
        self._maps: dict[int, Sizes | None] = {}
        self._moved: set[int] = set()
        self._kept: list[Tensor] = []  # alive, so that no other tensor gets their id

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if not isinstance(result, Tensor):
            return result
        tensors = [value for value in _flat([*args, *(kwargs or {}).values()]) if isinstance(value, Tensor)]
        self._kept += [result, *tensors]
        if function is functional.linear:
            if id(tensors[0]) in self._maps:
                self.inputs[id(tensors[1])] = self._maps[id(tensors[0])]
            return result
        if function is functional.batch_norm and id(tensors[0]) in self._maps:
            self.normalized = True
        self._follow(getattr(function, "__name__", ""), tensors, result)
        return result

    def _follow(self, function: str, tensors: list[Tensor], result: Tensor) -> None:
        """What is known of the inputs, said of the result."""
        maps = [self._maps[id(tensor)] for tensor in tensors if id(tensor) in self._maps]
        source = tensors[0] if tensors else None
        if source is not None and source.dim() == 4:
            if id(source) in self._moved or function in MOVES_AXES:
                self._moved.add(id(result))
            channels, height, width = source.shape[1:]
            if result.dim() == 2 and height * width > 1 and result.shape[1] == math.prod(source.shape[1:]):
                self._maps[id(result)] = None if id(source) in self._moved else (channels, height, width)
        elif maps:
            same = all(sizes == maps[0] for sizes in maps) and result.dim() == 2
            size = math.prod(maps[0]) if maps[0] else -1
            self._maps[id(result)] = maps[0] if same and result.shape[1] == size else None


def _flat(values: Sequence[Any]) -> list[Any]:
    return [part for value in values for part in (_flat(value) if isinstance(value, list | tuple) else [value])]
