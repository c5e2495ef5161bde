"""Write a changed network back into the container it came in, never over the original."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from neural_cleanse.errors import OutputError
from neural_cleanse.loading.checkpoint import rewrite_safetensors, rewrite_state_dict
from neural_cleanse.loading.load import Origin
from neural_cleanse.storage import write_whole

REWRITERS: Mapping[str, Callable[[bytes, Mapping[str, Tensor]], bytes]] = {
    "safetensors": rewrite_safetensors,
    "PyTorch checkpoint": rewrite_state_dict,
}


def save_like(origin: Origin, state: Mapping[str, Tensor], output: Path) -> str:
    """Write `origin`'s file to `output` with the weights of `state`, and return the sha256 of what was written.

    Names, kinds of number, nesting and everything else in the file stay. Raises OutputError when the original has
    changed since it was loaded, when `output` is the original, or when it cannot be written.
    """
    refuse_original(origin, output)
    try:
        content = Path(origin.path).read_bytes()
    except OSError as error:
        raise OutputError(f"{origin.path} cannot be read again: {error.strerror}.") from error
    if hashlib.sha256(content).hexdigest() != origin.sha256:
        raise OutputError(f"{origin.path} has changed since it was loaded.", cure="Scan it again.")
    written = REWRITERS[origin.container](content, state)
    write_whole(output, written)
    return hashlib.sha256(written).hexdigest()


def refuse_original(origin: Origin, output: Path) -> None:
    """Raise OutputError when `output` is the file that was loaded, by whatever name."""
    original = Path(origin.path)
    if output.resolve() == original.resolve() or (output.exists() and output.samefile(original)):
        raise OutputError(f"{output} is the model itself: the original is never overwritten.", cure="Name another.")
