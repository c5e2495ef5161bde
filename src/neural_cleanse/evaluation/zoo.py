"""The zoo: models listed in a TOML file, built a process a core, and tables of what they are.

    [[family]]                       every key may hold a list: all combinations are built
    dataset = "mnist"                a directory under the data root
    architecture = "mnist_cnn"
    attack = "badnets"
    size = [4, 6]                    options of the attack, as on the command line of `attack`
    seed = [0, 1]
    epochs = 3

A model's name says all that tells it from its neighbours, and a hash of the name puts it into the choosing part or
the final part before anybody has trained it: what is chosen on the one is reported on the other.
"""

import hashlib
import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.attacks.by_name import options_of
from neural_cleanse.attacks.make import Recipe, card_path, load_for, make
from neural_cleanse.attacks.train import Training
from neural_cleanse.choices import PARTS
from neural_cleanse.engines import Engine
from neural_cleanse.errors import NeuralCleanseError, OutputError, SettingsError
from neural_cleanse.evaluation.cards import read_card
from neural_cleanse.loading.architectures import architecture
from neural_cleanse.loading.images.splits import Parts
from neural_cleanse.regular_files import read_regular

_TRAINING = tuple(field.name for field in fields(Training))
# What the value of a key must be; of all others, text.
_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(
        ("seed", "epochs", "batch_size", "target", "source", "size", "count", "frequency", "levels"),
        ((int,), "a whole number"),
    ),
    **dict.fromkeys(
        ("learning_rate", "share", "area", "strength", "rate", "cover_rate", "leak"), ((int, float), "a number")
    ),
    "colour": ((int, float, str), 'a number or text like "1,1,0"'),
}


@dataclass(frozen=True)
class BuildJob:
    """One model of a spec."""

    name: str
    recipe: Recipe


def part_of(name: str) -> str:
    """The part that the model of that name belongs to: choosing, or final."""
    return PARTS[hashlib.sha256(name.encode()).digest()[0] % 2]


def read_spec(path: Path, data: Path) -> tuple[BuildJob, ...]:
    """The models that a spec lists, data sets under `data`. Raises SettingsError on what makes no model."""
    try:
        spec = tomllib.loads(read_regular(path).decode("utf-8"))
    except OSError as error:
        raise SettingsError(f"The spec {path} cannot be read: {error.strerror}.", cure="Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"The spec {path} is no TOML: {error}.", cure="Correct it: it is read as TOML.") from error
    families = spec.pop("family", None)
    tables = isinstance(families, list) and all(isinstance(family, dict) for family in families)
    if spec or not tables or not families:
        raise SettingsError(
            f"{path} must hold [[family]] tables and nothing else.",
            cure="Write one [[family]] table for each kind of model.",
        )
    jobs = [job for family in families for job in _family(family, path, data)]
    names = [job.name for job in jobs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(f"{path} lists {twice[0]} twice.", cure="Remove one of them.")
    return tuple(jobs)


def _family(family: Mapping[str, Any], path: Path, data: Path) -> Iterator[BuildJob]:
    lists = [value if isinstance(value, list) else [value] for value in family.values()]
    if [] in lists:
        raise SettingsError(
            f"{path}: {list(family)[lists.index([])]} is an empty list, which makes no model.",
            cure="Give it a value, or remove the line.",
        )
    for values in itertools.product(*lists):
        yield _job(dict(zip(family, values, strict=True)), path, data)


def _job(values: dict[str, Any], path: Path, data: Path) -> BuildJob:
    try:
        dataset, network = str(values.pop("dataset")), str(values.pop("architecture"))
        name_of_attack = str(values.pop("attack"))
    except KeyError as error:
        raise SettingsError(
            f"A family of {path} has no {error.args[0]}.", cure="Add that line to the family."
        ) from error
    architecture(network)
    unknown = sorted(set(values) - {"seed", *_TRAINING, *options_of(name_of_attack)})
    if unknown:
        raise SettingsError(
            f"{path}: the attack {name_of_attack} takes no {unknown[0]}.",
            cure="Remove that option, or name another attack.",
        )
    for key, value in values.items():
        kinds, kind = _KINDS.get(key, ((str,), "text"))
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise SettingsError(f"{path}: {key} = {value!r} is not {kind}.", cure="Correct that line.")
    seed = values.pop("seed", 0)
    training = Training(**{key: values.pop(key) for key in _TRAINING if key in values})
    said = "".join(f"-{key.replace('_', '')}{_in_a_name(values[key])}" for key in sorted(values))
    if "colour" in values:
        values["colour"] = _colour(str(values["colour"]), path)
    if "picture" in values:
        values["picture"] = path.parent / values["picture"]
    name = f"{dataset}-{network}-{name_of_attack}{said}-seed{seed}"
    return BuildJob(
        name,
        Recipe(
            dataset=data / dataset,
            architecture=network,
            attack=name_of_attack,
            options=values,
            training=training,
            seed=seed,
            half=True,
        ),
    )


def _colour(text: str, path: Path) -> tuple[float, ...]:
    try:
        return tuple(float(channel) for channel in text.split(","))
    except ValueError as error:
        raise SettingsError(f"{path}: the colour {text} is not a number or a list.", cure="Like 1,1,0.") from error


def _in_a_name(value: object) -> str:
    return Path(str(value)).stem if "/" in str(value) else str(value).replace(",", "_")


@dataclass(frozen=True)
class Built:
    """How the building of one model ended: its card, or what went wrong."""

    name: str
    card: Mapping[str, Any] | None
    error: str | None = None


def missing(jobs: Sequence[BuildJob], output: Path) -> tuple[BuildJob, ...]:
    """The models that `output` lacks. Raises OutputError when one there was built to another recipe."""
    lacking = []
    for job in jobs:
        model = model_path(output, job.name)
        path = card_path(model)
        if not (path.exists() and model.exists()):
            lacking.append(job)
            continue
        card = read_card(path)
        if (card.get("training"), card.get("seed")) != (asdict(job.recipe.training), job.recipe.seed):
            raise OutputError(
                f"{path} is of a model trained otherwise than the spec says.", cure="Give another --output."
            )
    return tuple(lacking)


def model_path(output: Path, name: str) -> Path:
    """Where a model of the zoo lies."""
    return output / f"{name}.safetensors"


def build(
    jobs: Sequence[BuildJob], output: Path, engine: Engine, *, device: torch.device = torch.device("cpu")
) -> Iterator[Built]:
    """Build the models that `output` lacks, and tell of each as it is done. One that fails stops no other.

    What a kill cut off goes on at the next call.
    """
    # By data set, so that a worker reads each as seldom as can be.
    todo = sorted(missing(jobs, output), key=lambda job: (str(job.recipe.dataset), job.recipe.architecture))
    return engine.map(partial(_build_one, output=output, device=str(device)), todo)


def _build_one(job: BuildJob, *, output: Path, device: str) -> Built:
    try:
        parts = _parts(job.recipe.dataset, job.recipe.architecture)
        # A model without its card was cut off between the two; a card without its model is of no use.
        path = model_path(output, job.name)
        path.unlink(missing_ok=True)
        card_path(path).unlink(missing_ok=True)
        return Built(job.name, make(job.recipe, parts, path, device=torch.device(device)))
    except NeuralCleanseError as error:
        return Built(job.name, None, str(error))


@lru_cache(maxsize=1)
def _parts(dataset: Path, network: str) -> Parts:
    return load_for(Recipe(dataset, network))
