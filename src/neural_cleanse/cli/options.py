"""Option values that need parsing: lists of labels, sizes, channel values."""

from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import SettingsError

MAX_LABELS = 1_000_000


def labels(text: str | None) -> tuple[int, ...] | None:
    """`0-9,33` as (0, 1, ... 9, 33)."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise SettingsError(f"--labels {text} is not a list of labels.", cure="Write it like 0-9,33.")
        low, high = int(first), int(last or first)
        if high < low or high - low > MAX_LABELS:
            raise SettingsError(f"--labels {text}: {part.strip()} is no range of labels.", cure="Write it like 0-9,33.")
        found += range(low, high + 1)
    return tuple(found)


def size(text: str | None) -> tuple[int, int] | None:
    """`HxW` as (height, width)."""
    if text is None:
        return None
    height, cross, width = text.lower().partition("x")
    if not cross or not height.isdecimal() or not width.isdecimal() or not 0 < int(height) * int(width) <= 4096**2:
        raise SettingsError(f"--resize {text} is not a size.", cure="Write height x width, like 32x32.")
    return int(height), int(width)


def channels(option: str, text: str | None) -> tuple[float, ...] | None:
    """`0.5` or `0.49,0.48,0.45` as numbers."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise SettingsError(
            f"{option} {text} is not a number or a list.", cure="Write it like 0.49,0.48,0.45."
        ) from error


def normalization(mean: str | None, std: str | None, scale: float | None) -> Normalize | None:
    """What --mean, --std and --scale say together; None when none of them is given."""
    if mean is None and std is None and scale is None:
        return None
    return Normalize(
        channels("--mean", mean) or (0.0,), channels("--std", std) or (1.0,), 1.0 if scale is None else scale
    )
