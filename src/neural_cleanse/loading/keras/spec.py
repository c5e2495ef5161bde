"""What a Keras layer is made from and what it is made into, before any kind of layer is known.

Modules are made on the meta device, so that nothing is allocated before the file's arrays have been seen to fit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import OTHER_KERAS
from neural_cleanse.loading.keras.activations import activation
from neural_cleanse.text import quoted


@dataclass(frozen=True)
class WeightLayout:
    """A weight of Keras' as torch wants it, and the way back (`shape` is Keras')."""

    to_torch: Callable[[Tensor], Tensor]
    to_keras: Callable[[Tensor, tuple[int, ...]], Tensor]


AS_IT_IS = WeightLayout(lambda values: values, lambda values, shape: values.reshape(shape))
DENSE = WeightLayout(lambda kernel: kernel.T, lambda weight, shape: weight.T)
CONVOLUTION = WeightLayout(lambda kernel: kernel.permute(3, 2, 0, 1), lambda weight, shape: weight.permute(2, 3, 1, 0))
# Keras: height width channels multiplier. torch: one group a channel, its outputs beside each other.
DEPTHWISE = WeightLayout(
    lambda kernel: kernel.permute(2, 3, 0, 1).flatten(0, 1).unsqueeze(1),
    lambda weight, shape: weight.reshape(shape[2], shape[3], shape[0], shape[1]).permute(2, 3, 0, 1),
)
FLAT = WeightLayout(lambda values: values.flatten(), lambda values, shape: values.reshape(shape))
LAST_AXIS_FIRST = WeightLayout(lambda values: values.movedim(-1, 0), lambda values, shape: values.movedim(0, -1))


@dataclass(frozen=True)
class LayerSpec:
    """One module of a layer, still empty: which weight of Keras' goes into each of its tensors, and how.

    `constants` are tensors of the module that stand in the layer's settings.
    """

    suffix: str
    module: nn.Module
    weights: Mapping[str, tuple[str, WeightLayout]] = field(default_factory=dict)
    constants: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerInput:
    """What a layer is built from: its settings, its weights' shapes, and the values that go in (without memory)."""

    kind: str
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    inputs: tuple[Tensor, ...]
    channels_last: bool
    keras3: bool

    @property
    def rank(self) -> int:
        return self.inputs[0].dim()

    def pair(self, key: str, default: Any = 1) -> tuple[int, int]:
        value = self.config.get(key, default)
        value = default if value is None else value
        rows, columns = (value, value) if isinstance(value, int) else value
        if not isinstance(rows, int) or not isinstance(columns, int) or min(rows, columns) < 1:
            raise ValueError(f"{key} {rows} x {columns}")
        return rows, columns

    def dim(self, axis: int) -> int:
        """An axis of Keras' as the same axis here."""
        positive = axis + self.rank if axis < 0 else axis
        if self.rank != 4 or not self.channels_last:
            return positive
        return (0, 2, 3, 1)[positive]

    def same(self) -> bool:
        padding = self.config.get("padding", "valid")
        if padding not in ("same", "valid"):
            raise ModelError(f"The padding {quoted(str(padding))} is not read.", cure=OTHER_KERAS)
        return bool(padding == "same")

    def activation(self) -> list[LayerSpec]:
        name = self.config.get("activation")
        module = activation(name, self.dim(-1), keras3=self.keras3)
        label = name if isinstance(name, str) and name.isidentifier() else "activation"
        return [] if isinstance(module, nn.Identity) else [LayerSpec(label[:20], module)]


ATTENTION_PARTS = ("query", "key", "value", "output")  # the dense layers of an attention, in Keras' order
UNREAD = "count"  # of the values that a Normalization layer was adapted to: a whole number that nothing needs


def variables(kind: str, config: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Names of a layer's weights in Keras' order: those that training changes, and those it does not."""
    bias = ["bias"] if config.get("use_bias", True) else []
    scale = [name for name, key in (("gamma", "scale"), ("beta", "center")) if config.get(key, True)]
    match kind:
        case "Conv2D" | "Conv2DTranspose" | "Dense" | "DepthwiseConv2D":
            return ["kernel", *bias], []
        case "SeparableConv2D":
            return ["depthwise_kernel", "pointwise_kernel", *bias], []
        case "BatchNormalization":
            return scale, ["moving_mean", "moving_variance"]
        case "LayerNormalization" | "GroupNormalization":
            return scale, []
        case "LayerScale":
            return ["gamma"], []
        case "PReLU":
            return ["alpha"], []
        case "MultiHeadAttention":
            return [f"{part}_{name}" for part in ATTENTION_PARTS for name in ("kernel", *bias)], []
        case "Normalization" if config.get("mean") is None:
            return [], ["mean", "variance", UNREAD]
    return [], []
