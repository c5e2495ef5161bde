"""The sets of weights in one checkpoint: the model, its moving average, a teacher, a generator beside the classifier.

A verdict covers the weights that were scanned and no others, so a file with several sets is never read silently.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neural_cleanse.errors import CheckpointMismatch, ModelError, SettingsError
from neural_cleanse.loading.averages import MAX_DEPTH, averaged_sets
from neural_cleanse.loading.cures import OTHER_WEIGHTS
from neural_cleanse.loading.fitting import Fit, fits
from neural_cleanse.loading.reparametrised import value_of

MAX_SETS, MAX_SETS_SHOWN = 100, 8
MAX_LISTED = 16  # entries of a list that may hold weights, as in [state_dict, optimizer, epoch]
# Last parts of the names that layers give their tensors.
TENSOR_NAMES = (
    "weight", "bias", "running_mean", "running_var", "weight_orig", "weight_g", "weight_v", "gamma", "beta", "kernel",
)  # fmt: skip
TOP = ""  # the path of a file that is itself a state_dict


def weight_sets(loaded: Any) -> dict[str, dict[str, Tensor]]:
    """Every set of weights by its path in the file ("state_dict", "ema.shadow_params"), other values left out."""
    found = named_sets(loaded)
    return found | averaged_sets(loaded, found)


def named_sets(loaded: Any) -> dict[str, dict[str, Tensor]]:
    """Those that are dictionaries, with a name for each tensor."""
    # Or names that no layer gives, in a dictionary of tensors and nothing else: somebody's own parameters.
    return dict(_walk(loaded, "", _looks_like_weights)) or dict(_walk(loaded, "", _all_tensors))


def _walk(value: Any, path: str, is_set: Any, depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if depth > MAX_DEPTH:
        return
    named = _parts(value)
    if isinstance(value, Mapping) and is_set(named):
        yield path, {key: tensor for key, tensor in named.items() if isinstance(tensor, Tensor)}
    for key, part in named.items():
        yield from _walk(part, f"{path}.{key}" if path else key, is_set, depth + 1)


def _parts(value: Any) -> dict[str, Any]:
    """What lies in a dictionary under its names, or in a short list or tuple under its numbers.

    Names may be numbers or bytes, as those of folds and of Python 2 are, but not a tensor's own.
    """
    if isinstance(value, Mapping):
        named = {key: part for key, part in value.items() if isinstance(key, str)}
        others = {_text(key): part for key, part in value.items() if type(key) in (int, bytes)}
        return {key: part for key, part in others.items() if not isinstance(part, Tensor)} | named
    if isinstance(value, list | tuple) and len(value) <= MAX_LISTED:
        return {str(number): part for number, part in enumerate(value)}
    return {}


def _text(key: int | bytes) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)


def _looks_like_weights(value: Mapping[str, Any]) -> bool:
    shaped = [key for key, tensor in value.items() if isinstance(tensor, Tensor) and tensor.dim() >= 1]
    return any(key.rpartition(".")[2] in TENSOR_NAMES or key.count(".") >= 1 for key in shaped)


def _all_tensors(value: Mapping[str, Any]) -> bool:
    tensors = [part for part in value.values() if isinstance(part, Tensor)]
    return len(tensors) == len(value) and any(tensor.dim() >= 1 for tensor in tensors)


def at_path(loaded: Any, path: str) -> MutableMapping[str, Any]:
    """The dictionary at a path of `weight_sets`, in the loaded checkpoint itself."""
    if path == TOP:
        top: MutableMapping[str, Any] = loaded
        return top
    for key, part in _parts(loaded).items():  # a key may hold a dot itself
        if path == key:
            inner: MutableMapping[str, Any] = part
            return inner
        if path.startswith(f"{key}."):
            try:
                return at_path(part, path[len(key) + 1 :])
            except KeyError:
                continue
    raise KeyError(path)


@dataclass(frozen=True)
class Chosen:
    """One set of weights: its path in the file, how the network lies in it, and what to say of the others."""

    path: str
    fit: Fit
    label: str | None
    notes: tuple[str, ...] = ()


def choose(
    sets: Mapping[str, Mapping[str, Tensor]],
    wanted: str | None,
    expected_for: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    name: str,
) -> Chosen:
    """The set named `wanted`, or the only one that fits the network; `expected_for` gives the network's state_dict.

    Equal sets count as one. Raises ModelError with a list of the sets where several fit, CheckpointMismatch
    where none does.
    """
    if len(sets) > MAX_SETS:
        raise ModelError(
            f"{name} holds {len(sets)} sets of weights: at most {MAX_SETS} are looked through.", cure=OTHER_WEIGHTS
        )
    found: list[tuple[str, Fit]] = []
    faults: dict[str, CheckpointMismatch] = {}
    for path, tensors in sets.items():
        if wanted is not None and not (wanted == path or _starts(wanted, path)):
            continue
        try:
            found += [(path, fit) for fit in fits(tensors, expected_for(tensors), name)]
        except CheckpointMismatch as mismatch:
            faults[path] = mismatch
    named = {_label(path, fit.prefix): (path, fit) for path, fit in found}
    if wanted is not None:
        exact = {label: one for label, one in named.items() if label == wanted}
        at_path = {label: one for label, one in named.items() if one[0] == wanted}
        known = list(named) or list(sets)
        named = exact or at_path or {label: one for label, one in named.items() if _related(label, wanted)}
        if not named and wanted not in sets:
            raise SettingsError(
                f"{name} holds no weights under {wanted[:100]!r}; they lie under {_listed(known)}.",
                cure="Name one of these with --weights.",
            )
    if not named:
        raise max(faults.items(), key=lambda one: len(sets[one[0]]))[1]
    labels = list(named)
    (path, fit), others = named[labels[0]], labels[1:]
    if any(not _same(sets[path], fit, sets[named[other][0]], named[other][1]) for other in others):
        raise ModelError(
            f"{name} holds {len(named)} sets of weights that fit the network: {_listed(labels)}. "
            "A scan covers one of them.",
            cure=f"Scan each: --weights {labels[0][:100]}, then --weights {labels[1][:100]}"
            + (" and so on." if len(labels) > 2 else "."),
        )
    label = labels[0] if len(found) > 1 else path or None
    return Chosen(path, fit, label, (*fit.notes, *_said(sets, path, wanted, others)))


def _said(sets: Mapping[str, Any], path: str, wanted: str | None, same: list[str]) -> list[str]:
    notes = [f"the same weights lie under {_listed(same)}"] if same else []
    others = [other for other in sets if other != path and other not in same]
    if others:
        why = "" if wanted is not None else ", which do not fit the network"
        notes.append(f"weights under {_listed(others)} were not scanned{why}")
    return notes


def _label(path: str, prefix: str) -> str:
    """How a set is named to the user: where it lies, and what its names begin with."""
    return ".".join(part for part in (path, prefix.rstrip(".")) if part) or "."


def _starts(wanted: str, path: str) -> bool:
    return path == TOP or wanted.startswith(f"{path}.")


def _related(label: str, wanted: str) -> bool:
    """Whether one of two names of a set leads to the other."""
    return label.startswith(f"{wanted}.") or wanted.startswith(f"{label}.")


def _listed(paths: list[str]) -> str:
    shown = ", ".join(repr((path or ".")[:100]) for path in paths[:MAX_SETS_SHOWN])
    return shown + (f" and {len(paths) - MAX_SETS_SHOWN} more" if len(paths) > MAX_SETS_SHOWN else "")


def _same(first: Mapping[str, Tensor], fit: Fit, second: Mapping[str, Tensor], other: Fit) -> bool:
    """Both sets give the network the same numbers."""
    if fit.places.keys() != other.places.keys():
        return False
    return all(
        ours.shape == theirs.shape and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
        for key in fit.places
        for ours, theirs in [(value_of(fit.places[key], first), value_of(other.places[key], second))]
    )
