"""A module as a scan calls it: images n x c x h x w go in, one tensor of images x classes comes out.

Taken care of are modules that return a tuple, a dict or an object, that take flat images, and TorchScript.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neural_cleanse.errors import UnusableOutputs
from neural_cleanse.outputs import is_a_row_each
from neural_cleanse.probe import wanted_channels
from neural_cleanse.text import by

KEYS = ("logits", "output", "outputs", "out", "prediction", "predictions", "pred", "preds", "y")
WRAP = "Wrap it in a module whose forward returns one tensor, images x classes."


class Answers(nn.Module):
    """A module that gets images of `shape` (None: as they are), and answers with the entry `key` of what it returns.

    `key` is a name or a place, None where the module returns one tensor.
    """

    def __init__(self, inner: nn.Module, key: str | int | None = None, shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.inner, self.key, self.shape = inner, key, shape

    def forward(self, images: Tensor) -> Tensor:
        entry = self.inner(images if self.shape is None else images.reshape(len(images), *self.shape))
        if isinstance(self.key, int) or (self.key is not None and isinstance(entry, Mapping)):
            entry = entry[self.key]
        elif self.key is not None:
            entry = getattr(entry, self.key)
        answers: Tensor = entry
        return answers


def answering(module: nn.Module, normalized: Tensor, classes: int | None = None) -> tuple[nn.Module, tuple[str, ...]]:
    """The module with one tensor as its answer, and in words what was done, from one pass over normalised images.

    `classes` is how many there are where somebody said it: it tells answers from features beside them. Raises
    UnusableOutputs where the module fails, or nothing it returns is images x classes.
    """
    returned, shape = _called(module, normalized)
    said = () if shape is None else (f"images were reshaped to {by(shape)} values, as the module takes them",)
    if isinstance(returned, Tensor):
        if shape is None and not isinstance(module, torch.jit.ScriptModule):  # which cannot be frozen by itself
            return module, said
        return Answers(module, None, shape), said
    key = _key(returned, len(normalized), classes)
    if key is None:
        raise UnusableOutputs(
            f"The network returns a {type(returned).__name__} in which no entry is known as the answers"
            f"{_sizes(returned)}.",
            cure=WRAP,
        )
    what = f"entry {key} of {len(returned)}" if isinstance(key, int) else repr(key)
    note = f"the module returns a {type(returned).__name__}: {what} was taken as the answers"
    return Answers(module, key, shape), (*said, note)


def _called(module: nn.Module, normalized: Tensor) -> tuple[Any, tuple[int, ...] | None]:
    """What the module returns, and the shape that an image had to have for it; None: the one it has."""
    try:
        return module(normalized.clone()), None
    except Exception as error:  # whatever a user's own forward raises is theirs to read
        channels, height, width = normalized.shape[1:]
        for shape in ((channels * height * width,), (height, width)):
            try:
                returned = module(normalized.reshape(len(normalized), *shape))
            except Exception:
                continue
            return returned, shape
        wanted = wanted_channels(error)
        raise UnusableOutputs(
            f"The network fails on images of shape {by((channels, height, width))} (channels x height x width): "
            f"{error}",
            cure="Its forward must take images alone. Give them "
            + (f"with {wanted} channels." if wanted else "in the size it takes, or resize=(height, width)."),
        ) from error


def _key(returned: Any, count: int, classes: int | None) -> str | int | None:
    """Name or place of the answers; one value an image counts as them only where nothing has a row an image."""
    found = (_key_of(returned, count, classes, fits) for fits in (_fits, _fits_one))
    return next((key for key in found if key is not None), None)


def _key_of(returned: Any, count: int, classes: int | None, fits: Callable[[object, int], bool]) -> str | int | None:
    if isinstance(returned, tuple | list) and not hasattr(returned, "logits"):
        places = [place for place, value in enumerate(returned) if fits(value, count)]
        if len({returned[place].numel() for place in places}) > 1:  # features beside the answers
            places = [place for place in places if returned[place].numel() == count * (classes or 0)]
        return places[0] if places else None
    entries = returned if isinstance(returned, Mapping) else getattr(returned, "__dict__", {})
    named = [key for key in KEYS if fits(_entry(returned, key), count)]
    others = [key for key, value in entries.items() if isinstance(key, str) and fits(value, count)]
    return named[0] if named else others[0] if len(others) == 1 else None


def _entry(returned: Any, key: str) -> object:
    return returned.get(key) if isinstance(returned, Mapping) else getattr(returned, key, None)


def _fits(value: object, count: int) -> bool:
    """Whether this may be one row of answers an image."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1 and is_a_row_each(value, count)


def _fits_one(value: object, count: int) -> bool:
    """Whether this may be one value an image."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.shape == (count,)


def _sizes(returned: Any) -> str:
    """In words the tensors of a tuple, a dict or an object."""
    if isinstance(returned, tuple | list):
        named = list(enumerate(returned))
    else:
        named = list((returned if isinstance(returned, Mapping) else getattr(returned, "__dict__", {})).items())
    found = [f"{key}: {by(tuple(value.shape))}" for key, value in named if isinstance(value, Tensor)]
    return f" ({', '.join(found[:6])})" if found else ""
