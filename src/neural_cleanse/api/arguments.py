"""Arguments that are something else than what they have to be, told before any work."""

from pathlib import Path
from typing import TypeVar

from neural_cleanse.checks import expect_fields
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
    expect_fields(settings)
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
