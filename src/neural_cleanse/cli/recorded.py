"""The options of a scan's model and images, kept beside its result: they are typed once.

`repair`, `guard` and a second scan take from there what the command line leaves out. Nothing that runs code is kept or
taken: --allow-code, --no-sandbox and architecture files stand on the command line each time.
"""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from neural_cleanse.cli.options import Crop, Inputs, PresetTransform
from neural_cleanse.errors import OutputError
from neural_cleanse.regular_files import read_regular

FILE = "options.json"
SCHEMA_VERSION = 1
MAX_BYTES = 1_000_000
# What a file may hold, and of which kind.
KINDS: dict[str, type | tuple[type, ...]] = {
    "data": str, "architecture": str, "mean": str, "std": str, "scale": (int, float), "bgr": bool, "resize": str,
    "crop": str, "classes": str, "features": str, "preset_transform": str, "weights": str,
    "ignore_labels": bool, "skip_unreadable": bool,
}  # fmt: skip

MADE: dict[str, Callable[[str], Any]] = {"classes": Path, "crop": Crop, "preset_transform": PresetTransform}


def write(directory: Path, inputs: Inputs, data: Path | None = None) -> None:
    """Keep the options that are not the defaults. Raises OutputError."""
    from neural_cleanse.files import write_whole  # help and completion load nothing heavy

    known = {field.name: field.default for field in fields(Inputs)}
    values = {name: getattr(inputs, name) for name in KINDS if name != "data"}
    values = {name: value for name, value in values.items() if value != known[name]} | {"data": data}
    if names_code(values.get("architecture")):
        del values["architecture"]
    plain = {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in values.items()
        if value is not None
    }
    text = json.dumps({"schema_version": SCHEMA_VERSION, "options": plain}, indent=2)
    write_whole(directory / FILE, f"{text}\n".encode("utf-8", errors="surrogateescape"))


def completed(inputs: Inputs, data: Path | None, directory: Path | None) -> tuple[Inputs, Path | None]:
    """Options and images; what was not typed is as the scan in `directory` had it. Raises OutputError."""
    if directory is None:
        return inputs, data
    kept = {name: value for name, value in _read(directory).items() if name not in inputs.typed}
    images = kept.pop("data", None)
    if "preset_transform" in inputs.typed:
        kept = {name: value for name, value in kept.items() if name not in ("resize", "crop")}
    elif inputs.typed & {"resize", "crop"}:
        kept.pop("preset_transform", None)
    kept |= {name: make(kept[name]) for name, make in MADE.items() if name in kept}
    return replace(inputs, **kept), data if images is None else Path(images)


def with_options(directory: Path | None) -> Path | None:
    """The directory. Raises OutputError where it holds no options."""
    if directory is not None and not (directory / FILE).is_file():
        raise OutputError(f"{directory} holds no options of a scan.", cure="Give a directory that scan --output wrote.")
    return directory


def names_code(architecture: str | None) -> bool:
    """Whether it is FILE.py or FILE.py:FUNCTION, and no name."""
    return architecture is not None and (".py" in architecture or ":" in architecture)


def _read(directory: Path) -> dict[str, Any]:
    """The options kept in a directory; none where it has no such file."""
    path = directory / FILE
    try:
        if not path.exists():
            return {}
        content = json.loads(read_regular(path, MAX_BYTES).decode("utf-8", "surrogateescape"))
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {content['schema_version']}")
        options = dict(content["options"])
        wrong = [name for name, value in options.items() if not _fits(name, value)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise OutputError(f"{path} cannot be read ({error}).", cure="Delete it, and type the options again.") from error
    if wrong:
        raise OutputError(f"{path} holds what it cannot: {', '.join(wrong)}.", cure="Delete it, and type the options.")
    return options


def _fits(name: str, value: object) -> bool:
    if not isinstance(value, KINDS.get(name, ())) or (name == "scale" and isinstance(value, bool)):
        return False
    if name == "architecture":
        return not names_code(str(value))
    names: dict[str, list[str]] = {"crop": list(Crop), "preset_transform": list(PresetTransform)}
    return name not in names or value in names[name]
