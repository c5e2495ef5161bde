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
from neural_cleanse.loading.architectures import ARCHITECTURES, Architecture
from neural_cleanse.loading.common import recognise as common

NAMES = tuple(sorted({*ARCHITECTURES, *common.NAMES}))
MAX_CLASSES = 1_000_000_000


@dataclass(frozen=True)
class Blueprint:
    """An empty network, its name, the input it says it takes (None: not said), and whether a user's code made it."""

    module: nn.Module
    name: str
    input_shape: tuple[int, int, int] | None
    ran_code: bool
    assumed: tuple[str, ...] = ()


def build(
    spec: str | None, tensors: dict[str, Tensor], num_classes: int | None, *, allow_code: bool, name: str = "The file"
) -> Blueprint:
    """The network of `spec`: NAME or FILE.py:FUNCTION; None: the usual architecture that the tensors are recognised as.

    Without `num_classes` a named network has as many as the last tensor of the file. Raises CodeExecutionRefused for
    a user's file without `allow_code`, SettingsError for an unknown name, ModelError when the function fails,
    CheckpointMismatch when the tensors belong to another network.
    """
    if spec is not None and (":" in spec or spec.endswith(".py")):
        return Blueprint(_from_file(spec, allow_code=allow_code), spec, None, True)
    usual = common.recognise(tensors) if spec is None or spec in common.NAMES else None
    if usual is not None and (spec is None or spec.removesuffix("_bn") == usual.name.removesuffix("_bn")):
        recognised = f"{usual.name}, as the names and shapes of the tensors say"
        noted = (*((recognised,) if spec is None else ()), *usual.assumed)
        return Blueprint(usual.module, f"{usual.name} (torchvision, timm)", None, False, noted)
    if spec is None:
        raise CheckpointMismatch(
            f"{name} holds weights only and does not say which network they belong to.",
            cure="Name it with --architecture NAME, or FILE.py:FUNCTION and --allow-code.",
        )
    if usual is not None or (spec in common.NAMES and spec not in ARCHITECTURES):
        found = "another network" if usual is None else usual.name
        raise CheckpointMismatch(
            f"The names and shapes of the weights are those of {found}, not of {spec} in torchvision or timm.",
            cure="Leave --architecture out." if usual else "Give FILE.py:FUNCTION and --allow-code.",
        )
    if spec not in ARCHITECTURES:
        raise SettingsError(
            f"There is no architecture {spec!r}; the names are {', '.join(sorted({*ARCHITECTURES, *common.NAMES}))}.",
            cure="For a network of your own pass FILE.py:FUNCTION and --allow-code.",
        )
    named = ARCHITECTURES[spec]
    classes = _last_size(named, tensors) if num_classes is None else num_classes
    if classes is None or not 2 <= classes <= MAX_CLASSES:
        raise CheckpointMismatch(
            f"The weights do not end in a classification layer: {classes} classes.",
            cure="Give the weights of a whole classifier, or name its network with --architecture.",
        )
    with torch.device("meta"):
        if common.needs_more_than(named.build(classes), tensors):
            raise CheckpointMismatch(
                f"The weights are too few for {spec} with {classes} classes.",
                cure="Name the network they were trained in with --architecture.",
            )
    return Blueprint(named.build(classes), spec, named.input_shape, False)


def _last_size(named: Architecture, tensors: dict[str, Tensor]) -> int | None:
    """Size of the tensor that has the name of the network's last one, else of the last of the file.

    Files may hold tensors in any order, and others beside the network's; names keep the order of the layers.
    """
    with torch.device("meta"):
        last = list(named.build(2).state_dict())[-1]
    shaped = [name for name, tensor in tensors.items() if tensor.dim() >= 1]
    whole = [name for name in shaped if f".{name}".endswith(f".{last}")]
    by_layer = sorted(shaped, key=lambda name: [(part.isdigit(), part.zfill(9)) for part in re.split(r"(\d+)", name)])
    names = whole or by_layer[-1:]
    return tensors[names[0]].shape[0] if names else None


def _from_file(spec: str, *, allow_code: bool) -> nn.Module:
    file, _, function = spec.rpartition(":")
    if not function or not file.endswith(".py"):
        raise SettingsError(
            f"--architecture {spec} is not of the form FILE.py:FUNCTION.",
            cure="Write it like --architecture net.py:build.",
        )
    path = Path(file)
    if not path.is_file():
        raise SettingsError(f"There is no architecture file {path}.", cure="Check the path.")
    if not allow_code:
        raise CodeExecutionRefused(
            f"The architecture {spec} is Python code, which would run.",
            cure="Read it, and pass --allow-code (allow_code=True) if you trust it.",
        )
    module_spec = importlib.util.spec_from_file_location(f"_user_architecture_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise SettingsError(
            f"{path} cannot be imported as Python.", cure="Give a file of Python code, like net.py:build."
        )
    code = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = code  # dataclasses and pickling inside the file look it up
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout carries the answer, possibly as JSON
            module_spec.loader.exec_module(code)
            network = getattr(code, function)()
    except (Exception, SystemExit) as error:  # whatever the user's own code raises is theirs to read
        raise ModelError(
            f"{spec} failed: {type(error).__name__}: {error}",
            cure="Correct that function: it is called without arguments.",
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"{spec} returned a {type(network).__name__}, a torch.nn.Module is needed.",
            cure="Return the network from that function.",
        )
    return network
