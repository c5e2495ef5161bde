"""Options that a project keeps in a file: neural-cleanse.toml, or [tool.neural-cleanse] in pyproject.toml.

Only the current directory is searched, and neural-cleanse.toml comes first. What is typed counts more than the file.
The file may come with a suspect model, so it holds nothing that runs code, or that writes or replaces anything.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neural_cleanse.cli.recorded import names_code
from neural_cleanse.errors import SettingsError
from neural_cleanse.regular_files import read_regular

OWN_FILE, PROJECT_FILE, TABLE = "neural-cleanse.toml", "pyproject.toml", "neural-cleanse"
MAX_BYTES = 1_000_000
# Options that stand outside the tables of commands: every command that has one takes it.
FOR_ALL = frozenset(
    {
        "architecture", "bgr", "classes", "crop", "data", "device", "features", "ignore-labels", "mean",
        "preset-transform", "quiet", "resize", "scale", "seed", "skip-unreadable", "std", "weights",
    }
)  # fmt: skip
# Options that stand on the command line alone.
TYPED = frozenset(
    {
        "address", "allow-code", "copy-rejected", "engine", "force", "guard", "help", "html", "json", "like", "list",
        "log-json", "model", "models", "no-sandbox", "output", "overwrite", "report", "resume", "rows", "sarif", "scan",
    }
)  # fmt: skip


def defaults(name: str, command: Any, commands: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """What the project's file says for a command, as click's default map; `commands` are all names there are.

    Raises SettingsError on a file that cannot be read, an unknown option, or one that must be typed.
    """
    path, table = _read(Path() if folder is None else folder)
    for_all = {key: value for key, value in table.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    _refuse(path, "", set(for_all), FOR_ALL)
    unknown = sorted(set(tables) - set(commands))
    if unknown:
        raise SettingsError(f"{path}: there is no command {unknown[0]!r}.", cure=f"Tables: {', '.join(commands)}.")
    own = tables.get(name, {})
    leaves = getattr(command, "commands", {}) or {"": command}
    options = {leaf: _options(found) for leaf, found in leaves.items()}
    _refuse(path, f"[{name}] ", set(own), frozenset().union(*options.values()) - TYPED)
    made = {
        leaf: {
            known[key].name: _value(path, key, value, known[key])
            for key, value in {**for_all, **own}.items()
            if key in known
        }
        for leaf, known in options.items()
    }
    return made.get("", made)


def _read(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file, and its table; empty where there is none."""
    own, project = folder / OWN_FILE, folder / PROJECT_FILE
    path = own if own.exists() else project
    try:
        content = read_regular(path, MAX_BYTES) if path.exists() else b""
        if path == project and TABLE.encode() not in content:
            return path, {}
        values = tomllib.loads(content.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(
            f"{path} cannot be read: {error}.", cure="Mend it, or work in another directory."
        ) from error
    found = values if path == own else values.get("tool", {}).get(TABLE, {})
    if not isinstance(found, dict):
        raise SettingsError(
            f"{path}: [tool.{TABLE}] is not a table.", cure=f"Write its options as lines of [tool.{TABLE}]."
        )
    return path, found


def _options(command: Any) -> dict[str, Any]:
    """Options of a command by the names that one types, without dashes."""
    found: dict[str, Any] = {}
    for known in command.params:
        if known.param_type_name == "option":
            found |= {name.removeprefix("--"): known for name in known.opts if name.startswith("--")}
    return found


def _refuse(path: Path, where: str, keys: set[str], allowed: frozenset[str]) -> None:
    for key in sorted(keys - allowed):
        if key in TYPED:
            raise SettingsError(f"{path}: {where}{key} cannot be set in a file.", cure=f"Type --{key} instead.")
        raise SettingsError(f"{path}: {where}{key} is unknown.", cure=f"Known: {', '.join(sorted(allowed))}.")


def _value(path: Path, key: str, value: Any, option: Any) -> Any:
    """The value as one would type it: lists become a,b,c."""
    if key == "architecture" and names_code(str(value)):
        raise SettingsError(f"{path}: code cannot be named in a file.", cure=f"Type --architecture {value}.")
    if option.is_flag:
        if not isinstance(value, bool):
            raise SettingsError(f"{path}: {key} is true or false, got {value!r}.", cure=f"Write {key} = true.")
        return value
    parts = value if isinstance(value, list) else [value]
    if not parts or not all(isinstance(part, int | float | str) and not isinstance(part, bool) for part in parts):
        raise SettingsError(f"{path}: {key} = {value!r} is no value for --{key}.", cure="Write it as it is typed.")
    return ",".join(map(str, parts))
