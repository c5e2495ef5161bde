"""Find a named attack and check its options."""

import inspect
from collections.abc import Mapping
from typing import Any

from neural_cleanse.attacks.base import Attack, AttackContext
from neural_cleanse.attacks.catalogue import ATTACKS
from neural_cleanse.errors import SettingsError


def options_of(name: str) -> tuple[str, ...]:
    """The options that the attack of that name takes. Raises SettingsError when there is none."""
    if name not in ATTACKS:
        raise SettingsError(f"There is no attack {name!r}.", cure=f"The attacks are {', '.join(ATTACKS)}.")
    return tuple(
        option.name
        for option in inspect.signature(ATTACKS[name]).parameters.values()
        if option.kind is inspect.Parameter.KEYWORD_ONLY
    )


def attack(name: str, context: AttackContext, options: Mapping[str, Any]) -> Attack:
    """The attack of that name in that context. Raises SettingsError on options that it does not take, or lacks."""
    known = options_of(name)
    for option in options:
        if option not in known:
            raise SettingsError(
                f"The attack {name} takes no {option.replace('_', ' ')}.",
                cure=f"Its options are {', '.join(known).replace('_', '-')}." if known else "It takes no options.",
            )
    parameters = inspect.signature(ATTACKS[name]).parameters
    for option in known:
        if option not in options and parameters[option].default is inspect.Parameter.empty:
            raise SettingsError(
                f"The attack {name} needs --{option.replace('_', '-')}.",
                cure=f"Add --{option.replace('_', '-')} and its value.",
            )
    for option in ("rate", "cover_rate"):
        if option in options and not 0 < options[option] < 1:
            raise SettingsError(
                f"A {option.replace('_', ' ')} of {options[option]:g} is no attack: a share between 0 and 1 is needed.",
                cure="Use --attack none for a clean model." if option == "rate" else "",
            )
    return ATTACKS[name](context, **options)
