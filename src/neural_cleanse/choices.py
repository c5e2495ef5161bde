"""Settings that are one of a few names, as people type them. Free of torch, for the help of the command line."""

from enum import StrEnum

PARTS = ("choosing", "final")  # of a zoo: methods are chosen on one and reported on the other
DOCUMENT_NAMES = {"md": "markdown"}  # of reports that are called by the ending of their files
# As attacks/catalogue.py and loading/architectures.py list them (held by tests): help loads neither.
ATTACK_NAMES = (
    "adaptive-blend", "all-to-all", "badnets", "blended", "checkerboard", "distillation-surviving", "filter",
    "input-aware", "low-frequency", "many-labels", "nine-triggers", "noise", "none", "picture", "quantised",
    "sinusoidal", "sinusoidal-clean-label", "source-specific", "triangle", "trojan-square", "trojan-watermark", "wanet",
    "wanet-all-to-all",
)  # fmt: skip
ARCHITECTURE_NAMES = (  # that can be trained
    "cifar_cnn", "deepid", "gtsrb_cnn", "gtsrb_cnn_half", "mnist_cnn", "mnist_cnn_double", "mnist_cnn_half", "resnet18",
    "vgg16",
)  # fmt: skip
PLACES = {  # of a trigger, with the shares of the rest of the image that are above it and to its left
    f"{row}-{column}": (above, left)
    for row, above in (("top", 0.0), ("middle", 0.5), ("bottom", 1.0))
    for column, left in (("left", 0.0), ("centre", 0.5), ("right", 1.0))
}
TRAINING_DATA = ("real", "reversed")  # that a Trojan attack retrains on (attacks/trojan.py)


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
