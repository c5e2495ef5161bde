"""The two ways to search, by name: ours, and the authors' to the letter."""

from dataclasses import replace

from neural_cleanse.choices import LossName, Preset
from neural_cleanse.errors import SettingsError
from neural_cleanse.inversion.cost import ReferenceCost
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.losses import LOSSES

PASSES_PER_LABEL = 3000  # image passes of the default preset, all restarts together


def preset(name: str, loss: str = LossName.CE.value, restarts: int | None = None) -> Inversion:
    """The inversion of that preset.

    `default`: one batch of 4 images a step. `reference`: Wang et al. 2019 as released, constants of their GTSRB script,
    with the paper's loss (`ce`) or the one their code computes (`swapped`). Raises SettingsError.
    """
    if loss not in tuple(LossName):
        raise SettingsError(
            f"There is no loss {loss!r}; the names are {', '.join(LossName)}.", cure="Choose one of them."
        )
    if restarts is not None and restarts < 1:
        raise SettingsError(
            f"restarts must be at least 1, got {restarts}.", cure="Leave it out, or give a positive number."
        )
    if name == Preset.DEFAULT:
        whole = Inversion(loss=LOSSES[LossName(loss)])
        whole = replace(whole, restarts=restarts or whole.restarts)
        if whole.passes > PASSES_PER_LABEL:
            one_more = replace(whole, restarts=whole.restarts + 1).passes - whole.passes
            raise SettingsError(
                f"{whole.restarts} restarts take {whole.passes:,} image passes a label; it has {PASSES_PER_LABEL:,}.",
                cure=f"Ask for at most {whole.restarts - -(-(whole.passes - PASSES_PER_LABEL) // one_more)} restarts.",
            )
        return whole
    if name == Preset.REFERENCE:
        return Inversion(
            cost=ReferenceCost(),
            loss=LOSSES[LossName(loss)],
            steps=1000,  # STEPS
            restarts=restarts or 1,
            race=(),
            extra_steps=0,
            batch_size=32,  # BATCH_SIZE
            batches_per_step=31,  # NB_SAMPLE // BATCH_SIZE
            learning_rate=0.1,  # LR
            average=0.0,
            kept=1,
            spread=0,
            shrink_to_keep=1.0,
            relax=1.0,
            choose_asr=None,
            keep_after_step=True,
            all_images=True,
        )
    raise SettingsError(f"There is no preset {name!r}; the names are {', '.join(Preset)}.", cure="Choose one of them.")
