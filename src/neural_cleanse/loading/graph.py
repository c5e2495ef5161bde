"""A network as a list of steps over named values: what the graph containers (ONNX, .pt2) are read into.

Nothing is compiled and no source text is made: a step calls a layer or a function that the reader chose from its own
table, never one that the file names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Value:
    """Stands in a step's arguments for the value of that name."""

    name: str


@dataclass(frozen=True)
class Step:
    """`results` = `call`(`arguments`): a function, or the name of one of the network's layers.

    Arguments are constants, Values, or lists of both. With several results the call returns a sequence.
    """

    results: tuple[str, ...]
    call: Callable[..., Any] | str
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)


class GraphNetwork(nn.Module):
    """The steps in order. `constants` are buffers: they move with the module and are in its state_dict."""

    def __init__(
        self,
        steps: Sequence[Step],
        layers: Mapping[str, nn.Module],
        constants: Mapping[str, Tensor],
        image: str,
        output: str,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self._buffer_of = {name: f"constant_{number}" for number, name in enumerate(constants)}
        for name, tensor in constants.items():
            self.register_buffer(self._buffer_of[name], tensor)
        self._steps, self._image, self._output = tuple(steps), image, output
        self._last_use = _last_uses(self._steps, output)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Tensor:
        values: dict[str, Any] = {name: getattr(self, buffer) for name, buffer in self._buffer_of.items()}
        values[self._image] = images
        for number, step in enumerate(self._steps):
            call = self.layers[step.call] if isinstance(step.call, str) else step.call
            arguments = filled(step.arguments, values)
            result = call(*arguments, **{key: filled(value, values) for key, value in step.keywords.items()})
            values.update(zip(step.results, (result,) if len(step.results) == 1 else result, strict=False))
            for name in self._last_use[number]:
                values.pop(name, None)
        output: Tensor = values[self._output]
        return output


def filled(argument: Any, values: Mapping[str, Any]) -> Any:
    """The argument with every Value in it replaced by what it stands for."""
    if isinstance(argument, Value):
        return values[argument.name]
    if isinstance(argument, list | tuple):
        return type(argument)(filled(part, values) for part in argument)
    return argument


def _last_uses(steps: Sequence[Step], output: str) -> list[list[str]]:
    """For every step the values that nothing needs after it, so that memory is given back."""
    last: dict[str, int] = {}
    for number, step in enumerate(steps):
        for name in (*names_in(step.arguments), *names_in(list(step.keywords.values())), *step.results):
            last[name] = number
    frees: list[list[str]] = [[] for _ in steps]
    for name, number in last.items():
        if name != output:
            frees[number].append(name)
    return frees


def names_in(argument: Any) -> list[str]:
    """The names of the Values in an argument."""
    if isinstance(argument, Value):
        return [argument.name]
    if isinstance(argument, list | tuple):
        return [name for part in argument for name in names_in(part)]
    return []
