"""The network that a checkpoint's tensors go into: one of ours by name, or the user's own function."""

import contextlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from neural_cleanse.errors import CheckpointMismatch, CodeExecutionRefused, ModelError, SettingsError
from neural_cleanse.loading.architectures import Architecture, architecture

# A named network may need so many times the values of the file before it is refused unbuilt: room for a wrong name,
# which deserves the list of what differs, and none for a file that names a billion classes.
MAX_GROWTH, ALWAYS_ALLOWED = 4, 10_000_000
MAX_CLASSES = 1_000_000_000


@dataclass(frozen=True)
class Blueprint:
    """An empty network, the input it says it takes (None: not said), and whether a user's code made it."""

    module: nn.Module
    input_shape: tuple[int, int, int] | None
    ran_code: bool


def build(spec: str, tensors: dict[str, Tensor], num_classes: int | None, *, allow_code: bool) -> Blueprint:
    """The network of `spec`: NAME or FILE.py:FUNCTION.

    Without `num_classes` a named network has as many as the last tensor of the file. Raises CodeExecutionRefused for
    a user's file without `allow_code`, SettingsError for an unknown name, ModelError when the function fails.
    """
    if ":" in spec or spec.endswith(".py"):
        return Blueprint(_from_file(spec, allow_code=allow_code), None, True)
    named = architecture(spec)
    classes = _last_size(tensors) if num_classes is None else num_classes
    if classes is None or not 2 <= classes <= MAX_CLASSES:
        raise CheckpointMismatch(f"The weights do not end in a classification layer: {classes} classes.")
    _refuse_growth(named, classes, tensors)
    return Blueprint(named.build(classes), named.input_shape, False)


def _last_size(tensors: dict[str, Tensor]) -> int | None:
    """First dimension of the network's last tensor. Files may hold tensors in any order, names keep the layers'."""
    shaped = [name for name, tensor in tensors.items() if tensor.dim() >= 1]
    by_layer = sorted(shaped, key=lambda name: [(part.isdigit(), part.zfill(9)) for part in re.split(r"(\d+)", name)])
    return tensors[by_layer[-1]].shape[0] if by_layer else None


def _refuse_growth(named: Architecture, classes: int, tensors: dict[str, Tensor]) -> None:
    """Compare the network, built without memory, with the values that the file really holds."""
    plain = [tensor for tensor in tensors.values() if tensor.layout is torch.strided and not tensor.is_meta]
    held = sum({tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in plain}.values())
    with torch.device("meta"):
        needed = sum(parameter.numel() for parameter in named.build(classes).parameters())
    if needed > max(ALWAYS_ALLOWED, MAX_GROWTH * held):
        raise CheckpointMismatch(f"With {classes} classes the network needs {needed:,} weights, the file holds fewer.")


def _from_file(spec: str, *, allow_code: bool) -> nn.Module:
    file, _, function = spec.rpartition(":")
    if not function or not file.endswith(".py"):
        raise SettingsError(f"--architecture {spec} is not of the form FILE.py:FUNCTION.")
    path = Path(file)
    if not path.is_file():
        raise SettingsError(f"There is no architecture file {path}.")
    if not allow_code:
        raise CodeExecutionRefused(
            f"The architecture {spec} is Python code, which would run.",
            cure="Read it, and pass --allow-code (allow_code=True) if you trust it.",
        )
    module_spec = importlib.util.spec_from_file_location(f"_user_architecture_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise SettingsError(f"{path} cannot be imported as Python.")
    code = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = code  # dataclasses and pickling inside the file look it up
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout carries the answer, possibly as JSON
            module_spec.loader.exec_module(code)
            network = getattr(code, function)()
    except (Exception, SystemExit) as error:  # whatever the user's own code raises is theirs to read
        raise ModelError(f"{spec} failed: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{spec} returned a {type(network).__name__}, a torch.nn.Module is needed.")
    return network
