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
from neural_cleanse.loading.architecture import build
from neural_cleanse.loading.checkpoint import (
    Checkpoint,
    fit_tensors,
    is_safetensors,
    read_safetensors,
    read_state_dict,
)

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
    checkpoint = _open(content, path)
    described = checkpoint.description
    spec = architecture or (described.architecture if described else None)
    if spec is None:
        raise ModelError(
            f"{path} holds weights only and does not say which network they belong to.",
            cure="Name it with --architecture NAME, or FILE.py:FUNCTION and --allow-code.",
        )
    if architecture is None and ":" in spec:  # the file's own description never names code to run
        raise ModelError(f"{path} names the architecture {spec!r}, which is not one of ours.", cure="Name it yourself.")
    classes = described.num_classes if described and architecture is None else None
    blueprint = build(spec, checkpoint.tensors, classes, allow_code=allow_code)
    fit_tensors(checkpoint, blueprint.module, str(path))

    assumed = []
    shape = (described.input_shape if described else None) or blueprint.input_shape or input_shape
    if shape is None:
        raise ModelError(f"Nothing says which images {path} takes.", cure="Give input_shape=(channels, height, width).")
    if blueprint.input_shape not in (None, shape):
        raise CheckpointMismatch(f"{path} says it takes {shape} images, {spec} takes {blueprint.input_shape}.")
    if described is None and blueprint.input_shape is None:
        assumed.append(f"input {shape[0]}x{shape[1]}x{shape[2]}, as the images are")
    if normalize is None:
        normalize = described.normalize if described else Normalize()
        if described is None:
            assumed.append("no normalisation: pixels in [0, 1]")
    noise = torch.rand(PROBE_IMAGES, *shape, generator=torch.Generator().manual_seed(0))
    num_classes, outputs = probe(blueprint.module, noise, normalize)
    if described is not None and num_classes != described.num_classes:
        raise CheckpointMismatch(f"{path} says it has {described.num_classes} classes, the network {num_classes}.")
    names = described.label_names if described else None
    origin = Origin(
        path=str(path),
        sha256=hashlib.sha256(content).hexdigest(),
        num_bytes=len(content),
        container=checkpoint.container,
        nested_under=checkpoint.nested_under,
        trust="tensors only" + (", in a network from your own code" if blueprint.ran_code else ""),
        architecture=spec,
        label_names=names if names is not None and len(names) == num_classes else None,
        assumed=tuple(assumed),
    )
    return LoadedModel(Classifier(blueprint.module, shape, num_classes, normalize, outputs), origin)


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


def _open(content: bytes, path: Path) -> Checkpoint:
    """Tell the container by its first bytes and read it."""
    reader: Callable[[bytes, str], Checkpoint]
    if is_safetensors(content):
        reader = read_safetensors
    elif content.startswith(MAGIC_OF_STATE_DICT):
        reader = read_state_dict
    else:
        what = "a Keras HDF5 file" if content.startswith(HDF5) else "no container that this version reads"
        raise UnknownFormat(
            f"{path} is {what}.",
            cure="Give safetensors, or a PyTorch state_dict saved with torch.save(model.state_dict(), path).",
        )
    return reader(content, str(path))
