"""Whether a Keras model is made for pixels in 0-255: it first scales them by 1/255, or takes off a mean of bytes."""

from typing import Any

from neural_cleanse.loading.keras.config import Layer, Model

PIXEL_MAX, MAX_UNIT_MEAN = 255.0, 2.0  # a larger mean is of bytes
BYTES_TO_UNIT = (0.5, 2.5)  # what the largest byte becomes in [0, 1], [-1, 1] or the like
LEAVE_RANGE = frozenset({
    "InputLayer", "Resizing", "CenterCrop", "Dropout", "Permute", "Reshape", "ZeroPadding2D", "GetItem", "Stack",
    "Concatenate",
})  # fmt: skip


def takes_bytes(model: Model) -> str | None:
    """In words, what the model does to pixels in 0-255 first of all; None where nothing says that it takes them."""
    for layer in model.layers:
        if layer.model is not None:
            return takes_bytes(layer.model)
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
    if factors and all(BYTES_TO_UNIT[0] <= factor * PIXEL_MAX <= BYTES_TO_UNIT[1] for factor in factors):
        return f"scales them by {factors[0]:.3g}"
    if set(factors) == {1.0} and offsets and all(MAX_UNIT_MEAN < -offset < PIXEL_MAX for offset in offsets):
        return f"subtracts {-offsets[0]:.4g}"
    return None


def _numbers(value: Any) -> list[float]:
    """One number, or several; none where it is neither."""
    values = value if isinstance(value, list) else [value]
    return [float(number) for number in values] if all(isinstance(part, int | float) for part in values) else []
