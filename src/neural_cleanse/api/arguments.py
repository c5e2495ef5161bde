"""Arguments that are something else than what they have to be, told before any work."""

import types
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from neural_cleanse.detection.plans import Search
from neural_cleanse.engines import Engine
from neural_cleanse.errors import SettingsError
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.results import records
from neural_cleanse.triggers.base import SearchedTrigger

SettingsT = TypeVar("SettingsT")


def expect_settings(settings: object, kind: type[SettingsT]) -> SettingsT:
    """The settings. Raises SettingsError on something else, or on a field of another type."""
    if not isinstance(settings, kind):
        raise SettingsError(f"settings= is {settings!r:.80}.", cure=f"Give nc.{kind.__name__}(...), or leave it out.")
    hints = get_type_hints(kind)
    for field in fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, field.name)
        if not _fits(value, hints[field.name]):
            raise SettingsError(
                f"{kind.__name__}({field.name}={value!r:.80}) is a {type(value).__name__}.",
                cure=f"It takes {_words(hints[field.name])}.",
            )
    return settings


def expect_result(result: object, name: str) -> None:
    """Raise SettingsError on something else than a scan, or the directory of a saved one."""
    if not isinstance(result, records.ScanResult | str | Path):
        raise SettingsError(
            f"{name}= is a {type(result).__name__}.",
            cure="Give what nc.scan returned, or the directory it was saved to.",
        )


def expect_count(value: object, name: str, least: int) -> None:
    """Raise SettingsError on something else than a whole number of at least so many."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingsError(f"{name}= is {value!r:.80}.", cure=f"Give a whole number of at least {least}.")


def expect_parts(trigger: object, inversion: object, plan: object, engine: object) -> None:
    """Raise SettingsError on own parts of a scan that are none."""
    if trigger is not None and not (isinstance(trigger, type) and issubclass(trigger, SearchedTrigger)):
        raise SettingsError(f"trigger= is {trigger!r:.80}.", cure="Give a subclass of SearchedTrigger, not an object.")
    if inversion is not None and not isinstance(inversion, Inversion):
        raise SettingsError(f"inversion= is {inversion!r:.80}.", cure="Give nc.Inversion(...).")
    if plan is not None and not isinstance(plan, Search):
        raise SettingsError(f"plan= is {plan!r:.80}.", cure="Give one of nc.plans, such as nc.plans.FullSweep().")
    if not isinstance(engine, Engine):
        raise SettingsError(f"engine= is {engine!r:.80}.", cure="Give an engine, such as InProcess().")


def expect_progress(progress: object) -> None:
    """Raise SettingsError on something else than a function, a truth value or None."""
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise SettingsError(f"progress= is {progress!r:.80}.", cure="Give True, or a function of Progress.")


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
