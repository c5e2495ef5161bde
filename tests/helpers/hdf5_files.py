"""Keras files made by hand, with h5py alone."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def described(kind: str, name: str, inputs: Any = None, **config: Any) -> dict[str, Any]:
    """A layer as Keras 2 writes it, in a graph with its `inputs`."""
    layer = {"class_name": kind, "config": {"name": name, **config}, "name": name}
    return layer if inputs is None else {**layer, "inbound_nodes": inputs}


def chain(*layers: dict[str, Any]) -> dict[str, Any]:
    """A Sequential of these layers."""
    return {"class_name": "Sequential", "config": {"name": "s", "layers": list(layers)}}


def by_hand(model: Any, weights: Mapping[str, Sequence[np.ndarray]], version: str = "2.3.1") -> bytes:
    """An .h5 with this description (None: weights alone), and these weights, in order, of each layer."""
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["keras_version"] = version.encode()
        root = file if model is None else file.create_group("model_weights")
        if model is not None:
            file.attrs["model_config"] = json.dumps(model).encode()
        root.attrs["layer_names"] = [name.encode() for name in weights]
        for name, arrays in weights.items():
            group = root.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{number}:0".encode() for number in range(len(arrays))]
            for number, array in enumerate(arrays):
                group[f"{name}/{number}:0"] = array.astype(np.float32)
    return stream.getvalue()


def edited(content: bytes, edit: Callable[[Any], None]) -> bytes:
    """An HDF5 file after `edit` has had it."""
    import h5py

    stream = io.BytesIO(content)
    with h5py.File(stream, "r+") as file:
        edit(file)
    return stream.getvalue()
