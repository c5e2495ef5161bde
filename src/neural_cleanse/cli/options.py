"""Options that several commands share, and values that need parsing. It imports nothing heavy: help reads it."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neural_cleanse.errors import SettingsError

if TYPE_CHECKING:
    from neural_cleanse.classifier import Normalize

# Groups of --help, in this order; the first has at most twelve options (held by a test).
COMMON, INPUTS, SEARCH, SCALE, OUTPUT = (
    "Common options", "Network and images", "Search", "Scale and cost", "Output",
)  # fmt: skip


class Crop(StrEnum):
    """Names of the crops."""

    roi = "roi"


class PresetTransform(StrEnum):
    """Names of the usual preparations of images."""

    imagenet = "imagenet"


class EngineName(StrEnum):
    """Where the models of a batch are scanned."""

    processes = "processes"
    ray = "ray"


ModelFile = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="Model file of any format, or a Hugging Face directory.", show_default=False),
]
ScannedModel = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="Model file of any format, or a Hugging Face directory. For a batch: a directory of models, or a pattern in quotes.",
        show_default=False,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Clean images: a folder, an .npz file, or parquet (file or folder). With an earlier scan, by default those of it.",
        rich_help_panel=COMMON,
    ),
]
Samples = Annotated[int, typer.Option(min=1, help="Number of images used, balanced by label.", rich_help_panel=INPUTS)]
SEED_HELP = "Seed of every random choice."
Seed = Annotated[int, typer.Option(min=0, help=SEED_HELP, rich_help_panel=SEARCH)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=SCALE)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.", rich_help_panel=COMMON)]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier result there.", rich_help_panel=COMMON)
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of processes, one thread each; models or labels are shared among them. \\[default: 1; for a batch one per core]",
        rich_help_panel=SCALE,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the unfinished scan in --output.", rich_help_panel=COMMON)
]
EngineChoice = Annotated[
    EngineName | None,
    typer.Option(
        "--engine", help="processes: here; ray: on your Ray cluster. \\[default: processes]", rich_help_panel=SCALE
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster: HOST:PORT of its head node; auto: the one on this machine; local: start one for this command. \\[default: auto]",
        rich_help_panel=SCALE,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the result only, no progress.", rich_help_panel=OUTPUT)]
LogJson = Annotated[bool, typer.Option("--log-json", help="Progress as JSON lines on stderr.", rich_help_panel=OUTPUT)]


@dataclass(frozen=True)
class Inputs:
    """How model and images are opened, as it is typed. Every field is an option of the commands that `takes_inputs`."""

    architecture: Annotated[
        str | None,
        typer.Option(
            help="Network of a file that holds weights only: a name such as resnet18 (a wrong name lists all), or FILE.py:FUNCTION with --allow-code. FILE.py: the classes that a pickled module names.",
            rich_help_panel=COMMON,
        ),
    ] = None
    weights: Annotated[
        str | None,
        typer.Option(help="Which of several sets of weights in the file, such as model_ema.", rich_help_panel=INPUTS),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            help="Mean that the model expects subtracted: one number, or one per channel.", rich_help_panel=COMMON
        ),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(help="Standard deviation that the model expects divided by.", rich_help_panel=COMMON),
    ] = None
    resize: Annotated[
        str | None, typer.Option(help="Resize every image to HxW, for example 32x32.", rich_help_panel=COMMON)
    ] = None
    crop: Annotated[
        Crop | None,
        typer.Option(help="roi: crop to the region-of-interest columns of the data.", rich_help_panel=INPUTS),
    ] = None
    scale: Annotated[
        float | None, typer.Option(help="255 for a model that expects pixel values 0 to 255.", rich_help_panel=INPUTS)
    ] = None
    bgr: Annotated[
        bool,
        typer.Option(
            "--bgr", help="The model expects blue first; --mean and --std stay red first.", rich_help_panel=INPUTS
        ),
    ] = False
    ignore_labels: Annotated[
        bool, typer.Option("--ignore-labels", help="Use the images without their labels.", rich_help_panel=INPUTS)
    ] = False
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Skip images that cannot be read.", rich_help_panel=INPUTS)
    ] = False
    preset_transform: Annotated[
        PresetTransform | None,
        typer.Option(
            help="imagenet: as torchvision prepares images. Shorter side to 256, centre crop to 224x224; mean and std of ImageNet where none are given.",
            rich_help_panel=INPUTS,
        ),
    ] = None
    classes: Annotated[
        Path | None,
        typer.Option(
            help="File with the model's classes in its order: one name per line, or a JSON list.",
            rich_help_panel=INPUTS,
        ),
    ] = None
    features: Annotated[
        str | None,
        typer.Option(
            help="Linear layer whose input is used as the features. \\[default: the last one]", rich_help_panel=INPUTS
        ),
    ] = None
    allow_code: Annotated[
        bool,
        typer.Option(
            "--allow-code",
            help="Run code: that of the architecture file, or, in bubblewrap, that of a program (TorchScript, pickled module, Keras Lambda).",
            rich_help_panel=INPUTS,
        ),
    ] = False
    no_sandbox: Annotated[
        bool,
        typer.Option(
            "--no-sandbox",
            help="With --allow-code: run a program with all of your rights where bubblewrap (bwrap) does not work.",
            rich_help_panel=INPUTS,
        ),
    ] = False
    typed: frozenset[str] = frozenset()  # which options of the command, these and others, stand on the command line


def takes_inputs(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of Inputs, but for some, in place of its parameter `inputs`."""
    shared = [known for name, known in inspect.signature(Inputs).parameters.items() if name not in (*without, "typed")]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        for own in inspect.signature(command).parameters.values():
            parameters += shared if own.name == "inputs" else [own]
        parameters.append(inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
        parameters = [known.replace(kind=inspect.Parameter.KEYWORD_ONLY) for known in parameters]

        @functools.wraps(command)
        def run(context: Any, **values: Any) -> None:
            sources = {name: context.get_parameter_source(name) for name in values}
            typed = frozenset(name for name, source in sources.items() if source and source.name == "COMMANDLINE")
            inputs = Inputs(**{known.name: values.pop(known.name) for known in shared}, typed=typed)
            command(**values, inputs=inputs)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {known.name: known.annotation for known in parameters}
        return run

    return decorate


MAX_LABELS = 1_000_000


def labels(text: str | None) -> tuple[int, ...] | None:
    """`0-9,33` as (0, 1, ... 9, 33)."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise SettingsError(
                f"--labels {text} is not a list of labels, which count from 0.", cure="Write it like 0-9,33."
            )
        low, high = int(first), int(last or first)
        if not 0 <= high - low <= MAX_LABELS:
            what = "an empty range" if high < low else f"more than {MAX_LABELS:,} labels"
            raise SettingsError(f"--labels {text}: {part.strip()} is {what}.", cure="Write it like 0-9,33.")
        found += range(low, high + 1)
    return tuple(found)


def size(text: str | None) -> tuple[int, int] | None:
    """`HxW` as (height, width)."""
    if text is None:
        return None
    height, cross, width = text.lower().partition("x")
    if not cross or not height.isdecimal() or not width.isdecimal() or not 0 < int(height) * int(width) <= 4096**2:
        raise SettingsError(f"--resize {text} is not a size.", cure="Write height x width, like 32x32.")
    return int(height), int(width)


def channels(option: str, text: str | None) -> tuple[float, ...] | None:
    """`0.5` or `0.49,0.48,0.45` as numbers."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise SettingsError(
            f"{option} {text} is not a number or a list.", cure="Write it like 0.49,0.48,0.45."
        ) from error


UNITS = {"s": 1, "m": 60, "h": 3600}
PREFIXES = {"K": 1024, "M": 1024**2, "G": 1024**3}


def seconds(text: str | None) -> float | None:
    """`90s`, `10m` or `1.5h` in seconds; a bare number is seconds."""
    return _amount("--budget", text, UNITS, "10m")


def num_bytes(text: str | None) -> int | None:
    """`800M` or `2G` in bytes."""
    found = _amount("--memory", text, PREFIXES, "2G")
    return None if found is None else round(found)


def _amount(option: str, text: str | None, units: dict[str, int], example: str) -> float | None:
    if text is None:
        return None
    last = text[-1:]
    unit = units.get(last, units.get(last.upper()))
    try:
        amount = float(text if unit is None else text[:-1]) * (unit or 1)
    except ValueError:
        amount = 0.0
    if not 0 < amount < float("inf"):
        raise SettingsError(f"{option} {text} is not an amount above 0.", cure=f"Write it like {example}.")
    return amount


def normalization(mean: str | None, std: str | None, scale: float | None, bgr: bool) -> "Normalize | None":
    """What --mean, --std, --scale and --bgr say together; None when none of them is given."""
    if mean is None and std is None and scale is None and not bgr:
        return None
    from neural_cleanse.classifier import Normalize

    return Normalize(
        channels("--mean", mean) or (0.0,), channels("--std", std) or (1.0,), 1.0 if scale is None else scale, bgr
    )
