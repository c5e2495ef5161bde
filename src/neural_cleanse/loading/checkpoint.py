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
from neural_cleanse.errors import CheckpointMismatch, CodeExecutionRefused, ModelError, SettingsError, UnknownFormat
from neural_cleanse.files import write_whole
from neural_cleanse.loading.zip_guard import MAX_GROWTH

METADATA_KEY = "neural_cleanse"
# Where training scripts put the weights inside their checkpoint, tried in this order.
NESTED_KEYS = ("state_dict", "model_state_dict", "model_state", "net", "model", "netC", "weights", "params", "ema")
# What wrappers put before every name: DataParallel, torch.compile, Lightning.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
MAX_LABEL_NAME = 200  # characters; a name is shown, never needed
ASK_FOR_TENSORS = (
    "Ask its author for a state_dict or a safetensors file (torch.save(model.state_dict(), path)), "
    "or pass --allow-code (allow_code=True) to run it in a process of its own."
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
    """Named tensors, where they lay in the file, and the file's own description if it has one."""

    tensors: dict[str, Tensor]
    container: str
    nested_under: str | None = None
    description: Description | None = None


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
        raise ModelError(f"{name} is damaged: not a readable safetensors file ({error}).") from error
    metadata = header.get("__metadata__") or {}
    return Checkpoint(tensors, "safetensors", description=_description(metadata.get(METADATA_KEY), name))


def rewrite_safetensors(content: bytes, state: Mapping[str, Tensor]) -> bytes:
    """The same file with the weights of `state`: names, kinds of number and metadata stay."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return safetensors.torch.save(
        _with_weights(safetensors.torch.load(content), state), metadata=header.get("__metadata__")
    )


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
            f"{name} describes itself in a way that cannot be read: {type(error).__name__} {error}."
        ) from error


def read_state_dict(content: bytes, name: str) -> Checkpoint:
    """The tensors of a PyTorch checkpoint, unpickled with `weights_only`: no code of the file can run.

    Raises CodeExecutionRefused when the file needs more than tensors, UnknownFormat when it is no checkpoint.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of here (pickle protocol, TorchScript) we say ourselves
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        message = str(error)
        if "weights_only" in message.lower() or "global" in message.lower():
            raise CodeExecutionRefused(
                f"{name} holds more than tensors: a pickled module or other objects, which run code when loaded. "
                "Nothing of it was run.",
                cure=ASK_FOR_TENSORS,
            ) from error
        raise UnknownFormat(f"{name} is not a readable PyTorch checkpoint: {_first_line(error)}") from error
    except MemoryError:  # the reader's limit, not the file's damage
        raise
    except Exception as error:  # what a damaged pickle makes the unpickler raise is no one family
        if "TorchScript" in str(error):
            raise CodeExecutionRefused(
                f"{name} is a TorchScript archive: a program, which would run. Nothing of it was run.",
                cure=ASK_FOR_TENSORS,
            ) from error
        raise UnknownFormat(f"{name} is not a readable PyTorch checkpoint: {_first_line(error)}") from error
    tensors, key = _find_tensors(loaded)
    if tensors is None:
        raise UnknownFormat(f"{name} holds a {type(loaded).__name__} without a dictionary of tensors.")
    _refuse_unheld(tensors, len(content), name)
    return Checkpoint(tensors, "PyTorch checkpoint", nested_under=key)


def _refuse_unheld(tensors: Mapping[str, Tensor], num_bytes: int, name: str) -> None:
    """Raise ModelError when the tensors reserve more memory than a file of this size can fill."""
    plain = [tensor for tensor in tensors.values() if tensor.layout is torch.strided and not tensor.is_meta]
    reserved = sum({tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in plain}.values())
    if reserved > MAX_GROWTH * num_bytes:
        raise ModelError(f"{name} is damaged: of {num_bytes:,} bytes, it declares {reserved:,} bytes of weights.")


def rewrite_state_dict(content: bytes, state: Mapping[str, Tensor]) -> bytes:
    """The same checkpoint with the weights of `state`: names, kinds of number, nesting and all that lies beside."""
    loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    _, key = _find_tensors(loaded)
    tensors = loaded if key is None else loaded[key]
    tensors.update(_with_weights(dict(tensors), state))
    stream = io.BytesIO()
    torch.save(loaded, stream)
    return stream.getvalue()


def _with_weights(tensors: dict[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under its own names, with the values of `state`; what the network does not use stays."""
    bare = _without_prefix(tensors, set(state))  # keeps the order
    return {
        theirs: state[ours].detach().to("cpu", tensor.dtype).contiguous() if ours in state else tensor
        for (theirs, tensor), ours in zip(tensors.items(), bare, strict=True)
    }


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _find_tensors(loaded: Any) -> tuple[dict[str, Tensor] | None, str | None]:
    """The state_dict itself, or the one nested under a usual key, or under the only key that holds one."""
    if _is_state_dict(loaded):
        return dict(loaded), None
    if not isinstance(loaded, Mapping):
        return None, None
    nested = {str(key): value for key, value in loaded.items() if _is_state_dict(value)}
    for key in (*NESTED_KEYS, *nested):
        if key in nested and (key in NESTED_KEYS or len(nested) == 1):
            return dict(nested[key]), key
    return None, None


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and any(isinstance(tensor, Tensor) and tensor.dim() >= 1 for tensor in value.values())
        and all(isinstance(key, str) for key in value)
        and all(isinstance(tensor, Tensor) for tensor in value.values())
    )


def fit_tensors(checkpoint: Checkpoint, module: nn.Module, name: str) -> None:
    """Load the tensors into the module, wrappers' prefixes dropped and half precision widened.

    Raises CheckpointMismatch with the names and shapes that differ, ModelError on NaN or Inf weights.
    """
    expected = module.state_dict()
    tensors = _without_prefix(checkpoint.tensors, set(expected))
    # Batch norm's step counter takes no part in inference, and old checkpoints have none.
    missing = sorted(key for key in set(expected) - set(tensors) if not key.endswith("num_batches_tracked"))
    unexpected = sorted(set(tensors) - set(expected))
    differing = sorted(
        f"{key} is {_shape(tensors[key])} in the file and {_shape(expected[key])} in the network"
        for key in set(expected) & set(tensors)
        if tensors[key].shape != expected[key].shape
    )
    if missing or unexpected or differing:
        parts = [f"missing: {_some(missing)}"] if missing else []
        parts += [f"unexpected: {_some(unexpected)}"] if unexpected else []
        parts += [_some(differing)] if differing else []
        raise CheckpointMismatch(
            f"The weights in {name} do not fit the architecture ({'; '.join(parts)}).",
            cure="Name the network they were trained in with --architecture.",
        )
    odd = sorted(key for key, tensor in tensors.items() if tensor.layout is not torch.strided or tensor.is_meta)
    if odd:
        raise ModelError(f"The weights in {name} are sparse or without values, in {_some(odd)}: plain ones are needed.")
    broken = sorted(key for key, tensor in tensors.items() if not torch.isfinite(tensor.float()).all())
    if broken:
        raise ModelError(f"The weights in {name} hold NaN or Inf, in {_some(broken)}: the network cannot be scanned.")
    module.load_state_dict(
        {key: tensor.to(expected[key].dtype) for key, tensor in tensors.items()},
        strict=False,  # only for num_batches_tracked: everything else was compared above
    )


def _without_prefix(tensors: dict[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """Strip wrappers' prefixes, outermost first, until the names fit or no prefix is shared by all."""
    while not expected & set(tensors):
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            return tensors
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a scalar"


def _some(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:MAX_LABEL_NAME] for name in names[:most]) + more
