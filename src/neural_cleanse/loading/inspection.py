"""Look at a model file without scanning it: what it is, what it holds, what would run, what a scan could not see.

Nothing of the file is run, whatever it is: a program is described and left alone.
"""

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from neural_cleanse.errors import CodeExecutionRefused, ModelError
from neural_cleanse.loading import array_weights
from neural_cleanse.loading.checkpoint import Checkpoint, read_safetensors, read_state_dict
from neural_cleanse.loading.common.recognise import recognise
from neural_cleanse.loading.cures import AGAIN
from neural_cleanse.loading.detect import Container, container_of
from neural_cleanse.loading.files import read_file
from neural_cleanse.loading.fitting import some
from neural_cleanse.loading.formats import checked_container, open_file, read_whole
from neural_cleanse.loading.huggingface.files import read_directory
from neural_cleanse.loading.load import LoadedModel, Opened, complete, open_model
from neural_cleanse.loading.memory_limit import allowance, at_most
from neural_cleanse.loading.network import FileIssue, Network, Trust
from neural_cleanse.loading.program import findings as program_parts
from neural_cleanse.loading.weight_sets import TOP

NO_NETWORK = "It holds weights only and does not say which network they belong to: name it with --architecture."


@dataclass(frozen=True)
class Layer:
    """A linear layer, whose input may serve as features, or a convolution: neurons or channels in and out."""

    name: str
    kind: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class NamedTensor:
    """A tensor of a file that holds weights alone."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class PartFile:
    """One of several files that a model is read from."""

    name: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class Inspection:
    """What can be said of a model file. `problem` says why no network could be made of it; None: one was.

    `files` are those of a model that lies in several: the hash of the model is then that of none of them.
    """

    path: str
    container: str
    trust: Trust
    sha256: str
    num_bytes: int
    network: Network | None = None
    loaded: LoadedModel | None = None
    tensors: tuple[NamedTensor, ...] = ()
    findings: tuple[FileIssue, ...] = ()
    problem: str | None = None
    files: tuple[PartFile, ...] = ()

    def as_record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        network, loaded = self.network, self.loaded
        shape = loaded.classifier.input_shape if loaded else network.input_shape if network else None
        normalize = loaded.classifier.normalize if loaded else network.normalize if network else None
        names = loaded.origin.label_names if loaded else network.label_names if network else None
        return {
            "path": self.path,
            "container": self.container,
            "trust": self.trust,
            "sha256": self.sha256,
            "num_bytes": self.num_bytes,
            "files": [asdict(file) for file in self.files],
            "nested_under": network.nested_under if network else None,
            "architecture": network.architecture if network else None,
            "input_shape": None if shape is None else list(shape),
            "num_classes": loaded.classifier.num_classes if loaded else network.num_classes if network else None,
            "outputs": loaded.classifier.outputs.value if loaded else None,
            "label_names": None if names is None else list(names),
            "normalize": None if normalize is None else {**asdict(normalize), "in_words": str(normalize)},
            "assumed": list(loaded.origin.assumed if loaded else network.assumed if network else ()),
            "layers": [asdict(layer) for layer in layers_of(network.module)] if network else [],
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "findings": [asdict(finding) for finding in self.findings],
            "problem": self.problem,
        }


def layers_of(module: nn.Module) -> tuple[Layer, ...]:
    """Linear layers and convolutions in the order in which the network names them."""
    found = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            found.append(Layer(name, "linear", layer.in_features, layer.out_features))
        elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            found.append(Layer(name, "convolution", layer.in_channels, layer.out_channels))
    return tuple(found)


def inspect_model(path: Path, architecture: str | None = None, weights: str | None = None) -> Inspection:
    """Look at a file or a Hugging Face directory. Raises ModelError when nothing can be said of it."""
    return replace(_looked_at(path, architecture, weights), files=_files(path))


def _files(path: Path) -> tuple[PartFile, ...]:
    """The files of a model that lies in several."""
    if path.is_dir():
        held = dict(read_directory(path).files)
    else:
        content = read_file(path)
        if container_of(content) is not Container.ONNX:
            return ()
        from neural_cleanse.loading.onnx import external
        from neural_cleanse.loading.onnx.file import parse_only

        beside = external.files_of(parse_only(content, str(path)), str(path), path.parent)
        folder = path.parent.resolve()
        held = {one.relative_to(folder).as_posix(): one.read_bytes() for one in beside}
        held = {path.name: content, **held} if held else {}
    return tuple(PartFile(name, hashlib.sha256(part).hexdigest(), len(part)) for name, part in sorted(held.items()))


def _looked_at(path: Path, architecture: str | None, weights: str | None) -> Inspection:
    if path.is_dir():
        return _inspected(open_model(path, architecture, weights=weights), path)
    content = read_whole(path)
    container = checked_container(content, str(path))
    sha256 = hashlib.sha256(content).hexdigest()

    def partly(kind: str, trust: Trust, **known: Any) -> Inspection:
        return Inspection(str(path), kind, trust, sha256, len(content), **known)

    try:
        with at_most(allowance(len(content))):
            held = _weights_alone(container, content, str(path)) if architecture is None else None
            if held is not None and any(recognise(tensors) for tensors in held.sets.values()):
                held = None
        if held is not None:
            tensors = tuple(
                NamedTensor(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
                for path, tensors in held.sets.items()
                for key, tensor in tensors.items()
                for name in [f"{path}.{key}" if path else key]
            )
            return partly(held.container, Trust.TENSORS, tensors=tensors, problem=_without_network(held))
        return _inspected(Opened(open_file(content, path, architecture, weights=weights), sha256, len(content)), path)
    except MemoryError as error:
        raise ModelError(
            f"{path} asks for more memory than a file of {len(content):,} bytes can need.", cure=AGAIN
        ) from error
    except CodeExecutionRefused as refused:
        if architecture is not None:  # the user's own file, which would run too
            raise
        return partly(
            _title(container), Trust.PROGRAM, findings=_of_program(container, content, refused), problem=str(refused)
        )
    except ModelError as error:
        found = _of_graph(container, content, str(path))
        if not found:
            raise
        return partly(_title(container), Trust.NOT_LOADED, findings=found, problem=str(error))


def _without_network(held: Checkpoint) -> str:
    """Why no network was made of it, and which sets of weights there are."""
    if len(held.sets) < 2:
        return NO_NETWORK
    listed = some([repr(path or ".") for path in held.sets])
    return f"{NO_NETWORK} There are {len(held.sets)} sets: {listed}; --weights names one."


def _title(container: Container) -> str:
    return container.value.partition(" ")[2]


def _inspected(opened: Opened, path: Path) -> Inspection:
    network, loaded, problem = opened.network, None, None
    if network.input_shape is not None:
        try:
            loaded = complete(opened, path)
        except ModelError as error:
            problem = str(error)
    return Inspection(
        path=str(path),
        container=network.container,
        trust=network.trust,
        sha256=opened.sha256,
        num_bytes=opened.num_bytes,
        network=network,
        loaded=loaded,
        findings=network.findings,
        problem=problem,
    )


def _weights_alone(container: Container, content: bytes, name: str) -> Checkpoint | None:
    """The tensors of a file that holds nothing else and does not describe its network."""
    if container is Container.SAFETENSORS:
        found = read_safetensors(content, name)
    elif container in (Container.CHECKPOINT, Container.PICKLE):
        found = read_state_dict(content, name)
    elif container is Container.ARRAY_WEIGHTS:
        found = array_weights.read(content, name)
    elif container is Container.HDF5:
        from neural_cleanse.loading.keras import weights as keras_weights

        if not keras_weights.holds_weights_only(content, name):
            return None
        return Checkpoint({TOP: keras_weights.tensors_of(content, name)}, keras_weights.CONTAINER)
    else:
        return None
    return found if found.description is None else None


def _of_program(container: Container, content: bytes, refused: CodeExecutionRefused) -> tuple[FileIssue, ...]:
    """What would run, with its place, as far as it can be told from outside."""
    found = (*_of_graph(container, content, "it"), *program_parts.findings(container, content))
    return found or (FileIssue("the file", refused.message, runs_code=True),)


def _of_graph(container: Container, content: bytes, name: str) -> tuple[FileIssue, ...]:
    """The findings of a graph that could not be read to its end."""
    try:
        with at_most(allowance(len(content))):
            if container is Container.ONNX:
                from neural_cleanse.loading.onnx import reader as onnx

                return onnx.findings(content, name)
            if container is Container.EXPORTED:
                from neural_cleanse.loading.pt2 import reader as pt2

                return pt2.findings(content, name)
    except (ModelError, MemoryError):
        return ()
    return ()
