"""Frozen dataclasses to JSON values and back, by their annotations; what is no JSON (tensors) is stored elsewhere.

Damaged values never become a record: each is checked against its field's type.
"""

import enum
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from neural_cleanse.text import plain

T = TypeVar("T")


def encode(value: Any) -> Any:
    """JSON values: an enumeration's value, a dataclass without its tensors; infinite and undefined numbers are null."""
    if is_dataclass(value) and not isinstance(value, type):
        named = ((field.name, getattr(value, field.name)) for field in fields(value))
        return {name: encode(inner) for name, inner in named if not isinstance(inner, Tensor)}
    if isinstance(value, enum.Enum):
        return encode(value.value)
    if isinstance(value, Mapping):
        return {str(key): encode(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [encode(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def decode(kind: type[T], value: Any) -> T:
    """A dataclass from what `encode` made of it; tensors are put in their places before.

    Keys that are no fields stand beside, and a field with a default may lack. Raises KeyError, TypeError or ValueError.
    """
    made: T = _decoded(kind, value)
    return made


def _decoded(kind: Any, value: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _decoded(_the_other(arguments), value)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        _expect(value, Mapping, kind)
        lacking = [field.name for field in fields(kind) if field.name not in value and _is_required(field)]
        if lacking:
            raise KeyError(lacking[0])
        return kind(**{name: _decoded(hint, value[name]) for name, hint in hints.items() if name in value})
    if origin is tuple:
        _expect(value, list, kind)
        kinds = [arguments[0]] * len(value) if arguments[1:] == (Ellipsis,) else arguments
        return tuple(_decoded(each, inner) for each, inner in zip(kinds, value, strict=True))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    if origin is not None and issubclass(origin, Mapping):
        _expect(value, Mapping, kind)
        key_of = int if arguments[0] is int else str
        return {key_of(key): _decoded(arguments[1], inner) for key, inner in value.items()}
    if kind is not Any:
        _expect(value, (int, float) if kind is float else kind, kind)
    return value


def _expect(value: Any, kind: Any, named: Any) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and named is not bool):
        raise TypeError(f"{plain(repr(value))} is no {getattr(named, '__name__', named)}")


def _the_other(kinds: tuple[Any, ...]) -> Any:
    (kind,) = (kind for kind in kinds if kind is not types.NoneType)
    return kind


def _is_required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}
