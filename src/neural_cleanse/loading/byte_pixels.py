"""Whether what a network does first says that it takes pixels in 0-255: it scales them, or takes off a mean."""

from collections.abc import Sequence

from neural_cleanse.pixel_values import PIXEL_MAX

MAX_UNIT_MEAN = 2.0  # a larger mean is of bytes
BYTES_TO_UNIT = (0.5, 2.5)  # what the largest byte becomes in [0, 1], [-1, 1] or the like


def scaling(factors: Sequence[float]) -> str | None:
    """In words, where these factors bring bytes to a unit range."""
    if factors and all(BYTES_TO_UNIT[0] <= factor * PIXEL_MAX <= BYTES_TO_UNIT[1] for factor in factors):
        return f"scales them by {factors[0]:.3g}"
    return None


def standardising(means: Sequence[float]) -> str | None:
    """In words, where these means of what comes in, one a channel or one a pixel, are of bytes."""
    fits = bool(means) and all(0 <= mean < PIXEL_MAX for mean in means)  # pixels at the border may always be 0
    return subtracting([sum(means) / len(means)]) if fits else None


def subtracting(means: Sequence[float]) -> str | None:
    """In words, where these means are of bytes."""
    if means and all(MAX_UNIT_MEAN < mean < PIXEL_MAX for mean in means):
        return f"subtracts {means[0]:.4g}"
    return None
