"""Keras' activations, by name and as layers, as torch modules."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from neural_cleanse.errors import CodeExecutionRefused, ModelError
from neural_cleanse.loading.cures import OTHER_KERAS
from neural_cleanse.loading.keras.config import CURE_CODE
from neural_cleanse.loading.keras.modules import Exponential, OldHardSigmoid, PiecewiseReLU
from neural_cleanse.text import quoted

LEAK = 0.2  # of the activation named leaky_relu; the layer LeakyReLU says its own
RELU6 = 6.0

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "celu": nn.CELU,
    "elu": nn.ELU,
    "exponential": Exponential,
    "gelu": nn.GELU,
    "hard_shrink": nn.Hardshrink,
    "hard_sigmoid": nn.Hardsigmoid,
    "hard_silu": nn.Hardswish,
    "hard_swish": nn.Hardswish,
    "hard_tanh": nn.Hardtanh,
    "leaky_relu": lambda: nn.LeakyReLU(LEAK),
    "linear": nn.Identity,
    "log_sigmoid": nn.LogSigmoid,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "soft_shrink": nn.Softshrink,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
    "tanh_shrink": nn.Tanhshrink,
}
SOFTMAX = {"softmax": nn.Softmax, "log_softmax": nn.LogSoftmax}
ACTIVATION_LAYERS = frozenset({"Activation", "ELU", "LeakyReLU", "ReLU", "Softmax", "ThresholdedReLU"})


def activation(value: Any, class_dim: int, *, keras3: bool) -> nn.Module:
    """The activation of a layer: a name, or the description of an activation layer. `class_dim` is softmax's axis.

    Raises CodeExecutionRefused for a function of the author's own, ModelError for one of Keras' that is not read.
    """
    if isinstance(value, Mapping) and value.get("class_name") in ACTIVATION_LAYERS:
        return activation_layer(value["class_name"], value.get("config") or {}, lambda _: class_dim, keras3=keras3)
    if isinstance(value, Mapping):
        name = value.get("config") if isinstance(value.get("config"), str) else value.get("class_name")
        raise CodeExecutionRefused(
            f"The activation {quoted(str(name))} is a function of the model's author, which would run. "
            "Nothing of it was run.",
            cure=CURE_CODE,
        )
    name = "linear" if value is None else str(value)
    if name in SOFTMAX:
        return SOFTMAX[name](class_dim)
    if name == "hard_sigmoid" and not keras3:
        return OldHardSigmoid()
    if name not in ACTIVATIONS:
        raise CodeExecutionRefused(
            f"The activation {quoted(name)} is none of Keras' own: it would be code of the author's.", cure=CURE_CODE
        )
    return ACTIVATIONS[name]()


def activation_layer(kind: str, config: Mapping[str, Any], dim: Callable[[int], int], *, keras3: bool) -> nn.Module:
    """An activation that is a layer of its own; `dim` turns an axis of Keras' into one of ours."""
    if kind == "Activation":
        return activation(config["activation"], dim(-1), keras3=keras3)
    if kind == "Softmax":
        axis = config.get("axis", -1)
        if not isinstance(axis, int):
            raise ModelError(f"A softmax over the axes {axis} is not read; only over one.", cure=OTHER_KERAS)
        return nn.Softmax(dim(axis))
    if kind == "ELU":
        return nn.ELU(_number(config.get("alpha", 1.0)))
    if kind == "LeakyReLU":
        return nn.LeakyReLU(_number(config.get("negative_slope", config.get("alpha", 0.3))))
    if kind == "ThresholdedReLU":
        return nn.Threshold(_number(config.get("theta", 1.0)), 0.0)
    return _relu(config)


def _relu(config: Mapping[str, Any]) -> nn.Module:
    largest = config.get("max_value")
    largest = None if largest is None else _number(largest)
    slope, threshold = (_number(config.get(key) or 0.0) for key in ("negative_slope", "threshold"))
    if slope == threshold == 0 and largest in (None, RELU6):
        return nn.ReLU() if largest is None else nn.ReLU6()
    return PiecewiseReLU(largest, slope, threshold)


def _number(value: Any) -> float:
    """A number, or an array of one as Keras 2 wrote it."""
    if isinstance(value, Mapping):
        value = value["value"] if "value" in value else value["config"]["value"]
    return float(value[0] if isinstance(value, list) else value)
