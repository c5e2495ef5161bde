"""Settings that are one of a few names, as people type them. Free of torch, for the help of the command line."""

from enum import StrEnum

PARTS = ("choosing", "final")  # of a zoo: methods are chosen on one and reported on the other
DOCUMENT_NAMES = {"md": "markdown"}  # of reports that are called by the ending of their files


class Preset(StrEnum):
    """Optimiser schedules: ours, and the authors' (inversion/presets.py)."""

    DEFAULT = "default"
    REFERENCE = "reference"


class Plan(StrEnum):
    """Which labels get how many steps (detection/plans)."""

    AUTO = "auto"
    FULL = "full"
    SEQUENTIAL = "sequential"
    LOW_COST = "low-cost"
    ADAPTIVE = "adaptive"


class LossName(StrEnum):
    """The paper's loss, and the one that the authors' code computes (inversion/losses.py)."""

    CE = "ce"
    SWAPPED = "swapped"


class Precision(StrEnum):
    """Of the model in the search; what is reported is always measured in fp32."""

    FP32 = "fp32"
    BF16 = "bf16"


class Method(StrEnum):
    """Ways to repair (mitigation/repair.py)."""

    AUTO = "auto"
    UNLEARN = "unlearn"
    PRUNE = "prune"


class Labels(StrEnum):
    """Of which labels the scan's triggers are repaired."""

    FLAGGED = "flagged"
    ALL = "all"
