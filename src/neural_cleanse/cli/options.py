"""Options that several commands share, and values that need parsing: lists of labels, sizes, channel values."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import SettingsError
from neural_cleanse.loading.architecture import NAMES

MODEL, DATA, METHOD, RESULT = "The model", "The images", "The search", "The result"
EFFORT = "The effort"
BATCH = "Processes and machines"


class Crop(StrEnum):
    """Names of the crops."""

    roi = "roi"


class EngineName(StrEnum):
    """Where the models of a batch are scanned."""

    processes = "processes"
    ray = "ray"


ModelFile = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="Model file of any container, or a Hugging Face directory.", show_default=False
    ),
]
ScannedModel = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="Model file of any container, or a Hugging Face directory; or many: a directory of models, or a pattern in quotes.",
        show_default=False,
    ),
]
Data = Annotated[
    Path, typer.Option(help="Clean images: a folder, an .npz file, or parquet (file or folder).", rich_help_panel=DATA)
]
Architecture = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(NAMES)}, or FILE.py:FUNCTION with --allow-code; for weights alone. FILE.py: the classes that a pickled module names.",
        rich_help_panel=MODEL,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(help="Of several sets of weights in one file the one to read, like model_ema.", rich_help_panel=MODEL),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Run code: the architecture file's, or a program's (TorchScript, pickled module, Keras Lambda) in a process of its own.",
        rich_help_panel=MODEL,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(help="Mean the model expects subtracted: one number, or one a channel.", rich_help_panel=MODEL),
]
Std = Annotated[str | None, typer.Option(help="Standard deviation it expects divided by.", rich_help_panel=MODEL)]
Scale = Annotated[
    float | None, typer.Option(help="255 for a model that takes raw 0-255 values.", rich_help_panel=MODEL)
]
Bgr = Annotated[
    bool, typer.Option("--bgr", help="The model takes blue first; mean and std stay red first.", rich_help_panel=MODEL)
]
Features = Annotated[
    str | None,
    typer.Option(help="Linear layer whose input are the features. \\[default: the last one]", rich_help_panel=MODEL),
]
Resize = Annotated[str | None, typer.Option(help="HxW: bring every image to this size.", rich_help_panel=DATA)]
CropTo = Annotated[
    Crop | None, typer.Option("--crop", help="roi: crop to the region-of-interest columns.", rich_help_panel=DATA)
]
IgnoreLabels = Annotated[
    bool, typer.Option("--ignore-labels", help="Use the images as if unlabelled.", rich_help_panel=DATA)
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Go on without images that cannot be read.", rich_help_panel=DATA)
]
Samples = Annotated[
    int, typer.Option(min=1, help="Use at most so many images, balanced by label.", rich_help_panel=DATA)
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random choice.", rich_help_panel=METHOD)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=METHOD)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.", rich_help_panel=RESULT)]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier result there.", rich_help_panel=RESULT)
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes of one thread each, which share models or labels. \\[default: one, for a batch one a core]",
        rich_help_panel=BATCH,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with what is unfinished in --output.", rich_help_panel=RESULT)
]
EngineChoice = Annotated[
    EngineName | None,
    typer.Option(
        "--engine",
        help="processes on this machine, or a Ray cluster of your own. \\[default: processes]",
        rich_help_panel=BATCH,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="HOST:PORT of the Ray cluster's head; auto: this machine's; local: one for this command. \\[default: auto]",
        rich_help_panel=BATCH,
    ),
]

Quiet = Annotated[
    bool, typer.Option("--quiet", help="Say nothing but the answer: no progress.", rich_help_panel=RESULT)
]
LogJson = Annotated[
    bool, typer.Option("--log-json", help="Progress as JSON lines on stderr, for machines.", rich_help_panel=RESULT)
]

MAX_LABELS = 1_000_000


def labels(text: str | None) -> tuple[int, ...] | None:
    """`0-9,33` as (0, 1, ... 9, 33)."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise SettingsError(f"--labels {text} is not a list of labels.", cure="Write it like 0-9,33.")
        low, high = int(first), int(last or first)
        if high < low or high - low > MAX_LABELS:
            raise SettingsError(f"--labels {text}: {part.strip()} is no range of labels.", cure="Write it like 0-9,33.")
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
        raise SettingsError(f"{option} {text} is no amount above 0.", cure=f"Write it like {example}.")
    return amount


def normalization(mean: str | None, std: str | None, scale: float | None, bgr: bool) -> Normalize | None:
    """What --mean, --std, --scale and --bgr say together; None when none of them is given."""
    if mean is None and std is None and scale is None and not bgr:
        return None
    return Normalize(
        channels("--mean", mean) or (0.0,), channels("--std", std) or (1.0,), 1.0 if scale is None else scale, bgr
    )
