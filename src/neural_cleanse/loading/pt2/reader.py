"""Reads torch.export archives (.pt2) by their JSON and raw tensor bytes; torch.export.load is never called.

torch.export.load runs code that a file brings: it unpickles sample inputs and weights, evaluates shape expressions and
compiles guards. None of these is needed for the network. The graph's operators are looked up in a table of ours.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import CodeExecutionRefused, ModelError, NeuralCleanseError
from neural_cleanse.loading.checkpoint import MAX_INPUT_VALUES
from neural_cleanse.loading.cures import AGAIN, NOT_FINITE, OTHER_THAN_EXPORTED
from neural_cleanse.loading.network import FileIssue, Network, Trust
from neural_cleanse.loading.pt2.archive import (
    Archive,
    Payload,
    open_archive,
    payloads_of,
    program_of,
    whole,
    with_entries,
)
from neural_cleanse.loading.pt2.findings import findings_in
from neural_cleanse.loading.pt2.graph import Parts, parts_of
from neural_cleanse.loading.pt2.input import hint, takes_bytes, usual_images
from neural_cleanse.loading.pt2.shapes import MAX_VALUES, InPortions, any_batch, check_shapes
from neural_cleanse.loading.pt2.weights import Stored, Weights
from neural_cleanse.text import first_line

CONTAINER = "torch.export archive"


def read(content: bytes, name: str) -> Network:
    """The network of a torch.export archive, for any batch size.

    Weights become float32. Raises UnknownFormat when it is no such archive, CodeExecutionRefused when its weights are
    pickled, ModelError for versions, operators and sizes that are not read.
    """
    try:
        archive, model, program = _opened(content, name)
        payloads = payloads_of(archive, model)
        parts = parts_of(program, _weights(archive, payloads, name), name)
        meta = program["graph_module"]["graph"]["tensor_values"][parts.image]
        parts, sizes, assumed = usual_images(parts, meta, name)
        module, shape, of_sizes = _for_any_batch(parts, sizes, name)
        assumed += of_sizes
        halves = sorted(
            {str(payloads[stored.name].dtype) for stored in parts.held.values()} & {"torch.float16", "torch.bfloat16"}
        )
        assumed += tuple(f"weights in {dtype.removeprefix('torch.')} computed in float32" for dtype in halves)
        return Network(
            module=module,
            container=CONTAINER,
            trust=Trust.GRAPH,
            architecture=f"graph of {len(parts.steps)} operators",
            input_shape=shape,
            normalize=Normalize(scale=255.0) if takes_bytes(meta) else None,
            assumed=assumed,
            findings=findings_in(archive, model, program),
        )
    except (NeuralCleanseError, MemoryError):
        raise
    except Exception as error:  # what damage makes the decoding raise is no one family
        raise _damaged(name, error) from error


def findings(content: bytes, name: str) -> tuple[FileIssue, ...]:
    """What a scan cannot see, and what torch.export.load would run. Raises UnknownFormat and ModelError as `read`."""
    try:
        return findings_in(*_opened(content, name))
    except (NeuralCleanseError, MemoryError):
        raise
    except Exception as error:  # as above
        raise _damaged(name, error) from error


def rewrite(content: bytes, state: Mapping[str, Tensor]) -> bytes:
    """The same archive with the weights of `state`, a state_dict of the module that `read` made of it.

    Kinds of number and everything else stay, byte for byte. Raises KeyError when a weight is missing in `state`.
    """
    archive, model, program = _opened(content, CONTAINER)
    payloads = payloads_of(archive, model)
    parts = parts_of(program, _weights(archive, payloads, CONTAINER), CONTAINER)
    prefix = "" if all(key in state for key in parts.held) else "network."  # of InPortions
    storages: dict[str, bytearray] = {}
    with torch.no_grad():
        for key, stored in parts.held.items():
            payload = payloads[stored.name]
            storage = storages.setdefault(payload.entry, bytearray(archive.read(payload.entry)))
            payload.of(storage).permute(stored.dims).copy_(state[prefix + key])
    return with_entries(archive, {entry: bytes(storage) for entry, storage in storages.items()})


def _opened(content: bytes, name: str) -> tuple[Archive, str, dict[str, Any]]:
    archive = open_archive(content, name)
    return archive, *program_of(archive, name)


def _damaged(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"{name} is damaged: its graph cannot be decoded ({type(error).__name__}: {first_line(error)}).", cure=AGAIN
    )


def _weights(archive: Archive, payloads: Mapping[str, Payload], name: str) -> Weights:
    tensors = _Tensors(archive, payloads, name)
    return Weights(tensors, tensors.rank)


class _Tensors:
    """The file's tensors by name, each read once: floating-point numbers as float32 parameters."""

    def __init__(self, archive: Archive, payloads: Mapping[str, Payload], name: str) -> None:
        self._archive, self._payloads, self._name = archive, payloads, name
        self._storages: dict[str, bytearray] = {}
        self._read: dict[Stored, Tensor] = {}

    def rank(self, tensor_name: str) -> int:
        """How many dimensions it has."""
        return len(self._payloads[tensor_name].sizes)

    def __call__(self, stored: Stored) -> Tensor:
        if stored not in self._read:
            as_it_is = tuple(range(len(stored.dims)))
            if stored.dims == as_it_is:
                tensor = self._of(stored.name)
            else:
                tensor = self(Stored(stored.name, as_it_is)).detach().permute(stored.dims)
            self._read[stored] = nn.Parameter(tensor) if tensor.is_floating_point() else tensor
        return self._read[stored]

    def _of(self, tensor_name: str) -> Tensor:
        payload = self._payloads[tensor_name]
        if payload.pickled:
            raise CodeExecutionRefused(
                f"{self._name} holds {tensor_name[:80]!r} as a pickle, which runs code. Nothing of it was run.",
                cure="Ask its author for plain tensors: no subclasses of torch.Tensor in the model.",
            )
        if payload.entry not in self._storages:
            self._storages[payload.entry] = bytearray(self._archive.read(payload.entry))
        tensor = payload.of(self._storages[payload.entry])
        if not tensor.is_floating_point():
            return tensor
        if not torch.isfinite(tensor).all():
            raise ModelError(f"The weights in {self._name} hold NaN or Inf, in {tensor_name[:80]!r}.", cure=NOT_FINITE)
        return tensor.float()


def _for_any_batch(
    parts: Parts, sizes: Sequence[Any], name: str
) -> tuple[nn.Module, tuple[int, int, int] | None, tuple[str, ...]]:
    """The module, its input's shape where the file says it, and what was assumed."""
    fixed = whole(sizes[0]["as_int"]) if "as_int" in sizes[0] else None
    found = [hint(size) for size in sizes[1:]]
    if fixed == 0 or any(size == 0 for size in found):
        raise ModelError(f"The network of {name} takes images of no size.", cure=OTHER_THAN_EXPORTED)
    if None in found:
        return parts.network(), None, ()
    shape = (found[0] or 0, found[1] or 0, found[2] or 0)
    if math.prod(shape) > MAX_INPUT_VALUES or math.prod(shape) * (fixed or 1) > MAX_VALUES:
        raise ModelError(
            f"The network of {name} takes {fixed or 1} images of shape {shape}: that is too much.",
            cure=OTHER_THAN_EXPORTED,
        )
    sized = any("as_int" not in size for size in sizes[1:])
    assumed: tuple[str, ...] = (f"input {shape[0]}x{shape[1]}x{shape[2]}, as its example was",) if sized else ()
    if fixed is None:
        check_shapes(parts, shape, 2, name)
        return parts.network(), shape, assumed
    module = any_batch(parts, shape, fixed, name)
    if isinstance(module, InPortions):
        assumed += (f"images in portions of {fixed}: the graph was exported for that many",)
    return module, shape, assumed
