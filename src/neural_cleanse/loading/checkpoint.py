"""Tensors and nothing else: safetensors files and `weights_only` state_dicts, read from bytes already checked.

What we write ourselves is safetensors with a description in its metadata (architecture, input shape,
classes, normalisation, label names), so that it needs no option when it is read again.
"""

import io
import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import CodeExecutionRefused, ModelError, SettingsError, UnknownFormat
from neural_cleanse.files import write_whole
from neural_cleanse.loading.averages import lists_of_tensors, put_average
from neural_cleanse.loading.bare_pickle import load_bare
from neural_cleanse.loading.cures import AGAIN, OTHER_WEIGHTS
from neural_cleanse.loading.fitting import Fit, some
from neural_cleanse.loading.reparametrised import parts_of
from neural_cleanse.loading.tensor_pickle import load_skipping, with_modules, without_skipped
from neural_cleanse.loading.weight_sets import TOP, at_path, choose, named_sets, weight_sets
from neural_cleanse.loading.zip_guard import MAX_GROWTH

METADATA_KEY = "neural_cleanse"
MAX_LABEL_NAME = 200  # characters; a name is shown, never needed
MORE_THAN_TENSORS = (
    "{} holds more than tensors: a pickled module or other objects, which run code when loaded. Nothing of it was run."
)
ASK_FOR_TENSORS = (
    "Ask its author for a state_dict or a safetensors file (torch.save(model.state_dict(), path)), "
    "name its network with --architecture to read the tensors alone, "
    "or pass --allow-code (allow_code=True) to run it in bubblewrap, with --architecture FILE.py where its classes are "
    "not torch's (--no-sandbox where bubblewrap does not work)."
)
MAX_INPUT_VALUES = 3 * 1024**2  # of one image: a file that asks for more is broken or wants our memory
MAX_CLASSES = 100_000  # a scan is one search a class


@dataclass(frozen=True)
class Description:
    """What a file of ours says of its own network."""

    architecture: str
    input_shape: tuple[int, int, int]
    num_classes: int
    normalize: Normalize = Normalize()
    label_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Sets of named tensors by their path in the file (TOP: the file itself), and the file's own description."""

    sets: dict[str, dict[str, Tensor]]
    container: str
    description: Description | None = None
    notes: tuple[str, ...] = ()


def write_checkpoint(path: Path, module: nn.Module, description: Description) -> None:
    """Save the weights as self-describing safetensors (whole file or nothing)."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    write_whole(path, safetensors.torch.save(tensors, metadata={METADATA_KEY: json.dumps(asdict(description))}))


def is_safetensors(content: bytes) -> bool:
    """A little-endian header length that fits the file, then a JSON object."""
    return len(content) > 9 and int.from_bytes(content[:8], "little") <= len(content) - 8 and content[8:9] == b"{"


def read_safetensors(content: bytes, name: str) -> Checkpoint:
    """The tensors of a safetensors file. Raises ModelError when its header and data disagree."""
    try:
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{name} is damaged: not a readable safetensors file ({error}).", cure=AGAIN) from error
    metadata = header.get("__metadata__") or {}
    return Checkpoint({TOP: tensors}, "safetensors", _description(metadata.get(METADATA_KEY), name))


def rewrite_safetensors(content: bytes, state: Mapping[str, Tensor], weights: str | None = None) -> bytes:
    """The same file with the weights of `state`: names, kinds of number and metadata stay."""
    tensors = safetensors.torch.load(content)
    chosen = choose({TOP: tensors}, weights, lambda _: state, "the file")
    return replace_tensors(content, with_weights(chosen.fit, tensors, state))


def replace_tensors(content: bytes, values: Mapping[str, Tensor]) -> bytes:
    """The safetensors file with other values under its own names, in its kinds of number; what it lacks is ignored."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors = {
        name: values[name].detach().to("cpu", tensor.dtype).contiguous() if name in values else tensor
        for name, tensor in safetensors.torch.load(content).items()
    }
    return safetensors.torch.save(tensors, metadata=header.get("__metadata__"))


def _description(text: str | None, name: str) -> Description | None:
    if text is None:
        return None
    try:
        raw = json.loads(text)
        channels, height, width = (int(size) for size in raw["input_shape"])
        if min(channels, height, width) < 1 or channels * height * width > MAX_INPUT_VALUES:
            raise ValueError(f"input_shape {channels}x{height}x{width}")
        mean, std = (tuple(float(value) for value in raw["normalize"][key]) for key in ("mean", "std"))
        names = raw.get("label_names")
        return Description(
            architecture=str(raw["architecture"]),
            input_shape=(channels, height, width),
            num_classes=int(raw["num_classes"]),
            normalize=Normalize(mean, std, float(raw["normalize"]["scale"]), raw["normalize"].get("bgr") is True),
            label_names=None if names is None else tuple(str(label)[:MAX_LABEL_NAME] for label in names),
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, SettingsError) as error:
        raise ModelError(
            f"{name} describes itself in a way that cannot be read: {type(error).__name__} {error}.", cure=OTHER_WEIGHTS
        ) from error


def read_state_dict(content: bytes, name: str, *, modules: bool = False) -> Checkpoint:
    """The tensors of a PyTorch checkpoint, unpickled with `weights_only`: no code of the file can run.

    `modules`: pickled modules alone are enough, for a network that somebody named. Objects beside the tensors are left
    out and named. Raises CodeExecutionRefused when the file names what would run or holds no tensors outside such
    objects, UnknownFormat when it is no checkpoint.
    """
    loaded, skipped = _unpickled(content, name)
    sets = weight_sets(loaded)
    if skipped and (sets or modules):
        loaded = with_modules(loaded)
        sets = weight_sets(loaded)
    if not sets:
        if skipped:
            raise CodeExecutionRefused(MORE_THAN_TENSORS.format(name), cure=ASK_FOR_TENSORS)
        raise UnknownFormat(
            f"{name} holds a {type(loaded).__name__} without a dictionary of tensors.", cure=OTHER_WEIGHTS
        )
    for tensors in sets.values():
        _refuse_unheld(tensors, len(content), name)
    nameless = [path for path, _ in lists_of_tensors(loaded) if path not in sets]
    said = (
        ("objects beside the weights were not built", list(skipped)),
        ("tensors without names were not read", nameless),
    )
    notes = tuple(f"{what}: {some(names)}" for what, names in said if names)
    plain = {path: {key: _as_plain(tensor) for key, tensor in tensors.items()} for path, tensors in sets.items()}
    return Checkpoint(plain, "PyTorch checkpoint", notes=notes)


def _unpickled(content: bytes, name: str) -> tuple[Any, tuple[str, ...]]:
    """What the pickle holds, and the names of the classes in it that were not built."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of here (pickle protocol, TorchScript) we say ourselves
            try:
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), ()
            except pickle.UnpicklingError as error:
                if not _needs_more(error):
                    raise
                bare = load_bare(content)
                return load_skipping(content) if bare is None else (bare, ())
    except pickle.UnpicklingError as error:
        if _needs_more(error):
            raise CodeExecutionRefused(MORE_THAN_TENSORS.format(name), cure=ASK_FOR_TENSORS) from error
        raise UnknownFormat(f"{name} is not a readable PyTorch checkpoint: {_first_line(error)}", cure=AGAIN) from error
    except MemoryError:  # the reader's limit, not the file's damage
        raise
    except Exception as error:  # what a damaged pickle makes the unpickler raise is no one family
        if "TorchScript" in str(error):
            raise CodeExecutionRefused(
                f"{name} is a TorchScript archive: a program, which would run. Nothing of it was run.",
                cure=ASK_FOR_TENSORS,
            ) from error
        raise UnknownFormat(f"{name} is not a readable PyTorch checkpoint: {_first_line(error)}", cure=AGAIN) from error


def _needs_more(error: pickle.UnpicklingError) -> bool:
    message = str(error).lower()
    return "weights_only" in message or "global" in message


def _as_plain(tensor: Tensor) -> Tensor:
    """Quantised values as the numbers that they stand for."""
    return tensor.dequantize() if tensor.is_quantized else tensor


def _refuse_unheld(tensors: Mapping[str, Tensor], num_bytes: int, name: str) -> None:
    """Raise ModelError when the tensors reserve more memory than a file of this size can fill, or have no one shape."""
    if nested := [key for key, tensor in tensors.items() if tensor.is_nested]:
        raise ModelError(
            f"{name} holds tensors of several sizes in one ({some(nested)}): no network has such weights.",
            cure=OTHER_WEIGHTS,
        )
    plain = [tensor for tensor in tensors.values() if tensor.layout is torch.strided and not tensor.is_meta]
    reserved = sum({tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in plain}.values())
    if reserved > MAX_GROWTH * num_bytes:
        raise ModelError(
            f"{name} is damaged: of {num_bytes:,} bytes, it declares {reserved:,} bytes of weights.", cure=AGAIN
        )


def rewrite_state_dict(content: bytes, state: Mapping[str, Tensor], weights: str | None = None) -> bytes:
    """The same checkpoint with the weights of `state`: names, kinds of number, nesting and all plain values beside.

    A module that was pickled is left as the dictionary of its tensors.
    """
    loaded, skipped = _unpickled(content, "the file")
    loaded = with_modules(loaded) if skipped else loaded
    chosen = choose(weight_sets(loaded), weights, lambda _: state, "the file")
    kept = without_skipped(loaded) if skipped else loaded
    values = with_weights(chosen.fit, weight_sets(loaded)[chosen.path], state)
    if not put_average(kept, named_sets(kept), chosen.path, values):
        at_path(kept, chosen.path).update(values)
    stream = io.BytesIO()
    torch.save(kept, stream)
    return stream.getvalue()


def with_weights(fit: Fit, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors that the network uses, under their own names, with the values of `state`."""
    return {
        name: part for key, stored in fit.places.items() for name, part in parts_of(stored, state[key], tensors).items()
    }


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
