"""All that is needed to repeat a scan, as a plain value."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Provenance:
    """All that is needed to repeat the scan, and what was assumed on the way (`notes`, reported).

    `date` is when the scan began (ISO 8601, UTC), if the caller said so.
    """

    settings: Mapping[str, Any]
    seed: int
    versions: Mapping[str, str]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    command: str | None = None
    date: str | None = None

    def joined(self, settings: Mapping[str, Any], notes: tuple[str, ...]) -> "Provenance":
        """With what a further part of the scan adds."""
        return replace(self, settings={**self.settings, **settings}, notes=(*self.notes, *notes))
