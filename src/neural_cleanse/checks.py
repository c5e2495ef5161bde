"""Values that a user gives, checked before any work: the types of settings, seeds and rates."""

import types
from dataclasses import fields
from numbers import Real
from typing import Any, Union, get_args, get_origin, get_type_hints

from neural_cleanse.errors import SettingsError

LARGEST_SEED = 2**63 - 1


def expect_fields(settings: object) -> None:
    """Raise SettingsError where a field of a dataclass of settings holds another type than it has."""
    kind = type(settings)
    hints = get_type_hints(kind)
    for field in fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, field.name)
        if not _fits(value, hints[field.name]):
            raise SettingsError(
                f"{kind.__name__}({field.name}={value!r:.80}) is a {type(value).__name__}.",
                cure=f"It takes {_words(hints[field.name])}.",
            )


def expect_seed(seed: object) -> None:
    """Raise SettingsError on a seed that not every generator takes."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
        raise SettingsError(
            f"The seed {seed!r:.80} is not a whole number from 0 to {LARGEST_SEED}.",
            cure="Choose a seed in that range.",
        )


def expect_rate(rate: object, name: str) -> None:
    """Raise SettingsError on what is no number between 0 and 1, both excluded."""
    if not isinstance(rate, Real) or not 0 < float(rate) < 1:  # also a number of NumPy
        raise SettingsError(f"The {name} must lie between 0 and 1, got {rate!r:.80}.", cure="Choose one like 0.02.")


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of the type that a field of settings has; a list counts as a tuple."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple | list) and all(_fits(one, get_args(hint)[0]) for one in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return " or ".join("None" if one is type(None) else getattr(one, "__name__", str(one)) if get_origin(one) is None
                       else str(one) for one in parts)  # fmt: skip
