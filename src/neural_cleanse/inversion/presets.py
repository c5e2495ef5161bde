"""The two ways to search, by name: ours, and the authors' to the letter."""

from dataclasses import replace

from neural_cleanse.errors import SettingsError
from neural_cleanse.inversion.cost import ReferenceCost
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.losses import LOSSES

# Up to so many labels three restarts pay for themselves: fewer labels mean a noisier reference.
LABELS_WITH_RESTARTS = 43
MIN_STEPS = 80  # of screening as well; after 60 some labels have no working trigger yet (docs/scale.md)
PASSES_PER_LABEL = 3000  # image passes of the default preset, all restarts together

PRESETS = ("default", "reference")


def preset(name: str, num_labels: int, loss: str = "ce", restarts: int | None = None) -> Inversion:
    """The inversion of that preset for a scan of `num_labels` labels.

    `default`: one batch of 4 images a step. `reference`: Wang et al. 2019 as released, constants of their GTSRB script,
    with the paper's loss (`ce`) or the one their code computes (`swapped`). Raises SettingsError.
    """
    if loss not in LOSSES:
        raise SettingsError(f"There is no loss {loss!r}; the names are {', '.join(LOSSES)}.")
    if restarts is not None and restarts < 1:
        raise SettingsError(f"restarts must be at least 1, got {restarts}.")
    if name == "default":
        wanted = restarts or (3 if num_labels <= LABELS_WITH_RESTARTS else 1)
        whole = Inversion(loss=LOSSES[loss], restarts=wanted)
        # More restarts share the same passes, so that asking for them never breaks the promise on cost.
        steps = min(whole.steps, PASSES_PER_LABEL // (wanted * whole.batch_size))
        if steps < MIN_STEPS:
            raise SettingsError(
                f"{wanted} restarts leave {steps} steps each: a label has {PASSES_PER_LABEL:,} image passes in all.",
                cure=f"Ask for at most {PASSES_PER_LABEL // (MIN_STEPS * whole.batch_size)} restarts.",
            )
        return replace(whole, steps=steps)
    if name == "reference":
        return Inversion(
            cost=ReferenceCost(),
            loss=LOSSES[loss],
            steps=1000,  # STEPS
            restarts=restarts or 1,
            batch_size=32,  # BATCH_SIZE
            batches_per_step=31,  # NB_SAMPLE // BATCH_SIZE
            learning_rate=0.1,  # LR
            average=0.0,
            kept=1,
            shrink_to_keep=1.0,
            choose_asr=None,
            keep_after_step=True,
            all_images=True,
        )
    raise SettingsError(f"There is no preset {name!r}; the names are {', '.join(PRESETS)}.")
