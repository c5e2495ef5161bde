"""Rows of pixels as images, where their number is that of one or three square planes."""

import math

from neural_cleanse.loading.checkpoint import MAX_INPUT_VALUES

CHANNELS = (1, 3)
WHOLE_PIXELS = "pixels from 0 to 255, since its input is whole numbers"
NO_CHANNELS = "one channel, since the input has none"


def square_planes(size: int) -> tuple[tuple[int, int, int], str] | None:
    """The shape (c, h, w) of a row of so many values, and what was assumed; None where it is no square."""
    for channels in CHANNELS:
        side = math.isqrt(max(size, 0) // channels)
        if size > 1 and channels * side * side == size <= MAX_INPUT_VALUES:
            planes = "one channel" if channels == 1 else "three channels, one after the other"
            return (channels, side, side), f"the {size} values of its input are an image of {side}x{side}, {planes}"
    return None
