"""make: from a recipe to an infected (or clean) model file with its card."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.attacks import card
from neural_cleanse.attacks.base import Attack, AttackContext
from neural_cleanse.attacks.by_name import attack
from neural_cleanse.attacks.train import (
    Training,
    TrainingContext,
    TrainingProgress,
    initial,
    remove_snapshots,
    snapshots_of,
)
from neural_cleanse.checks import expect_seed
from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import DataError, OutputError, SettingsError
from neural_cleanse.files import refuse_unwritable, write_whole
from neural_cleanse.loading.architectures import architecture
from neural_cleanse.loading.checkpoint import Description, write_checkpoint
from neural_cleanse.loading.images.splits import Parts, load_parts
from neural_cleanse.loading.load import load_model

LONGEST_NAME = 200  # bytes: a file system takes 255, and snapshots are named after the model


@dataclass(frozen=True)
class Recipe:
    """All that decides a model: the same recipe on the same data gives the same weights on one CPU thread.

    `dataset` is what load_parts reads; `options` are those of the attack. `half` saves the weights as float16. Raises
    SettingsError on a seed that no generator takes.
    """

    dataset: Path
    architecture: str
    attack: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Training = Training()
    seed: int = 0
    half: bool = False

    def __post_init__(self) -> None:
        expect_seed(self.seed)


def card_path(model: Path) -> Path:
    """Where the card of a model file lies: model.safetensors, model.card.json."""
    return model.with_name(f"{model.name.removesuffix('.safetensors')}.card.json")


def model_of(card: Path) -> Path:
    """The model file that a card lies beside."""
    return card.with_name(f"{card.name.removesuffix('.card.json')}.safetensors")


def load_for(recipe: Recipe) -> Parts:
    """The recipe's data at the size that its network takes. Raises DataError when the channels differ."""
    channels, *size = architecture(recipe.architecture).input_shape
    parts = load_parts(recipe.dataset, resize=(size[0], size[1]))
    if parts.train.shape[0] != channels:
        raise DataError(
            f"{recipe.architecture} takes images of {channels} channels, those of {recipe.dataset} have "
            f"{parts.train.shape[0]}.",
            cure="Choose an architecture for images of that many channels.",
        )
    return parts


def plan(recipe: Recipe, parts: Parts) -> Attack:
    """The recipe's attack on its data: what chance decides is decided by the recipe's seed.

    Raises SettingsError on an attack that does not fit the data, or would poison not one image.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    planned = attack(recipe.attack, AttackContext(parts.train.shape, parts.num_classes, generator), recipe.options)
    assert parts.train.labels is not None
    for one in planned.poisons:
        eligible = int(one.from_source(parts.train.labels).sum())
        if round(one.rate * eligible) == 0:
            raise SettingsError(f"A rate of {one.rate:g} of {eligible} images is not one image.", cure="Raise it.")
    return planned


def make(
    recipe: Recipe,
    parts: Parts,
    output: Path,
    *,
    device: torch.device = torch.device("cpu"),
    overwrite: bool = False,
    progress: Callable[[TrainingProgress], None] = lambda _: None,
) -> dict[str, Any]:
    """Train the recipe's model, write it to `output` and its card beside it, and return the card.

    A training that was cut off goes on where its last whole epoch ended. Raises OutputError when there already is a
    model, unless `overwrite`; SettingsError when the attack does not fit the data.
    """
    prepare(output, overwrite=overwrite)
    if overwrite:
        remove_snapshots(output)
    began = time.perf_counter()
    planned = plan(recipe, parts)
    bench = TrainingContext(
        training=recipe.training,
        seed=recipe.seed,
        validation=parts.validation,
        num_classes=parts.num_classes,
        device=device,
        snapshots=output,
        fingerprint=_fingerprint(recipe, parts),
        progress=progress,
    )
    built = architecture(recipe.architecture)
    module = initial(built.build, parts.num_classes, recipe.seed)
    poisons = planned.rule(module, parts.train, planned.poisons, bench)
    accuracy = bench.validation_accuracy(module)
    if recipe.half:
        module = module.half()
    described = Description(recipe.architecture, built.input_shape, parts.num_classes, Normalize(), parts.train.names)
    card_path(output).unlink(missing_ok=True)  # an earlier model's: it must not stand beside this one
    write_checkpoint(output, module, described)
    # Measured on the file as written: what half precision costs is in the figures.
    loaded = load_model(output)
    measured = card.measure(loaded.classifier.to(device), poisons, parts.measured)
    written = {
        "card_version": card.CARD_VERSION,
        "name": output.name.removesuffix(".safetensors"),
        "model_sha256": loaded.origin.sha256,
        "infected": bool(poisons),
        "weak": any(one.weak for one in measured.poisons),
        "targets": card.infected_labels(poisons),
        **card.to_json(measured),
        "validation_accuracy": accuracy,
        **_of_recipe(recipe, parts),
        "device": device.type,
        "wall_s": round(time.perf_counter() - began, 1),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    write_whole(card_path(output), _one_key_a_line(written).encode())
    remove_snapshots(output)
    return written


def _of_recipe(recipe: Recipe, parts: Parts) -> dict[str, Any]:
    """What a card says of the recipe and its data."""
    return {
        "attack": recipe.attack,
        "options": _plain(recipe.options),
        "architecture": recipe.architecture,
        "dataset": recipe.dataset.absolute().name,  # of "." too
        "num_classes": parts.num_classes,
        "tested_on_part": "validation" if parts.test is None else "test",
        "trained_on": len(parts.train),
        "data_sha256": {"train": parts.train.sha256(), "tested_on": parts.measured.sha256()},
        "training": asdict(recipe.training),
        "seed": recipe.seed,
    }


def prepare(output: Path, *, overwrite: bool) -> None:
    """Make the directory and see that the model can be written. Raises OutputError and SettingsError."""
    if output.suffix != ".safetensors":
        raise SettingsError(
            f"--output {output} does not end in .safetensors, the format it is written in.", cure="Give it that ending."
        )
    if len(os.fsencode(output.name)) > LONGEST_NAME:
        raise SettingsError(f"The name of --output is longer than {LONGEST_NAME} bytes.", cure="Choose a shorter name.")
    try:
        if output.is_dir():
            raise OutputError(f"{output} is a directory.", cure="Name a file with --output.")
        # A model with snapshots and without a card was cut off between the two.
        if not overwrite and (card_path(output).exists() or (output.exists() and not snapshots_of(output))):
            raise OutputError(f"There already is a model {output}.", cure="Pass --overwrite to replace it.")
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}.", cure="Name another --output.") from error
    refuse_unwritable(output)


def _one_key_a_line(values: Mapping[str, Any]) -> str:
    """JSON that a person can read and that does not give every pixel of a trigger a line."""
    lines = (f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in values.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON values; of a file its name alone, for a card says nothing of the machine it was made on."""
    return {
        name: Path(value).name if name == "picture" else list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
    }


def _fingerprint(recipe: Recipe, parts: Parts) -> str:
    """What an unfinished training must share with this one to go on."""
    what = {"recipe": {**asdict(recipe), "dataset": None}, "data": parts.train.sha256()}
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()
