"""The kinds of trigger that a scan looks for."""

import enum


class Kind(enum.Enum):
    """Kinds of trigger that a scan looks for, each with a test of its own; the value is what JSON holds."""

    PATCH = "patch"
    FEATURE = "feature"
    PAIRS = "pairs"
    ALL_TO_ALL = "all_to_all"
    FEATURE_ALL_TO_ALL = "feature_all_to_all"
    MARGIN = "margin"

    @property
    def of_pixels(self) -> bool:
        """Whether its triggers change pixels, which images can show; the others change activations."""
        return self in (Kind.PATCH, Kind.PAIRS, Kind.ALL_TO_ALL, Kind.MARGIN)

    @property
    def meaning(self) -> str:
        """What it covers, for a report."""
        return {
            Kind.PATCH: "patches",
            Kind.FEATURE: "feature-space triggers (warps, filters, patterns over the whole image)",
            Kind.PAIRS: "one-class patches",
            Kind.ALL_TO_ALL: "all-to-all patches",
            Kind.FEATURE_ALL_TO_ALL: "all-to-all feature-space triggers",
            Kind.MARGIN: "labels with far larger margins than in student networks (triggers of any shape)",
        }[self]

    @property
    def singular(self) -> str:
        """One of them."""
        return {
            Kind.PATCH: "patch",
            Kind.FEATURE: "feature-space trigger",
            Kind.PAIRS: "trigger between two labels",
            Kind.ALL_TO_ALL: "all-to-all patch",
            Kind.FEATURE_ALL_TO_ALL: "all-to-all feature-space trigger",
            Kind.MARGIN: "margin",
        }[self]
