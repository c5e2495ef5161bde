"""Weights that a file keeps in parts: pruned, weight-normalised and spectrally normalised layers of `torch.nn.utils`.

The names are those of `prune` (weight_orig, weight_mask), `weight_norm` (weight_g, weight_v), `spectral_norm`
(weight_orig, weight_u, weight_v) and `parametrizations` (parametrizations.weight.original0 ...).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from neural_cleanse.errors import OutputError

PLAIN, PRUNED, WEIGHT_NORM, SPECTRAL = "plain", "pruned", "weight-normalised", "spectrally normalised"
_PART = "parametrizations."


@dataclass(frozen=True)
class Stored:
    """How a tensor lies in the file: the kind, and the names of its parts in a fixed order."""

    kind: str
    parts: tuple[str, ...]


def stored_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Stored]:
    """For every tensor that a layer uses, under its plain name, how it is stored."""
    found: dict[str, Stored] = {}
    taken: set[str] = set()
    for name in tensors:
        for plain, stored in _reparametrised(name, tensors):
            found[plain] = stored
            taken.update(stored.parts)
    return {name: Stored(PLAIN, (name,)) for name in tensors if name not in taken} | found


def _reparametrised(name: str, tensors: Mapping[str, Tensor]) -> list[tuple[str, Stored]]:
    """The tensor whose first part is `name`, under its plain name."""
    candidates = []
    if name.endswith("_orig"):
        plain = name.removesuffix("_orig")
        candidates = [
            (plain, Stored(PRUNED, (name, f"{plain}_mask"))),
            (plain, Stored(SPECTRAL, (name, f"{plain}_u", f"{plain}_v"))),
        ]
    elif name.endswith("_g"):
        plain = name.removesuffix("_g")
        candidates = [(plain, Stored(WEIGHT_NORM, (name, f"{plain}_v")))]
    elif _PART in name and name.endswith((".original0", ".original")):
        stem, _, last = name.rpartition(".")
        plain = stem.replace(_PART, "", 1)
        parts = (f"{stem}.original1",) if last == "original0" else (f"{stem}.0._u", f"{stem}.0._v")
        kind = WEIGHT_NORM if last == "original0" else SPECTRAL
        candidates = [(plain, Stored(kind, (name, *parts)))]
    return [(plain, stored) for plain, stored in candidates if all(part in tensors for part in stored.parts)][:1]


def value_of(stored: Stored, tensors: Mapping[str, Tensor]) -> Tensor:
    """The tensor that the layer computes with."""
    parts = [tensors[name] for name in stored.parts]
    if stored.kind == PRUNED:
        return parts[0] * parts[1]
    if stored.kind == WEIGHT_NORM:
        magnitude, direction = parts[0].float(), parts[1].float()
        rows = [axis for axis in range(direction.dim()) if magnitude.dim() <= axis or magnitude.shape[axis] == 1]
        merged: Tensor = direction * (magnitude / torch.linalg.vector_norm(direction, dim=rows, keepdim=True))
        return merged
    if stored.kind == SPECTRAL:
        weight, left, right = (part.float() for part in parts)
        return weight / torch.dot(left, weight.flatten(1) @ right)
    return parts[0]


def parts_of(stored: Stored, value: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts that give `value`, in the file's kinds of number. Raises OutputError where they cannot be told."""
    if stored.kind == SPECTRAL:
        raise OutputError(
            f"{stored.parts[0][:100]} is stored for spectral normalisation and cannot be written back.",
            cure="Remove the parametrisation, save the state_dict again, scan that, and repair it.",
        )
    written = [value]
    if stored.kind == PRUNED:
        written.append((value != 0).to(value.dtype))
    elif stored.kind == WEIGHT_NORM:
        magnitude = tensors[stored.parts[0]]
        rows = [axis for axis in range(value.dim()) if magnitude.dim() <= axis or magnitude.shape[axis] == 1]
        written = [torch.linalg.vector_norm(value, dim=rows, keepdim=True).reshape(magnitude.shape), value]
    return {
        name: part.detach().to("cpu", _written_dtype(tensors[name])).contiguous()
        for name, part in zip(stored.parts, written, strict=True)
    }


def _written_dtype(tensor: Tensor) -> torch.dtype:
    """The file's kind of number; quantised values are written in single precision."""
    return torch.float32 if tensor.is_quantized else tensor.dtype
