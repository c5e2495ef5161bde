"""How to scan, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass

from neural_cleanse.checks import expect_fields, expect_seed
from neural_cleanse.choices import LossName, Plan, Precision, Preset
from neural_cleanse.detection.progress import Budget
from neural_cleanse.errors import OutputError, SettingsError
from neural_cleanse.results.codec import decode, encode
from neural_cleanse.results.provenance import Provenance
from neural_cleanse.text import plain

STUDENT_IMAGES = 4  # times `samples`: images that a scan takes beside its own, for a student to learn from


@dataclass(frozen=True)
class ScanSettings:
    """How to scan. `labels` None stands for all; `restarts` None for the preset's own number.

    `preset`, `loss`, `plan` and `precision` are names of choices.py; `max_seconds` and `max_passes` end the search
    early, with what was reached; `memory` is what the process may take, in bytes; `batch_images` are so many in one
    pass (None: what suits the device).
    With `student`, sizes that leave doubt are compared with those of a student network (student.py).
    `pairs` searches triggers that work from one class alone with all steps, once the labels themselves have been
    searched; with `patches_only`, `labels` or the reference preset only patches are looked for (kinds.py).
    """

    labels: tuple[int, ...] | None = None
    samples: int = 1000
    preset: str = Preset.DEFAULT.value
    loss: str = LossName.CE.value
    restarts: int | None = None
    alpha: float = 0.01
    seed: int = 0
    force: bool = False
    pairs: bool = False
    plan: str = Plan.AUTO.value
    max_seconds: float | None = None
    max_passes: int | None = None
    memory: int | None = None
    batch_images: int | None = None
    precision: str = Precision.FP32.value
    student: bool = True
    patches_only: bool = False

    def __post_init__(self) -> None:
        expect_fields(self)
        if not 0 < self.alpha < 1:
            raise SettingsError(f"alpha must lie between 0 and 1, got {self.alpha}.", cure="Choose one like 0.01.")
        for name in ("samples", "restarts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(
                    f"{name} must be at least 1, got {value}.", cure="Leave it out, or give a positive number."
                )
        expect_seed(self.seed)
        if self.precision not in tuple(Precision):
            raise SettingsError(
                f"precision must be {' or '.join(tuple(Precision))}, got {self.precision}.", cure="Choose one of them."
            )
        for name in ("max_seconds", "max_passes", "memory", "batch_images"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingsError(
                    f"{name} must be above 0, got {value}.", cure="Give a positive number, or leave it out."
                )

    @property
    def images_wanted(self) -> int:
        """How many clean images it is worth to load."""
        return self.samples * (1 + STUDENT_IMAGES if self.student and self.preset == Preset.DEFAULT else 1)

    @property
    def beyond_patches(self) -> bool:
        """Whether other kinds of trigger are looked for: the reference preset is the authors', some labels no model."""
        return not self.patches_only and self.preset == Preset.DEFAULT and self.labels is None

    @property
    def budget(self) -> Budget:
        """What the search may take."""
        return Budget(self.max_seconds, self.max_passes)


def asked_for(provenance: Provenance) -> ScanSettings:
    """The settings that the user of a recorded scan gave. Raises OutputError where the record holds none.

    In older records `plan` is what the plan came to: of those only the full sweep is taken to have been asked for.
    """
    settings = dict(provenance.settings)
    if isinstance(settings.get("plan"), Mapping):
        settings["plan"] = (Plan.FULL if settings["plan"].get("name") == "FullSweep" else Plan.AUTO).value
    try:
        return decode(ScanSettings, encode(settings))
    except (TypeError, ValueError, SettingsError) as error:
        raise OutputError(
            f"The scan is damaged: its settings are none: {plain(error)}.", cure="Scan the model again."
        ) from error
