"""Tensors out of a pickled checkpoint in which other objects lie too: the tensors are read, the rest is never built.

PyTorch's `weights_only` unpickler knows tensors and plain containers. Training scripts add NumPy scalars, an
`argparse.Namespace`, paths and their own classes. Here each of those names stands for a class of ours that keeps
nothing of what it is given, so nothing of the file is imported or called. What exists to run code is still refused.
"""

import io
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from neural_cleanse.loading.array_pickle import DTYPE, RECONSTRUCT, ArrayParts, DtypeParts, with_tensors
from neural_cleanse.loading.program.pickles import imported
from neural_cleanse.loading.zip_guard import is_zip

SKIPPED = "_skipped"  # attribute of what stands for an object that was not built
# Modules and builtins that a pickle names to run something: such a file is an attack and is read no further.
RUNS_CODE = frozenset({
    "_pickle", "asyncio", "bdb", "cloudpickle", "code", "codeop", "commands", "ctypes", "dill", "importlib", "joblib",
    "marshal", "multiprocessing", "nt", "os", "pdb", "pickle", "pip", "posix", "pty", "requests", "runpy", "shutil",
    "socket", "subprocess", "sys", "timeit", "urllib", "webbrowser",
})  # fmt: skip
OF_ARRAYS: dict[str, type] = {**dict.fromkeys(RECONSTRUCT, ArrayParts), DTYPE: DtypeParts}
QUEUE = "collections.deque"  # the one class of Python's own that is filled as a list is
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
MAX_PARTS = 20_000  # modules and containers; a pickle may hold one that holds itself
PLAIN_BUILTINS = frozenset({
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "getattr", "int", "list", "object", "range",
    "set", "slice", "str", "tuple", "type",
})  # fmt: skip


def runs_code(name: str) -> bool:
    """Whether `module.name` is there to run something, rather than to hold values."""
    module, _, last = name.rpartition(".")
    if module in ("builtins", "__builtin__"):
        return last not in PLAIN_BUILTINS
    return module.partition(".")[0] in RUNS_CODE or module.startswith(("torch.hub", "torch.jit", "numpy.testing"))


def load_skipping(content: bytes) -> tuple[Any, tuple[str, ...]]:
    """What the checkpoint holds with its tensors, and the names of the classes that were not built.

    Raises pickle.UnpicklingError when it names something that runs code, and what `torch.load` raises.
    """
    names = sorted({name for pickled in _pickles(content) for name in imported(pickled)})
    if found := [name for name in names if runs_code(name)]:
        raise pickle.UnpicklingError(f"unsupported global {found[0]}")
    try:
        return _load(content, names, open_objects=True)
    except (pickle.UnpicklingError, TypeError, ValueError, AttributeError):  # an object with state of its own kind
        return _load(content, names, open_objects=False)


def _load(content: bytes, names: Iterable[str], *, open_objects: bool) -> tuple[Any, tuple[str, ...]]:
    used: dict[str, None] = {}
    stand_ins: list[Any] = [
        (OF_ARRAYS.get(name) or _stand_in(name, used, open_objects and not name.startswith("numpy")), _name_today(name))
        for name in names
    ]
    with torch.serialization.safe_globals(stand_ins):  # what torch itself allows keeps its meaning
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    loaded = with_tensors(loaded, used)
    return loaded, tuple(used)


def _name_today(name: str) -> str:
    """The name that Python 3 has for one of Python 2, as pickles of protocol 2 write it."""
    module, _, last = name.rpartition(".")
    return f"{PYTHON_2.get(module, module)}.{last}"


def _stand_in(name: str, used: dict[str, None], opened: bool) -> type:
    """A class that the unpickler takes for `name`. Opened, its objects are dictionaries, which may hold weights."""

    class Inert:
        def __new__(cls, *_: Any, **__: Any) -> Any:
            used[name] = None
            if name == QUEUE:
                return []
            if not opened:
                made = super().__new__(cls)
                setattr(made, SKIPPED, name)
                return made
            container: OrderedDict[Any, Any] = OrderedDict()
            setattr(container, SKIPPED, name)
            return container

        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def __setstate__(self, state: Any) -> None:
            pass

    return Inert


def with_modules(value: Any) -> Any:
    """The same dictionaries and lists, with the state_dict of every pickled module in its place.

    Of more than MAX_PARTS containers the rest stays as it is.
    """
    done: dict[int, Any] = {}
    budget = iter(range(MAX_PARTS))

    def changed(part: Any) -> Any:
        if type(part) not in (dict, OrderedDict, list, tuple) or id(part) in done:
            return done.get(id(part), part)
        if next(budget, None) is None:
            return part
        done[id(part)] = part  # what holds itself stays as it is
        if hasattr(part, SKIPPED) and (state := _state_of(part)):
            new: Any = state
        elif isinstance(part, dict):
            new = {key: changed(inner) for key, inner in part.items()}
            if hasattr(part, SKIPPED):
                new = OrderedDict(new)
                setattr(new, SKIPPED, getattr(part, SKIPPED))
        else:
            new = type(part)(changed(inner) for inner in part)
        done[id(part)] = new
        return new

    return changed(value)


def _state_of(module: Any) -> dict[str, Tensor]:
    """Names and tensors of a module that was not built: what torch.nn.Module keeps in its attributes.

    Empty where it is no module, or holds more than MAX_PARTS others.
    """
    found: dict[str, Tensor] = {}
    waiting = [("", module)]
    for _ in range(MAX_PARTS):
        if not waiting:
            return found
        prefix, part = waiting.pop()
        held = vars(part) if type(part) is OrderedDict else {}
        if not isinstance(held.get("_modules"), dict):
            continue
        passing = held.get("_non_persistent_buffers_set") or ()
        for kind in ("_parameters", "_buffers"):
            tensors = held.get(kind)
            for key, tensor in tensors.items() if isinstance(tensors, dict) else ():
                if isinstance(key, str) and isinstance(tensor, Tensor) and key not in passing:
                    found[f"{prefix}{key}"] = tensor
        inner = [(f"{prefix}{key}.", one) for key, one in held["_modules"].items() if isinstance(key, str)]
        waiting.extend(reversed(inner))
    return {}


def _pickles(content: bytes) -> list[bytes]:
    """The pickle of a zipped checkpoint, or the bytes themselves."""
    if not is_zip(content):
        return [content]
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise pickle.UnpicklingError(f"damaged archive: {error}") from error


def without_skipped(value: Any) -> Any:
    """Plain containers again, without what was not built: what can be written back."""
    if isinstance(value, dict):
        kept = {key: without_skipped(part) for key, part in value.items() if not hasattr(part, SKIPPED)}
        return type(value)(kept) if type(value) in (dict, OrderedDict) else kept
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(without_skipped(part) for part in value if not hasattr(part, SKIPPED))
    return value
