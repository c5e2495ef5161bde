"""Runs inside the sandbox, as a script of its own: loads a program and writes what torch.export makes of it.

    python convert_in_child.py KIND MODEL OUTPUT CHANNELS,HEIGHT,WIDTH|- CODE|-

KIND is torchscript, pickle or keras. Everything here may be subverted by the program that it loads: the parent
trusts nothing but what its own reader accepts of OUTPUT, a torch.export archive.
"""

import importlib
import importlib.util
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

EXAMPLES = 2  # images in the example: 1 would be taken for a constant
Shape = tuple[int, int, int]


def _import(code: Path) -> None:
    """Make the user's own classes known by the file's name and as __main__, where scripts pickle theirs."""
    sys.path.insert(0, str(code.parent))
    spec = importlib.util.spec_from_file_location(code.stem, code)
    if spec is None or spec.loader is None:
        raise ImportError(f"{code} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[code.stem] = module
    spec.loader.exec_module(module)
    for name, value in vars(module).items():
        sys.modules["__main__"].__dict__.setdefault(name, value)


def _example(shape: Shape) -> Tensor:
    return torch.rand(EXAMPLES, *shape, generator=torch.Generator().manual_seed(0))


def _from_torchscript(model: Path, shape: Shape | None) -> Any:
    from torch._export.converter import TS2EPConverter

    return TS2EPConverter(torch.jit.load(str(model), map_location="cpu").eval(), (_example(_needed(shape)),)).convert()


def _from_pickle(model: Path, shape: Shape | None) -> Any:
    try:
        loaded = torch.load(model, map_location="cpu", weights_only=False)
    except (pickle.UnpicklingError, RuntimeError, ValueError):  # not torch's own: joblib, plain pickle
        with model.open("rb") as stream:
            loaded = pickle.load(stream)
    candidates = [loaded, *(loaded.values() if isinstance(loaded, dict) else ())]
    modules = [module for module in candidates if isinstance(module, nn.Module)]
    if not modules:
        raise TypeError(f"the file holds a {type(loaded).__name__} and no torch.nn.Module")
    network = modules[0].module if isinstance(modules[0], nn.DataParallel) else modules[0]
    return _exported(network.float().eval(), _needed(shape))


def _from_keras(model: Path, shape: Shape | None) -> Any:
    keras: Any = importlib.import_module("keras")
    network = keras.saving.load_model(str(model), compile=False, safe_mode=False)
    network.trainable = False
    taken = shape or tuple(network.input_shape[at] for at in (3, 1, 2))

    class ChannelsFirst(nn.Module):
        """Our images into a network that takes n h w c."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> Any:
            return self.network(images.permute(0, 2, 3, 1), training=False)

    return _exported(ChannelsFirst().eval(), _needed(taken))


def _exported(network: nn.Module, shape: Shape) -> Any:
    dynamic = ({0: torch.export.Dim.AUTO},)
    return torch.export.export(network, (_example(shape),), dynamic_shapes=dynamic).run_decompositions({})


def _needed(shape: Any) -> Shape:
    if shape is None or None in shape:
        raise ValueError("nothing says which images it takes")
    channels, height, width = shape
    return channels, height, width


READERS: dict[str, Callable[[Path, Shape | None], Any]] = {
    "torchscript": _from_torchscript,
    "pickle": _from_pickle,
    "keras": _from_keras,
}


def main(kind: str, model: str, output: str, shape: str, code: str) -> None:
    """Convert one file. What fails is told in the last line of stderr."""
    warnings.simplefilter("ignore")
    try:
        if code != "-":
            _import(Path(code))
        sizes = None if shape == "-" else tuple(int(size) for size in shape.split(","))
        torch.export.save(READERS[kind](Path(model), None if sizes is None else _needed(sizes)), output)
    except Exception as error:  # whatever the program raises is for its user to read
        first = next(iter(str(error).splitlines()), "")
        sys.stderr.write(f"\n{type(error).__name__}: {first}\n")
        sys.stderr.flush()
        os._exit(1)  # no clean-up of the program's own


if __name__ == "__main__":
    main(*sys.argv[1:])
