"""Keras 3's own operations (`keras.ops`) where they stand in a model as layers: said as the layers that do the same.

`keras.applications` models begin with some (preprocess_input), and functional models hold whatever their author called
between layers. They are classes of Keras, not code that a file brings.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MODULES = ("keras.src.ops", "keras.ops")
ACTIVATIONS = {
    "Relu": "relu", "Relu6": "relu6", "Sigmoid": "sigmoid", "Tanh": "tanh", "Silu": "silu", "Elu": "elu",
    "Selu": "selu", "Softplus": "softplus", "Softsign": "softsign", "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu", "Softmax": "softmax",
}  # fmt: skip
POOLS = {"Mean": "GlobalAveragePooling2D", "Max": "GlobalMaxPooling2D"}
ARITHMETIC = ("Add", "Subtract", "Multiply", "TrueDivide", "Divide")
KNOWN = frozenset({*ACTIVATIONS, *POOLS, *ARITHMETIC, "GetItem"})
SETTINGS_OF_THEIR_OWN = frozenset({"name", "dtype"})


def is_operation(raw: Mapping[str, Any]) -> bool:
    """Whether a described layer is one of Keras' own operations, by all that the file says of it.

    HDF5 files name no module; but layers, custom ones too, say whether they are trainable, and operations do not.
    """
    if "module" not in raw and raw.get("class_name") in KNOWN and "trainable" not in raw["config"]:
        return True
    module, registered = str(raw.get("module") or ""), raw.get("registered_name")
    return module.startswith(MODULES) and registered in (None, raw.get("class_name"))


def as_layer(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The operation as a layer of ours where there is one that does the same; else as it is."""
    kind, config = str(raw["class_name"]), raw["config"]
    said = {key for key in config if key not in SETTINGS_OF_THEIR_OWN}
    if kind in ACTIVATIONS and (not said or (said == {"axis"} and config["axis"] == -1)):
        return _named(raw, "Activation", {**config, "activation": ACTIVATIONS[kind]})
    if kind in POOLS and sorted(axis % 4 for axis in _axes(config.get("axis"))) == [1, 2]:
        return _named(raw, POOLS[kind], {"name": config.get("name"), "keepdims": config.get("keepdims", False)})
    if kind in POOLS and _axes(config.get("axis")) == [1]:  # over the tokens of a transformer
        kind = POOLS[kind].replace("2D", "1D")
        return _named(raw, kind, {"name": config.get("name"), "keepdims": config.get("keepdims", False)})
    if kind == "GetItem":
        return _channel(raw)
    if kind in ARITHMETIC:
        return _with_constant(raw)
    return raw


def _named(raw: Mapping[str, Any], kind: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**raw, "class_name": kind, "registered_name": kind, "config": config}


def _axes(axis: Any) -> list[int]:
    return [axis] if isinstance(axis, int) else [int(one) for one in axis or ()]


def _arguments(raw: Mapping[str, Any]) -> Sequence[Any]:
    nodes = raw.get("inbound_nodes") or []
    return nodes[0]["args"] if len(nodes) == 1 and isinstance(nodes[0], Mapping) else ()


def _with_arguments(raw: Mapping[str, Any], arguments: list[Any]) -> Mapping[str, Any]:
    return {**raw, "inbound_nodes": [{**raw["inbound_nodes"][0], "args": arguments}]}


def _channel(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """`images[..., 2]`: the number of the channel becomes a setting."""
    arguments = _arguments(raw)
    if len(arguments) != 2 or not isinstance(arguments[1], list) or len(arguments[1]) != 2:
        return raw
    first, index = arguments[1]
    if not isinstance(first, Mapping) or first.get("class_name") != "__ellipsis__" or type(index) is not int:
        return raw
    return _with_arguments(_named(raw, "GetItem", {**raw["config"], "index": index}), [arguments[0]])


def _with_constant(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sum, difference, product or quotient of a value and an array of the file: a rescaling."""
    arguments = _arguments(raw)
    if len(arguments) != 2 or not isinstance(arguments[1], Mapping) or arguments[1].get("class_name") != "__tensor__":
        return raw
    numbers = _flat(arguments[1]["config"]["value"])
    scale, offset = {
        "Add": ([1.0], numbers),
        "Subtract": ([1.0], [-number for number in numbers]),
        "Multiply": (numbers, [0.0]),
    }.get(str(raw["class_name"]), ([1 / number for number in numbers], [0.0]))
    name = raw["config"].get("name")
    return _with_arguments(_named(raw, "Rescaling", {"name": name, "scale": scale, "offset": offset}), [arguments[0]])


def _flat(value: Any) -> list[float]:
    return [number for part in value for number in _flat(part)] if isinstance(value, list) else [float(value)]
