"""Keras' layers without weights to train: pooling, shapes, merges, scaling, and what works in training alone."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import OTHER_KERAS
from neural_cleanse.loading.keras.modules import (
    Affine,
    CentreCrop,
    Channel,
    GlobalPool,
    KerasOrder,
    Merge,
    Permute,
    Reshape,
    Resize,
    ResizeImages,
    SameAveragePool,
    SamePadding,
    StackPlanes,
    Standardize,
)
from neural_cleanse.loading.keras.spec import LayerInput, LayerSpec, WeightLayout

MAX_WINDOW = 8  # of pooling, times the map: padding would make it as large


def pool(given: LayerInput) -> list[LayerSpec]:
    kernel = given.pair("pool_size", 2)
    stride = given.pair("strides", kernel)
    height, width = given.inputs[0].shape[2:]
    if given.same() and (kernel[0] > MAX_WINDOW * height or kernel[1] > MAX_WINDOW * width):
        raise ValueError(f"windows of {kernel} on a map of {height} x {width}")
    if given.kind == "MaxPooling2D":
        padding = [LayerSpec("padding", SamePadding(kernel, stride, value=-torch.inf))] if given.same() else []
        return [*padding, LayerSpec("", nn.MaxPool2d(kernel, stride))]
    return [LayerSpec("", SameAveragePool(kernel, stride) if given.same() else nn.AvgPool2d(kernel, stride))]


def global_pool(given: LayerInput) -> list[LayerSpec]:
    keep = bool(given.config.get("keepdims", False))
    return [LayerSpec("", GlobalPool((2, 3), largest=given.kind == "GlobalMaxPooling2D", keep=keep))]


def pool_tokens(given: LayerInput) -> list[LayerSpec]:
    """Over the tokens of an image."""
    if given.rank != 3 or given.config.get("data_format") == "channels_first":
        raise ModelError(
            f"A {given.kind} layer of {given.rank} axes, or channels first, is not read.", cure=OTHER_KERAS
        )
    keep = bool(given.config.get("keepdims", False))
    return [LayerSpec("", GlobalPool((1,), largest=given.kind == "GlobalMaxPooling1D", keep=keep))]


def flatten(given: LayerInput) -> list[LayerSpec]:
    if given.rank != 4:
        return [LayerSpec("", nn.Flatten())]
    # A channels-first model flattens its maps channels first, unless the layer itself is told otherwise.
    last = given.channels_last or given.config.get("data_format") == "channels_first"
    return [LayerSpec("", KerasOrder(nn.Flatten()) if last else nn.Flatten())]


def reshape(given: LayerInput) -> list[LayerSpec]:
    module = Reshape(tuple(-1 if size is None else int(size) for size in given.config["target_shape"]))
    return [LayerSpec("", KerasOrder(module) if given.channels_last else module)]


def permute(given: LayerInput) -> list[LayerSpec]:
    module = Permute(tuple(int(axis) for axis in given.config["dims"]))
    return [LayerSpec("", KerasOrder(module) if given.channels_last else module)]


def _sides(given: LayerInput, key: str) -> tuple[int, int, int, int]:
    """Left, right, top, bottom, from n, (rows, columns) or ((top, bottom), (left, right))."""
    value = given.config.get(key, 1)
    rows, columns = (value, value) if isinstance(value, int) else value
    top, bottom = (rows, rows) if isinstance(rows, int) else rows
    left, right = (columns, columns) if isinstance(columns, int) else columns
    if min(left, right, top, bottom) < 0:
        raise ValueError(f"{key} below 0")
    return int(left), int(right), int(top), int(bottom)


def zero_padding(given: LayerInput) -> list[LayerSpec]:
    return [LayerSpec("", nn.ZeroPad2d(_sides(given, "padding")))]


def cropping(given: LayerInput) -> list[LayerSpec]:
    left, right, top, bottom = _sides(given, "cropping")
    return [LayerSpec("", nn.ZeroPad2d((-left, -right, -top, -bottom)))]


def upsampling(given: LayerInput) -> list[LayerSpec]:
    modes = {"nearest": "nearest", "bilinear": "bilinear"}
    return [LayerSpec("", Resize(modes[given.config.get("interpolation", "nearest")], times=given.pair("size", 2)))]


def resizing(given: LayerInput) -> list[LayerSpec]:
    """Bilinear alone: of the others, Keras' backends make different pixels."""
    config = given.config
    if config.get("interpolation", "bilinear") != "bilinear" or config.get("fill_mode", "constant") != "constant":
        raise ModelError("Of Resizing layers, only bilinear ones that pad with one value are read.", cure=OTHER_KERAS)
    crop, pad = (bool(config.get(f"{way}_to_aspect_ratio", False)) for way in ("crop", "pad"))
    fit = "crop" if crop else "pad" if pad else "stretch"
    fill = float(config.get("fill_value", 0))
    resize = ResizeImages(_size(given), antialias=bool(config.get("antialias", False)), fit=fit, fill=fill)
    return [LayerSpec("", resize)]


def centre_crop(given: LayerInput) -> list[LayerSpec]:
    return [LayerSpec("", CentreCrop(_size(given)))]


def _size(given: LayerInput) -> tuple[int, int]:
    """Rows and columns of a layer that makes images of one size."""
    own = "channels_last" if given.channels_last else "channels_first"
    if given.rank != 4 or given.config.get("data_format", own) not in (own, None):
        raise ModelError(
            f"A {given.kind} layer of {given.rank} axes, or with a layout of its own, is not read.", cure=OTHER_KERAS
        )
    height, width = (given.config[key] for key in ("height", "width"))
    if not all(type(size) is int and size > 0 for size in (height, width)):
        raise ValueError(f"a size of {height} x {width}")
    return height, width


def channel(given: LayerInput) -> list[LayerSpec]:
    """`images[..., index]` of keras.ops."""
    if given.rank != 4 or not given.channels_last or "index" not in given.config:
        raise ModelError("Of indexing, only images[..., channel] is read.", cure=OTHER_KERAS)
    return [LayerSpec("", Channel(int(given.config["index"])))]


def stack(given: LayerInput) -> list[LayerSpec]:
    """`stack` of keras.ops, of planes into an image."""
    if given.rank != 3 or not given.channels_last or given.config.get("axis") not in (-1, 3):
        raise ModelError("Of stacking, only that of planes into the last axis is read.", cure=OTHER_KERAS)
    return [LayerSpec("", StackPlanes())]


def merge(given: LayerInput) -> list[LayerSpec]:
    if len({value.dim() for value in given.inputs}) != 1:
        raise ModelError(f"{given.kind} of values of different rank is not read.", cure=OTHER_KERAS)
    return [LayerSpec("", Merge(given.kind, given.dim(int(given.config.get("axis", -1)))))]


def _per_channel(given: LayerInput, value: Any) -> Tensor:
    """One number, or one a channel, shaped to meet the layer's input."""
    if isinstance(value, Mapping):
        value = value["config"]["value"] if "config" in value else value["value"]
    numbers = torch.as_tensor(value, dtype=torch.float32)
    if numbers.numel() == 1:
        return numbers.reshape(())
    if numbers.numel() != given.inputs[0].shape[given.dim(-1)]:
        raise ValueError(f"{numbers.numel()} numbers for the channels")
    return numbers.reshape(-1, 1, 1) if given.rank == 4 and given.channels_last else numbers.flatten()


def rescaling(given: LayerInput) -> list[LayerSpec]:
    scale, offset = (_per_channel(given, given.config.get(key, value)) for key, value in (("scale", 1), ("offset", 0)))
    module = Affine(torch.empty_like(scale, device="meta"), torch.empty_like(offset, device="meta"))
    return [LayerSpec("", module, constants={"scale": scale, "offset": offset})]


def normalization(given: LayerInput) -> list[LayerSpec]:
    if given.config.get("invert") or not given.channels_last:
        raise ModelError("A Normalization layer that is inverted, or channels first, is not read.", cure=OTHER_KERAS)
    if "mean" not in given.shapes:
        mean, variance = (_per_channel(given, given.config[key]) for key in ("mean", "variance"))
        module = Standardize(torch.empty_like(mean, device="meta"), torch.empty_like(variance, device="meta"))
        return [LayerSpec("", module, constants={"mean": mean, "variance": variance})]
    axis = given.config.get("axis", -1)
    if axis not in (-1, [-1], [given.rank - 1], given.rank - 1, None, []):
        raise ModelError(f"Normalisation over the axes {axis} is not read; only over the last.", cure=OTHER_KERAS)
    size = given.shapes["mean"]
    shape = (*size, 1, 1) if given.rank == 4 and size else size
    shaped = WeightLayout(lambda values: values.reshape(shape), lambda values, keras: values.reshape(keras))
    empty = torch.empty(shape, device="meta")
    return [LayerSpec("", Standardize(empty, empty), {"mean": ("mean", shaped), "variance": ("variance", shaped)})]


def dropout(given: LayerInput) -> list[LayerSpec]:
    rate = float(given.config.get("rate", 0.5))
    return [LayerSpec("", nn.Dropout(rate) if given.kind == "Dropout" else nn.Dropout2d(rate))]


def unchanged(given: LayerInput) -> list[LayerSpec]:
    """Works in training alone."""
    return []
