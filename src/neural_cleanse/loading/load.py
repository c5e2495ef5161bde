"""load_model: from a file somebody else made to a Classifier, without running what the file brings.

The container is told by its content, never by its name, and the bytes that were looked at are the bytes loaded.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.classifier import Classifier, Normalize, probe
from neural_cleanse.errors import CheckpointMismatch, ModelError, UnknownFormat
from neural_cleanse.loading.checkpoint import Checkpoint, is_safetensors, read_safetensors, read_state_dict
from neural_cleanse.loading.network import Network
from neural_cleanse.loading.weights import assemble

PROBE_IMAGES = 8  # noise images of the first forward passes
HDF5 = b"\x89HDF\r\n\x1a\n"
MAGIC_OF_STATE_DICT = (b"PK\x03\x04", b"\x80")  # zip archives and bare pickles: both go through weights_only


@dataclass(frozen=True)
class Origin:
    """Where a classifier came from, for the report and for saving back."""

    path: str
    sha256: str
    num_bytes: int
    container: str
    nested_under: str | None
    trust: str
    architecture: str
    label_names: tuple[str, ...] | None
    assumed: tuple[str, ...]

    def as_record(self) -> dict[str, Any]:
        """Plain values; label names stand with the labels."""
        record = asdict(self)
        del record["label_names"]
        return record


@dataclass(frozen=True)
class LoadedModel:
    """A classifier and where it came from."""

    classifier: Classifier
    origin: Origin


def load_model(
    path: str | Path,
    *,
    architecture: str | None = None,
    allow_code: bool = False,
    normalize: Normalize | None = None,
    input_shape: tuple[int, int, int] | None = None,
) -> LoadedModel:
    """Load safetensors or a `weights_only` state_dict.

    `architecture` is a name or FILE.py:FUNCTION (the user's own code, only with `allow_code`); files that
    neural-cleanse wrote name their own. `input_shape` (c, h, w) serves networks that do not say theirs. Raises
    ModelError and its kinds; nothing of the file is ever executed.
    """
    path = Path(path)
    content = _read(path)
    network = _open(content, str(path), architecture, allow_code=allow_code)
    assumed = list(network.assumed)
    shape = network.input_shape or input_shape
    if shape is None:
        raise ModelError(f"Nothing says which images {path} takes.", cure="Give input_shape=(channels, height, width).")
    if network.input_shape is None:
        assumed.append(f"input {shape[0]}x{shape[1]}x{shape[2]}, as the images are")
    if normalize is None and network.normalize is None:
        assumed.append("no normalisation: pixels in [0, 1]")
    normalize = normalize or network.normalize or Normalize()
    noise = torch.rand(PROBE_IMAGES, *shape, generator=torch.Generator().manual_seed(0))
    num_classes, outputs = probe(network.module, noise, normalize)
    if network.num_classes not in (None, num_classes):
        raise CheckpointMismatch(f"{path} says it has {network.num_classes} classes, the network {num_classes}.")
    names = network.label_names
    origin = Origin(
        path=str(path),
        sha256=hashlib.sha256(content).hexdigest(),
        num_bytes=len(content),
        container=network.container,
        nested_under=network.nested_under,
        trust=network.trust,
        architecture=network.architecture,
        label_names=names if names is not None and len(names) == num_classes else None,
        assumed=tuple(assumed),
    )
    return LoadedModel(Classifier(network.module, shape, num_classes, normalize, outputs), origin)


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise UnknownFormat(f"{path} is a directory, a model file is needed.")
    if path.exists() and not path.is_file():
        raise UnknownFormat(f"{path} is no regular file.")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"There is no model file {path}.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    if not content:
        raise UnknownFormat(f"{path} is empty.")
    return content


def _open(content: bytes, name: str, architecture: str | None, *, allow_code: bool) -> Network:
    """Tell the container by its first bytes and read it."""
    reader: Callable[[bytes, str], Checkpoint]
    if is_safetensors(content):
        reader = read_safetensors
    elif content.startswith(MAGIC_OF_STATE_DICT):
        reader = read_state_dict
    else:
        what = "a Keras HDF5 file" if content.startswith(HDF5) else "no container that this version reads"
        raise UnknownFormat(
            f"{name} is {what}.",
            cure="Give safetensors, or a PyTorch state_dict saved with torch.save(model.state_dict(), path).",
        )
    return assemble(reader(content, name), name, architecture, allow_code=allow_code)
