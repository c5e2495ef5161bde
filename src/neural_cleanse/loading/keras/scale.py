"""Whether a Keras model is made for pixels in 0-255: it first scales them by 1/255, or takes off a mean of bytes.

The mean stands in a Subtract or Rescaling layer, or a Normalization or BatchNormalization learned it from the images.
"""

from typing import Any

from torch import Tensor, nn

from neural_cleanse.loading.byte_pixels import scaling, standardising, subtracting
from neural_cleanse.loading.keras.config import Layer, Model
from neural_cleanse.loading.keras.modules import Standardize

LEAVE_RANGE = frozenset({
    "InputLayer", "Resizing", "CenterCrop", "Dropout", "Permute", "Reshape", "ZeroPadding2D", "GetItem", "Stack",
    "Concatenate", "Flatten", "Cropping2D", "SpatialDropout2D", "GaussianNoise", "Identity",
})  # fmt: skip


LEARNED = {"Normalization": (Standardize, "mean"), "BatchNormalization": (nn.BatchNorm2d, "running_mean")}


def takes_bytes(model: Model, module: nn.Module) -> str | None:
    """In words, what the model does to pixels in 0-255 first of all; None where nothing says that it takes them.

    `module` is the same network, built, with its weights.
    """
    for layer in model.layers:
        if layer.model is not None:
            return takes_bytes(layer.model, module)
        if layer.kind in LEARNED:
            kind, name = LEARNED[layer.kind]
            mean = next((getattr(part, name) for part in module.modules() if isinstance(part, kind)), None)
            return standardising(mean.flatten().tolist()) if isinstance(mean, Tensor) else None
        if layer.kind not in LEAVE_RANGE and not layer.kind.startswith("Random"):
            return _said(layer)
    return None


def _said(layer: Layer) -> str | None:
    factors, offsets = [1.0], [0.0]
    numbers = [float(part) for part in (layer.calls[0] if layer.calls else ()) if isinstance(part, int | float)]
    if layer.kind == "Rescaling":
        factors, offsets = _numbers(layer.config.get("scale", 1.0)), _numbers(layer.config.get("offset", 0.0))
    elif layer.kind == "Divide":
        factors = [1 / number for number in numbers if number]
    elif layer.kind == "Multiply":
        factors = numbers
    elif layer.kind == "Subtract":
        offsets = [-number for number in numbers]
    plain = set(factors) == {1.0}
    return scaling(factors) or (subtracting([-offset for offset in offsets]) if plain else None)


def _numbers(value: Any) -> list[float]:
    """One number, or several; none where it is neither."""
    values = value if isinstance(value, list) else [value]
    return [float(number) for number in values] if all(isinstance(part, int | float) for part in values) else []
