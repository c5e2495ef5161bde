"""The one tensor, images x classes, in whatever a module returns: a tensor, a tuple, a dict, an object with logits."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from neural_cleanse.errors import UnusableOutputs

KEYS = ("logits", "output", "outputs", "out", "prediction", "predictions", "pred", "preds", "y")


class Answers(nn.Module):
    """A module whose answers are one entry of what `inner` returns: `key` is a name or a place."""

    def __init__(self, inner: nn.Module, key: str | int) -> None:
        super().__init__()
        self.inner, self.key = inner, key

    def forward(self, images: Tensor) -> Tensor:
        returned = self.inner(images)
        entry: Tensor
        if isinstance(self.key, int) or isinstance(returned, Mapping):
            entry = returned[self.key]
        else:
            entry = getattr(returned, self.key)
        return entry


def answering(module: nn.Module, normalized: Tensor) -> tuple[nn.Module, tuple[str, ...]]:
    """The module with one tensor as its answer, and in words which, from one forward pass over normalised images.

    Raises UnusableOutputs where the module fails, or nothing it returns is images x classes.
    """
    try:
        returned = module(normalized.clone())
    except Exception as error:  # whatever a user's own forward raises is theirs to read
        shape = "x".join(str(size) for size in normalized.shape[1:])
        raise UnusableOutputs(
            f"The network fails on images of shape {shape} (channels x height x width): {error}",
            cure="Give images of the size it takes, or resize=(height, width).",
        ) from error
    if isinstance(returned, Tensor):
        return module, ()
    key = _key(returned, len(normalized))
    if key is None:
        raise UnusableOutputs(
            f"The network returns a {type(returned).__name__} in which no entry is known as the answers.",
            cure="Wrap it in a module whose forward returns one tensor, images x classes.",
        )
    what = f"entry {key} of {len(returned)}" if isinstance(key, int) else repr(key)
    note = f"the module returns a {type(returned).__name__}: {what} was taken as the answers"
    return Answers(module, key), (note,)


def _key(returned: Any, count: int) -> str | int | None:
    if isinstance(returned, Mapping):
        named = [key for key in KEYS if _fits(returned.get(key), count)]
        others = [key for key, value in returned.items() if isinstance(key, str) and _fits(value, count)]
        return named[0] if named else others[0] if len(others) == 1 else None
    if _fits(getattr(returned, "logits", None), count):
        return "logits"
    if isinstance(returned, tuple | list):
        return next((place for place, value in enumerate(returned) if _fits(value, count)), None)
    return None


def _fits(value: object, count: int) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and len(value) == count and value.is_floating_point()
