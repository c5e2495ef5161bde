"""Where the weights of each Keras layer lie in the HDF5 file: the array of every (layer, weight)."""

import re
from collections.abc import Iterator

from neural_cleanse.errors import CheckpointMismatch
from neural_cleanse.loading.cures import OTHER_KERAS
from neural_cleanse.loading.keras.config import Layer, Model
from neural_cleanse.loading.keras.hdf5 import Hdf5
from neural_cleanse.loading.keras.spec import ATTENTION_PARTS, variables
from neural_cleanse.text import quoted

Place = tuple[tuple[str, ...], str]  # the layer's name, after those of the models it is in, and the weight's
OLD_CONTAINER = "_layer_checkpoint_dependencies"  # as tf.keras 2.12 and 2.13 called what is now `layers`


def by_layer_name(model: Model, file: Hdf5, root: str) -> dict[Place, str]:
    """The layout of `model.save("x.h5")`: a group a layer, whose weights stand in order in `weight_names`.

    A model inside the model is one group: first all that training changes, then the rest.
    """
    places: dict[Place, str] = {}
    for layer in model.layers:
        wanted = [place for part in _ordered(layer, ()) for place in part]
        if not wanted:
            continue
        group = f"{root}/{layer.name}"
        names = file.names("weight_names", group)
        if len(names) != len(wanted):
            raise CheckpointMismatch(
                f"{file.name} holds {len(names)} weights of the layer {quoted(layer.name)}, it needs {len(wanted)}.",
                cure=OTHER_KERAS,
            )
        places |= {place: f"{group}/{name}" for place, name in zip(wanted, names, strict=True)}
    return places


def _ordered(layer: Layer, prefix: tuple[str, ...]) -> tuple[list[Place], list[Place]]:
    """The weights of a layer in the order of its `weights`: those that training changes, and the others."""
    path = (*prefix, layer.name)
    if layer.model is None:
        changing, fixed = ([(path, name) for name in names] for names in variables(layer.kind, layer.config))
    else:
        parts = [_ordered(child, path) for child in layer.model.layers]
        if not layer.trainable:
            return [], [place for part in parts for places in part for place in places]
        changing, fixed = ([place for part in parts for place in part[index]] for index in (0, 1))
    return (changing, fixed) if layer.trainable else ([], [*changing, *fixed])


def by_kind_and_number(model: Model, file: Hdf5) -> dict[Place, str]:
    """The layout of .keras archives and .weights.h5: groups named by class and counted, weights by number."""
    roots = {name.partition("\\")[0] for name in file.children("")}  # backslashes: Keras 2.15 on Windows
    container = OLD_CONTAINER if OLD_CONTAINER in roots else "layers"
    places: dict[Place, str] = {}
    for path, layer, group in _groups(model, container, (), ""):
        names = [name for part in variables(layer.kind, layer.config) for name in part]
        for inner, some in _inside(file, layer, group, names):
            held = len(file.children(f"{inner}/vars")) if some and file.has(f"{inner}/vars") else 0
            if held != len(some):
                raise CheckpointMismatch(
                    f"{file.name} holds {held} weights of the layer {quoted(layer.name)}, it needs {len(some)}.",
                    cure=OTHER_KERAS,
                )
            places |= {(path, name): f"{inner}/vars/{number}" for number, name in enumerate(some)}
    return places


def _inside(file: Hdf5, layer: Layer, group: str, names: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The groups of a layer's weights: its own, or those of the layers that it is made of (Keras 2: `_query_dense`)."""
    if layer.kind != "MultiHeadAttention":
        yield group, names
        return
    for part in ATTENTION_PARTS:
        older = f"{group}/_{part}_dense"
        inner = older if file.has(older) else f"{group}/{part}_dense"
        yield inner, [name for name in names if name.startswith(f"{part}_")]


def _groups(
    model: Model, container: str, prefix: tuple[str, ...], above: str
) -> Iterator[tuple[tuple[str, ...], Layer, str]]:
    """Every plain layer, with its path of names and its group."""
    seen: dict[str, int] = {}
    for layer in model.layers:
        if model.kind == "Sequential" and layer.kind == "InputLayer":
            continue  # not among the layers that a Sequential counts
        kind = _snake_case(layer.kind)
        number = seen.get(kind, 0)
        seen[kind] = number + 1
        group = f"{above}{container}/{kind}" + (f"_{number}" if number else "")
        path = (*prefix, layer.name)
        if layer.model is None:
            yield path, layer, group
        else:
            yield from _groups(layer.model, container, path, f"{group}/")


def _snake_case(kind: str) -> str:
    """As keras.utils.naming.to_snake_case."""
    parted = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", parted).lower()
