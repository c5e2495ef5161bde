"""The network that a checkpoint's tensors go into: one of ours by name, or the user's own function."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from neural_cleanse.architectures import architecture
from neural_cleanse.errors import CheckpointMismatch, CodeExecutionRefused, ModelError, SettingsError


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
    last = next((tensor for tensor in reversed(tensors.values()) if tensor.dim() >= 1), None)
    classes = num_classes or (None if last is None else last.shape[0])
    # The tensors already are in memory, so a true count is bounded by them and an absurd one is refused here.
    if classes is None or not 2 <= classes <= sum(tensor.numel() for tensor in tensors.values()):
        raise CheckpointMismatch(f"The weights do not end in a classification layer: {classes} classes.")
    return Blueprint(named.build(classes), named.input_shape, False)


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
        module_spec.loader.exec_module(code)
        network = getattr(code, function)()
    except Exception as error:  # whatever the user's own code raises is theirs to read
        raise ModelError(f"{spec} failed: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{spec} returned a {type(network).__name__}, a torch.nn.Module is needed.")
    return network
