"""load_model: from a file somebody else made to a Classifier, without running what the file brings.

The container is told by its content, never by its name, and the bytes that were looked at are the bytes loaded.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neural_cleanse.classifier import Classifier, Normalize
from neural_cleanse.errors import CheckpointMismatch, ModelError, UnusableOutputs
from neural_cleanse.loading.checkpoint import MAX_CLASSES, MAX_INPUT_VALUES
from neural_cleanse.loading.cures import AGAIN_DIRECTORY
from neural_cleanse.loading.formats import NO_ARCHITECTURE, NO_WEIGHTS, open_file, read_whole
from neural_cleanse.loading.huggingface.files import read_directory
from neural_cleanse.loading.memory_limit import allowance, at_most, physical_memory
from neural_cleanse.loading.network import FileIssue, Network, Trust
from neural_cleanse.probe import probe

PROBE_IMAGES = 8  # noise images of the first forward passes; of a caller's own images as many


@dataclass(frozen=True)
class Origin:
    """Where a classifier came from, for the report and for saving back."""

    path: str
    sha256: str
    num_bytes: int
    container: str
    nested_under: str | None
    trust: Trust
    architecture: str
    input_shape: tuple[int, int, int]
    label_names: tuple[str, ...] | None
    assumed: tuple[str, ...]
    findings: tuple[FileIssue, ...] = ()

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


@dataclass(frozen=True)
class Opened:
    """A network and what it was read from: a file, or the files of a directory that were used."""

    network: Network
    sha256: str
    num_bytes: int


def open_model(
    path: Path,
    architecture: str | None = None,
    *,
    allow_code: bool = False,
    input_shape: tuple[int, int, int] | None = None,
    no_sandbox: bool = False,
    weights: str | None = None,
) -> Opened:
    """Read a file, or a Hugging Face directory. Raises ModelError and its kinds."""
    if not path.is_dir():
        content = read_whole(path)
        network = open_file(
            content,
            path,
            architecture,
            allow_code=allow_code,
            input_shape=input_shape,
            no_sandbox=no_sandbox,
            weights=weights,
        )
        return Opened(network, hashlib.sha256(content).hexdigest(), len(content))
    from neural_cleanse.loading.huggingface import reader as huggingface

    snapshot = read_directory(path)
    if architecture is not None:
        raise ModelError(f"{path} is a {huggingface.CONTAINER}: it names its network itself.", cure=NO_ARCHITECTURE)
    if weights is not None:
        raise ModelError(f"{path} is a {huggingface.CONTAINER}: it holds one set of weights.", cure=NO_WEIGHTS)
    try:
        with at_most(allowance(snapshot.num_bytes)):
            return Opened(huggingface.read(snapshot, str(path)), snapshot.sha256, snapshot.num_bytes)
    except MemoryError as error:
        raise ModelError(
            f"{path} asks for more memory than {snapshot.num_bytes:,} bytes can need.", cure=AGAIN_DIRECTORY
        ) from error


def load_model(
    path: str | Path,
    *,
    architecture: str | None = None,
    allow_code: bool = False,
    normalize: Normalize | None = None,
    input_shape: tuple[int, int, int] | None = None,
    no_sandbox: bool = False,
    weights: str | None = None,
) -> LoadedModel:
    """Load a model file of any container, or a Hugging Face directory.

    `architecture` is a name or FILE.py:FUNCTION (the user's own code, only with `allow_code`), for files that hold
    weights alone; `weights` names one of several sets of them in the file, like "model_ema". `input_shape` (c, h, w)
    serves networks that do not say theirs. `allow_code` also opens programs (TorchScript, pickled modules, Keras with
    code), in bubblewrap; where that does not work they are refused unless `no_sandbox` is given too. Raises ModelError
    and its kinds; without `allow_code` nothing of the file is ever executed.
    """
    path = Path(path)
    opened = open_model(
        path, architecture, allow_code=allow_code, input_shape=input_shape, no_sandbox=no_sandbox, weights=weights
    )
    return complete(opened, path, normalize=normalize, input_shape=input_shape)


def complete(
    opened: Opened,
    path: Path,
    *,
    normalize: Normalize | None = None,
    input_shape: tuple[int, int, int] | None = None,
) -> LoadedModel:
    """What was read, tried on noise, with what the file did not say taken from the arguments. Raises ModelError."""
    network, assumed = opened.network, list(opened.network.assumed)
    shape = network.input_shape or input_shape
    if shape is None:
        raise ModelError(f"Nothing says which images {path} takes.", cure="Give input_shape=(channels, height, width).")
    if network.input_shape is None:
        assumed.append(f"input {shape[0]}x{shape[1]}x{shape[2]}, as the images are")
    if normalize is None and network.normalize is None:
        assumed.append("no normalisation: pixels in [0, 1]")
    normalize = normalize or network.normalize or Normalize()
    classifier = _classifier(network, shape, normalize, str(path))
    names = network.label_names
    origin = Origin(
        path=str(path),
        sha256=opened.sha256,
        num_bytes=opened.num_bytes,
        container=network.container,
        nested_under=network.nested_under,
        trust=network.trust,
        architecture=network.architecture,
        input_shape=shape,
        label_names=names if names is not None and len(names) == classifier.num_classes else None,
        assumed=tuple(assumed),
        findings=network.findings,
    )
    return LoadedModel(classifier, origin)


def _classifier(network: Network, shape: tuple[int, int, int], normalize: Normalize, name: str) -> Classifier:
    """Try the network on noise, within half of this machine's memory, and hold its answers against what it says."""
    channels, height, width = shape
    if min(shape) < 1 or channels * height * width > MAX_INPUT_VALUES:
        raise ModelError(
            f"{name} takes images of {channels}x{height}x{width}: no classifier's.",
            cure=f"Images of up to {MAX_INPUT_VALUES:,} values can be scanned: pass --resize.",
        )
    _refuse_broken(network.module, name)
    noise = torch.rand(PROBE_IMAGES, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with at_most(physical_memory() // 2):
            num_classes, outputs = probe(network.module, noise, normalize)
    except MemoryError as error:
        raise UnusableOutputs(
            f"{name} needs more than half of this machine's memory for {PROBE_IMAGES} images.",
            cure="Scan it on a machine with more memory, or pass --resize with a smaller size.",
        ) from error
    if network.num_classes not in (None, num_classes) and (network.num_classes, num_classes) != (1, 2):
        raise CheckpointMismatch(
            f"{name} says it has {network.num_classes} classes, the network {num_classes}.",
            cure="Do not trust this file: what it says and what it holds differ.",
        )
    if num_classes > MAX_CLASSES:
        raise UnusableOutputs(
            f"{name} has {num_classes:,} classes: at most {MAX_CLASSES:,} can be scanned.",
            cure="Scan the part of the network that tells fewer classes apart.",
        )
    return Classifier(network.module, shape, num_classes, normalize, outputs)


def _refuse_broken(module: nn.Module, name: str) -> None:
    """Raise ModelError when a weight is no number. A graph's constants may be infinite: masks of attention are."""
    learned = {key for key, _ in module.named_parameters()}
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not (torch.isfinite(tensor) if key in learned else ~tensor.isnan()).all():
            raise ModelError(
                f"The weights in {name} hold NaN or Inf, in {key}: the network cannot be scanned.",
                cure="Ask for weights from before the training failed.",
            )
