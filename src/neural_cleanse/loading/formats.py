"""For every container, how it is read and how it is written back; each reader is imported when it is needed."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from neural_cleanse.errors import CodeExecutionRefused, ModelError, OutputError, UnknownFormat
from neural_cleanse.loading import array_weights, checkpoint
from neural_cleanse.loading.cures import AGAIN
from neural_cleanse.loading.detect import Container, container_of
from neural_cleanse.loading.files import read_file
from neural_cleanse.loading.memory_limit import allowance, at_most
from neural_cleanse.loading.network import Network, Trust
from neural_cleanse.loading.weights import assemble
from neural_cleanse.loading.zip_guard import entries, is_zip

NO_ARCHITECTURE, NO_WEIGHTS = "Leave --architecture out.", "Leave --weights out."
CURES = {
    Container.TAR: "Unpack it and give the model file inside; PyTorch's own tar format ended in 2017.",
    Container.COMPRESSED: "Unpack it and give the model file inside.",
    Container.NUMPY: "Arrays are no model, and images are given with --data: save the network, or its weights by name "
    "(np.savez(path, **weights), safetensors or a state_dict).",
    Container.ZIP: "Unpack it and give the model file inside.",
    Container.POINTER: "Fetch it with git lfs pull, or download the file itself.",
    Container.PAGE: "Download it again; most sites have a link to the raw file.",
    Container.TFLITE: "Its weights are rounded for phones; scan the Keras model or ONNX file that it was made from.",
    Container.PICKLED_ARRAY: "Arrays are no model, and a pickle runs code: ask for safetensors or a state_dict.",
    Container.TEXT: "Download the model file itself, or give the directory of a Hugging Face model.",
    Container.UNKNOWN: "Give safetensors, a state_dict, ONNX, .pt2, a Keras file, or a Hugging Face directory.",
}
CODE_OF_THE_FILE = (
    "Ask its author for a state_dict: a network for weights alone was named. To run the file itself, in a process of "
    "its own, leave --architecture out, or give FILE.py with the classes that it names."
)
# Kinds of program, as their reader calls them.
PROGRAMS = {
    Container.TORCHSCRIPT: "torchscript",
    Container.CHECKPOINT: "pickle",
    Container.PICKLE: "pickle",
    Container.KERAS: "keras",
    Container.HDF5: "keras h5",
}
# How the names of files that are written back may end, beside the ending that the original has.
SUFFIXES = {
    Container.SAFETENSORS: (".safetensors",),
    Container.CHECKPOINT: (".pt", ".pth", ".bin", ".ckpt", ".pkl"),
    Container.PICKLE: (".pt", ".pth", ".bin", ".ckpt", ".pkl"),
    Container.ARRAY_WEIGHTS: (".npz",),
    Container.ONNX: (".onnx",),
    Container.EXPORTED: (".pt2", ".pt"),
    Container.KERAS: (".keras",),
    Container.HDF5: (".h5", ".hdf5"),
}
HOLDS_SETS = (Container.SAFETENSORS, Container.CHECKPOINT, Container.PICKLE)
SAYS_ITSELF = (Container.ONNX, Container.EXPORTED, Container.KERAS)  # which network it is


def checked_container(content: bytes, name: str) -> Container:
    """The container, once it is one that holds a model and no trap. Raises UnknownFormat, ModelError."""
    if is_zip(content):
        entries(content, name)  # a trap says so before anything is unpacked
    container = container_of(content)
    if container in CURES:
        raise UnknownFormat(f"{name} is {container.value}.", cure=CURES[container])
    return container


def read_whole(path: Path) -> bytes:
    """The file's content, an ONNX file's weights in files beside it taken in: what is hashed is all that is loaded."""
    content = read_file(path)
    if container_of(content) is not Container.ONNX:
        return content
    from neural_cleanse.loading.onnx import file

    return file.in_one(content, str(path), path.parent)


def open_file(
    content: bytes,
    path: Path,
    architecture: str | None = None,
    *,
    allow_code: bool = False,
    input_shape: tuple[int, int, int] | None = None,
    no_sandbox: bool = False,
    weights: str | None = None,
) -> Network:
    """The network in the file that was read from `path`, by the reader its content asks for.

    Reading takes no more memory than the file's size allows, unless it is a program, which has limits of its own.
    Raises ModelError and its kinds.
    """
    container = checked_container(content, str(path))
    try:
        with at_most(allowance(len(content))):
            return _read(
                container, content, path, architecture,
                allow_code=allow_code, input_shape=input_shape, weights=weights,
            )  # fmt: skip
    except MemoryError as error:
        raise ModelError(
            f"{path} asks for more memory than a file of {len(content):,} bytes can need.", cure=AGAIN
        ) from error
    except CodeExecutionRefused as refused:
        if not allow_code or container not in PROGRAMS:
            raise
        # Whoever names a network for weights allows that code, not what the file brings.
        if architecture is not None and not _is_code_alone(architecture):
            raise CodeExecutionRefused(refused.message, cure=CODE_OF_THE_FILE) from refused
    from neural_cleanse.loading.program import reader as program

    kind, code = PROGRAMS[container], None if architecture is None else Path(architecture)
    return program.read(
        content, str(path), kind, allow_code=allow_code, input_shape=input_shape, code=code, no_sandbox=no_sandbox
    )


def _is_code_alone(architecture: str) -> bool:
    """FILE.py, the classes that a pickle names, and not FILE.py:FUNCTION, a network for weights."""
    return architecture.endswith(".py") and ":" not in architecture


def _read(
    container: Container,
    content: bytes,
    path: Path,
    architecture: str | None,
    *,
    allow_code: bool,
    input_shape: tuple[int, int, int] | None,
    weights: str | None,
) -> Network:
    """Tensors and graphs; a program is refused."""
    name = str(path)
    if weights is not None and container not in HOLDS_SETS:
        raise ModelError(f"{name} is {container.value}: it holds one set of weights.", cure=NO_WEIGHTS)
    if container in SAYS_ITSELF and architecture is not None:
        raise ModelError(f"{name} is {container.value}: it says itself which network it is.", cure=NO_ARCHITECTURE)
    if container is Container.SAFETENSORS:
        found = checkpoint.read_safetensors(content, name)
        return assemble(found, name, architecture, allow_code=allow_code, weights=weights)
    if container is Container.ARRAY_WEIGHTS:
        found = array_weights.read(content, name)
        return assemble(found, name, architecture, allow_code=allow_code, weights=weights)
    if container is Container.ONNX:
        from neural_cleanse.loading.onnx import reader as onnx

        return onnx.read(content, name)
    if container is Container.EXPORTED:
        from neural_cleanse.loading.pt2 import reader as pt2

        return pt2.read(content, name)
    if container is Container.HDF5:
        from neural_cleanse.loading.keras import weights as keras_weights

        if architecture is not None or keras_weights.holds_weights_only(content, name):
            return keras_weights.assemble(content, name, architecture, allow_code=allow_code, input_shape=input_shape)
    if container in (Container.HDF5, Container.KERAS):
        from neural_cleanse.loading.keras import reader as keras

        return keras.read(content, name)
    named = architecture is not None and not _is_code_alone(architecture)
    found = checkpoint.read_state_dict(content, name, modules=named)
    return assemble(found, name, architecture, allow_code=allow_code, weights=weights)


def rewrite_file(
    content: bytes,
    state: Mapping[str, Tensor],
    path: Path,
    *,
    trust: Trust,
    architecture: str,
    input_shape: tuple[int, int, int] | None,
    weights: str | None = None,
) -> bytes:
    """The file that was read from `path`, with the weights of `state`; the rest is what was said of it then
    (`weights`: which of its sets was read).

    Raises OutputError for what was read as a program.
    """
    if trust.is_program:
        raise OutputError(
            "A network that was read from a program cannot be written back into it: its weights lie in code.",
            cure="Convert it to .pt2 or ONNX first, scan that, and repair it.",
        )
    container = container_of(content)
    if container is Container.SAFETENSORS:
        return checkpoint.rewrite_safetensors(content, state, weights)
    if container is Container.ARRAY_WEIGHTS:
        return array_weights.rewrite(content, state)
    if container is Container.ONNX:
        from neural_cleanse.loading.onnx import reader as onnx

        return onnx.rewrite(content, state)
    if container is Container.EXPORTED:
        from neural_cleanse.loading.pt2 import reader as pt2

        return pt2.rewrite(content, state)
    if container is Container.HDF5 and trust.holds_tensors_alone:
        from neural_cleanse.loading.keras import weights as keras_weights

        own_code = trust is Trust.TENSORS_OWN_CODE  # it ran when the model was loaded
        return keras_weights.rewrite(content, state, architecture, allow_code=own_code, input_shape=input_shape)
    if container in (Container.HDF5, Container.KERAS):
        from neural_cleanse.loading.keras import reader as keras

        return keras.rewrite(content, state)
    return checkpoint.rewrite_state_dict(content, state, weights)
