"""Layers as Keras 1 described them, in the words of Keras 2."""

from collections.abc import Mapping
from typing import Any

from neural_cleanse.errors import ModelError

KINDS = {
    "AtrousConvolution2D": "Conv2D",
    "Convolution2D": "Conv2D",
    "SeparableConvolution2D": "SeparableConv2D",
}
SETTINGS = {
    "atrous_rate": "dilation_rate",
    "bias": "use_bias",
    "border_mode": "padding",
    "nb_filter": "filters",
    "output_dim": "units",
    "p": "rate",
    "subsample": "strides",
}
MERGES = {
    "ave": "Average",
    "concat": "Concatenate",
    "max": "Maximum",
    "mul": "Multiply",
    "sum": "Add",
}


def modern(kind: str, config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The kind and settings of a layer; those of Keras 2 and 3 stay as they are.

    Raises ModelError for channels-first layers of Keras 1, which kept its kernels in another order.
    """
    if config.get("dim_ordering") == "th":
        raise ModelError("A channels-first model of Keras 1 is not read.", cure="Load and save it with Keras 2.")
    settings = {SETTINGS.get(key, key): value for key, value in config.items()}
    if "nb_row" in settings and "nb_col" in settings:
        settings["kernel_size"] = [settings.pop("nb_row"), settings.pop("nb_col")]
    if kind == "Merge":
        kind = MERGES.get(str(settings.get("mode")), kind)
        settings["axis"] = settings.get("concat_axis", -1)
    return KINDS.get(kind, kind), settings
