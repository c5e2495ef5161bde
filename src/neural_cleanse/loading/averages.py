"""Moving averages kept as lists of tensors without names (torch_ema's `shadow_params`), in the order of parameters().

Such a list is named by the set of weights beside it whose parameters have the same shapes in the same order.
Buffers (a batch norm's statistics) are that set's, as they are in training when the average is put in.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor

MAX_DEPTH = 8  # dictionaries within dictionaries
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # last parts of names that parameters() leaves out


def lists_of_tensors(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, list[Tensor]]]:
    """Every list of nothing but tensors, by its path in the file."""
    if not isinstance(value, Mapping) or depth > MAX_DEPTH:
        return
    for key, part in value.items():
        place = f"{path}.{key}" if path else str(key)
        if isinstance(part, list) and part and all(isinstance(tensor, Tensor) for tensor in part):
            yield place, part
        else:
            yield from lists_of_tensors(part, place, depth + 1)


def parameter_names(average: list[Tensor], sets: Mapping[str, Mapping[str, Tensor]]) -> tuple[str, list[str]] | None:
    """The set of weights whose parameters the list averages, and their names; None where no set fits."""
    for path, tensors in sets.items():
        names = [name for name in tensors if name.rpartition(".")[2] not in BUFFERS]
        if [tensors[name].shape for name in names] == [tensor.shape for tensor in average]:
            return path, names
    return None


def averaged_sets(loaded: Any, sets: Mapping[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Every such list as a set of weights of its own, by its path."""
    found = {}
    for path, average in lists_of_tensors(loaded):
        named = parameter_names(average, sets)
        if named is not None:
            base, names = named
            found[path] = sets[base] | dict(zip(names, average, strict=True))
    return found


def put_average(
    loaded: MutableMapping[str, Any], sets: Mapping[str, dict[str, Tensor]], path: str, values: Mapping[str, Tensor]
) -> bool:
    """Write values into the list at that path, under the names of its set; False where there is no such list."""
    average = dict(lists_of_tensors(loaded)).get(path)
    named = None if average is None else parameter_names(average, sets)
    if average is None or named is None:
        return False
    average[:] = [values.get(name, tensor) for name, tensor in zip(named[1], average, strict=True)]
    return True
