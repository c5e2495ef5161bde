"""A pickle of plain values and NumPy arrays: containers, text, numbers, arrays. Any other name in it is refused.

`pickle.Unpickler` calls only what `find_class` gives it. Here that is a class of ours for each of the few names that
arrays are made of, new ones for every file, so that no file can change them for the next. Nothing of the file is
imported.
"""

import io
import pickle
from collections.abc import Mapping
from typing import Any

from neural_cleanse.loading.array_pickle import (
    DTYPE,
    FROM_BUFFER,
    RECONSTRUCT,
    SCALAR,
    ArrayParts,
    BufferParts,
    DtypeParts,
    ScalarParts,
)
from neural_cleanse.loading.tensor_pickle import PYTHON_2, runs_code

NDARRAY = "numpy.ndarray"  # an argument of RECONSTRUCT
ENCODE = "_codecs.encode"  # how protocol 2 writes bytes: as text in latin-1
MAX_CONTAINERS_DEEP = 20


class Refused(pickle.UnpicklingError):
    """The pickle names something else: `what`, and whether that would run code."""

    def __init__(self, what: str) -> None:
        super().__init__(f"it names {what}")
        self.what, self.runs = what, runs_code(what)


class _Latin1(bytes):
    """Stands for `_codecs.encode`."""

    def __new__(cls, text: Any = "", encoding: Any = "latin1", *_: Any) -> Any:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError("bytes in an odd encoding")
        return text.encode("latin-1")


class _Plain(pickle.Unpickler):
    def __init__(self, content: bytes, more: Mapping[str, type]) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")  # text of Python 2 may be an image's bytes
        kinds: dict[str, type] = {
            **dict.fromkeys(RECONSTRUCT, ArrayParts), **dict.fromkeys(SCALAR, ScalarParts),
            **dict.fromkeys(FROM_BUFFER, BufferParts), DTYPE: DtypeParts, NDARRAY: ArrayParts, ENCODE: _Latin1,
            **more,
        }  # fmt: skip
        fresh = {kind: type(kind.__name__, (kind,), {}) for kind in set(kinds.values())}
        self._classes = {name: fresh[kind] for name, kind in kinds.items()}
        self._classes["collections.OrderedDict"] = type("Ordered", (dict,), {})

    def find_class(self, module: str, name: str) -> Any:
        found = self._classes.get(f"{PYTHON_2.get(module, module)}.{name}")
        if found is None:
            raise Refused(f"{module}.{name}"[:200])
        return found


def load_plain(content: bytes, more: Mapping[str, type] | None = None) -> Any:
    """What the pickle holds, keys as text, arrays as NumPy arrays, None for arrays of other than numbers.

    `more` are classes of ours that stand for further names.
    Raises Refused where it names anything that is not plain, pickle.UnpicklingError where it is damaged.
    """
    try:
        return _arrays(_Plain(content, more or {}).load(), 0)
    except (pickle.UnpicklingError, MemoryError):
        raise
    except Exception as error:  # what a damaged pickle makes the unpickler raise is no one family
        raise pickle.UnpicklingError(f"damaged: {type(error).__name__} {error}"[:200]) from error


def _arrays(value: Any, depth: int) -> Any:
    if depth > MAX_CONTAINERS_DEEP:
        raise pickle.UnpicklingError(f"containers over {MAX_CONTAINERS_DEEP} deep")
    if isinstance(value, ArrayParts):
        found = value.array()
        return found.item() if found is not None and found.ndim == 0 else found
    if isinstance(value, dict):
        return {_key(key): _arrays(part, depth + 1) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_arrays(part, depth + 1) for part in value)
    return value


def _key(key: Any) -> Any:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else key
