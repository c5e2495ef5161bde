"""Networks that round what they are given, whose gradient at the pixels is therefore 0 everywhere.

The search goes through the rounding as if it were not there ("straight-through estimator", Bengio et al. 2013,
arXiv:1308.3432); the answers stay the network's own. So a rounding of pixels, which some networks begin with, hides
nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

ROUNDINGS: Mapping[Any, Callable[..., Tensor]] = {
    function: getattr(torch, name)
    for name in ("round", "floor", "ceil", "trunc", "fix")
    for function in (getattr(torch, name), getattr(Tensor, name))
}


class _Passed(torch.autograd.Function):
    """A rounding whose gradient is that of its input."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, function: Callable[..., Tensor], keywords: Mapping[str, Any]) -> Tensor:
        return function(values, **keywords)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None, None


class StraightThrough(TorchFunctionMode):
    """While it is entered, gradients go through torch.round, floor, ceil and trunc unchanged."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for every function of it."""
        if func in ROUNDINGS and args and torch.is_grad_enabled():
            return _Passed.apply(args[0], ROUNDINGS[func], kwargs or {})  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def rounds(answer: Callable[[Tensor], Tensor], images: Tensor) -> bool:
    """Whether the answers differ between two images, their gradient is 0, and rounding is why."""
    with torch.no_grad():
        rows = answer(images)
        alike = torch.equal(rows[:1], rows[1:])
    if alike or _gradient(answer, images, rows):
        return False
    with StraightThrough():
        return _gradient(answer, images, rows)


def _gradient(answer: Callable[[Tensor], Tensor], images: Tensor, rows: Tensor) -> bool:
    """Whether a gradient other than 0 reaches the images. The weights are random: a softmax's sum has none."""
    weights = torch.rand(rows.shape, generator=torch.Generator().manual_seed(0)).to(rows)
    with torch.enable_grad():
        pixels = images.clone().requires_grad_()
        (found,) = torch.autograd.grad((answer(pixels) * weights).sum(), pixels)
    return bool((found != 0).any())
