"""Write docs/api.md from the docstrings of the public names; a test fails when the page is stale.

python docs/make_api.py
"""

import enum
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import neural_cleanse as nc
from neural_cleanse.api.form import FormKeywords

HEAD = """# Python reference

Every public name of `import neural_cleanse as nc`, from its docstring. [From Python](python.md) shows how they go
together. Values in [0, 1] are pixels or shares; sizes are in pixels.
"""
MODULE = re.compile(
    r"\bneural_cleanse(\.\w+)*\.(?=\w)|\bcollections\.abc\.|\btyping\.|\bpathlib\.|\bjaxtyping\.|\btorch\.nn\.modules\.\w+\."
)
ARRAY = re.compile(r"numpy\.ndarray\[.*?\]\]")


def page() -> str:
    """The reference as Markdown."""
    values = {name: getattr(nc, name) for name in dir(nc)}
    functions = [name for name, value in values.items() if inspect.isfunction(value)]
    classes = [name for name, value in values.items() if inspect.isclass(value)]
    modules = [name for name, value in values.items() if isinstance(value, ModuleType)]
    parts = [HEAD, "## Functions"]
    parts += [_function(f"nc.{name}", values[name]) for name in functions]
    parts += [_keywords(), "## Classes"]
    parts += [part for name in classes for part in _class(f"nc.{name}", values[name])]
    parts += ["## Namespaces"]
    parts += [part for name in modules for part in _module(f"nc.{name}", values[name])]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _function(name: str, function: Any) -> str:
    return f"### `{name}`\n\n```python\n{name}{_signature(function)}\n```\n\n{_text(function)}"


def _keywords() -> str:
    """The keywords that scan, repair, fit_guard and load share."""
    rows = [f"| `{key}` | `{_kind(kind)}` |" for key, kind in get_type_hints(FormKeywords).items()]
    summary, _, listed = _text(FormKeywords).partition("\n\n")
    items = re.sub(r"^(?=\w)", "- ", listed, flags=re.MULTILINE).replace("\n    ", "\n  ")
    return "\n".join(["### Keywords", "", summary, "", items, "", "| keyword | type |", "|---|---|", *rows])


def _class(name: str, kind: Any) -> Iterator[str]:
    head = f"### `{name}`\n\n"
    if issubclass(kind, enum.Enum):
        yield f"{head}{_text(kind)}\n\nValues: {', '.join(f'`{one.value}`' for one in kind)}."
        return
    if is_dataclass(kind):
        head += f"```python\n{name}{_signature(kind)}\n```\n\n"
    rows = [row for row in (_member(kind, key, value) for key, value in _members(kind)) if row]
    yield head + _text(kind) + ("\n\n| member | what |\n|---|---|\n" + "\n".join(rows) if rows else "")


def _members(kind: Any) -> Iterator[tuple[str, Any]]:
    """Public methods and properties, also those of the classes of this package that it is made from."""
    seen = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
    for one in kind.__mro__:
        if one.__module__.startswith("neural_cleanse"):
            for key, value in vars(one).items():
                if not key.startswith("_") and key not in seen:
                    seen.add(key)
                    yield key, value


def _member(kind: Any, name: str, value: Any) -> str | None:
    """A row of the table, documented here or where it was inherited from; None for what is data."""
    function = getattr(value, "__func__", value)
    said = _line(inspect.getdoc(getattr(kind, name)) or "")
    if isinstance(function, property):
        return f"| `.{name}` | {said} |"
    if isinstance(function, cached_property):
        return f"| `.{name}` | {_line(function.__doc__ or '')} |"
    if inspect.isfunction(function):
        return f"| `.{name}{_signature(function, short=True)}` | {said} |"
    return None


def _module(name: str, module: ModuleType) -> Iterator[str]:
    public = getattr(module, "__all__", None) or [key for key in dir(module) if not key.startswith("_")]
    rows = []
    for key in public:
        value = getattr(module, key)
        if isinstance(value, Mapping | tuple):
            rows.append(f"| `{key}` | The names: {', '.join(f'`{one}`' for one in value)}. |")
        elif inspect.isclass(value) or inspect.isfunction(value):
            rows.append(f"| `{key}` | {_line(_text(value))} |")
    yield "\n".join([f"### `{name}`", "", _text(module), "", "| name | what |", "|---|---|", *rows])


def _signature(function: Any, *, short: bool = False) -> str:
    """The parameters with types and defaults, one a line where they are long; names alone if `short`."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return "(...)"
    if short:
        names = [key for key in signature.parameters if key not in ("self", "cls")]
        return f"({', '.join(names)})"
    shown = []
    star = False
    for key, parameter in signature.parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        prefix = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        silent = parameter.annotation is parameter.empty or parameter.kind is parameter.VAR_KEYWORD
        kind = "" if silent else f": {_kind(parameter.annotation)}"
        default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
        shown.append(f"{prefix}{key}{kind}{default}")
    result = signature.return_annotation
    ends = "" if result in (signature.empty, None) or inspect.isclass(function) else f" -> {_kind(result)}"
    line = f"({', '.join(shown)}){ends}"
    return line if len(line) < 90 else "(\n    " + ",\n    ".join(shown) + f",\n){ends}"


def _kind(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"Optional\[(.*)\]$", r"\1 | None", MODULE.sub("", text))
    return ARRAY.sub("ndarray", text)


def _default(value: Any) -> str:
    if is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}()"
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    named = value if inspect.isfunction(value) or inspect.isclass(value) else None
    text = named.__name__ if named is not None else repr(value)
    return "..." if text.startswith("<") else MODULE.sub("", text)


def _text(value: Any) -> str:
    return inspect.cleandoc(value.__doc__ or "")


def _line(text: str) -> str:
    """The first paragraph on one line, for a table."""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


if __name__ == "__main__":
    Path(__file__).with_name("api.md").write_text(page(), encoding="utf-8")
