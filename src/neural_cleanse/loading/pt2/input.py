"""Which images the graph of a .pt2 file takes: the order of its axes, flat rows and planes, and its kind of number."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.graph import Step, Value
from neural_cleanse.loading.planes import CHANNELS, NO_CHANNELS, WHOLE_PIXELS, square_planes
from neural_cleanse.loading.pt2.archive import whole
from neural_cleanse.loading.pt2.graph import Parts

# torch's numbers for kinds of number, in the file.
UINT8, WHOLE_NUMBERS, FLOATS = 1, (3, 4, 5), (6, 7, 8, 13)
IMAGES = "images, channels first"  # no name in a graph has spaces


def usual_images(parts: Parts, meta: Mapping[str, Any], name: str) -> tuple[Parts, list[Any], tuple[str, ...]]:
    """The graph for images x channels x height x width, the sizes of such an input, and what was assumed.

    Raises ModelError where the input is no image.
    """
    sizes: list[Any] = meta["sizes"]
    assumed: tuple[str, ...] = ()
    if meta["dtype"] not in (UINT8, *WHOLE_NUMBERS, *FLOATS):
        raise ModelError(
            f"The network of {name} takes numbers of a kind that pixels are not.",
            cure="Export it for an example of floats, torch.rand(1, channels, height, width).",
        )
    if meta["dtype"] in WHOLE_NUMBERS:
        assumed = (WHOLE_PIXELS,)
    if len(sizes) == 4:
        if hint(sizes[3]) not in CHANNELS or hint(sizes[1]) in CHANNELS:
            return parts, sizes, assumed
        said = "the channels come last, since its input has 1 or 3 values there"
        return _turned(parts, channels_last), [sizes[0], sizes[3], *sizes[1:3]], (*assumed, said)
    if len(sizes) == 3:
        return _turned(parts, without_channels), [sizes[0], {"as_int": 1}, *sizes[1:]], (*assumed, NO_CHANNELS)
    row = square_planes(hint(sizes[1]) or 0) if len(sizes) == 2 else None
    if row is None:
        said = " x ".join(str(hint(size) or "any") for size in sizes[:6])
        raise ModelError(
            f"The network of {name} takes input of {said}: no images, and no rows of a square image.",
            cure="A scan needs a network that takes images x channels x height x width.",
        )
    return _turned(parts, rows), [sizes[0], *({"as_int": size} for size in row[0])], (*assumed, row[1])


def _turned(parts: Parts, how: Any) -> Parts:
    return replace(parts, image=IMAGES, steps=[Step((parts.image,), how, (Value(IMAGES),)), *parts.steps])


def takes_bytes(meta: Mapping[str, Any]) -> bool:
    """Whether its pixels are whole numbers."""
    return meta["dtype"] in (UINT8, *WHOLE_NUMBERS)


def hint(size: Mapping[str, Any]) -> int | None:
    """A size, or the one that a symbolic size had in the author's example; None when the file does not say."""
    if "as_int" in size:
        return whole(size["as_int"])
    found = size["as_expr"].get("hint")
    return whole(found["as_int"]) if found else None


def channels_last(images: Tensor) -> Tensor:
    """n c h w as n h w c."""
    return images.permute(0, 2, 3, 1)


def without_channels(images: Tensor) -> Tensor:
    """n 1 h w as n h w."""
    return images.squeeze(1)


def rows(images: Tensor) -> Tensor:
    """n c h w as n (c h w)."""
    return torch.flatten(images, 1)
