"""Keras' layers as torch modules: for each kind the weights it has, in Keras' order, and what it becomes here."""

from collections.abc import Callable, Mapping

from torch import nn

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import OTHER_KERAS
from neural_cleanse.loading.keras import parameterless as maps
from neural_cleanse.loading.keras.activations import ACTIVATION_LAYERS, activation_layer
from neural_cleanse.loading.keras.attention import attention
from neural_cleanse.loading.keras.modules import ChannelScale, KerasOrder, SamePadding, SlopePerPixel
from neural_cleanse.loading.keras.spec import (
    AS_IT_IS,
    CONVOLUTION,
    DENSE,
    DEPTHWISE,
    FLAT,
    LAST_AXIS_FIRST,
    LayerInput,
    LayerSpec,
    WeightLayout,
)


def pieces(given: LayerInput) -> list[LayerSpec]:
    """The modules that do what the layer does, one after the other; none where it changes nothing."""
    if given.kind in ACTIVATION_LAYERS:
        module = activation_layer(given.kind, given.config, given.dim, keras3=given.keras3)
        return [] if isinstance(module, nn.Identity) else [LayerSpec("", module)]
    return BUILDERS[given.kind](given)


def _convolution(given: LayerInput) -> list[LayerSpec]:
    shape = given.shapes["kernel"]
    height, width, channels_in, filters = shape
    if (height, width) != given.pair("kernel_size") or filters != given.config["filters"]:
        raise ValueError(f"a kernel of {shape}")
    kernel = {"weight": ("kernel", CONVOLUTION)}
    channels = given.inputs[0].shape[1]
    groups = channels // channels_in
    if channels != groups * channels_in or groups != given.config.get("groups", 1):
        raise ValueError(f"a kernel of {shape} on {channels} channels")
    return [*_convolved(given, "", channels, filters, kernel, groups), *given.activation()]


def _depthwise(given: LayerInput) -> list[LayerSpec]:
    channels, multiplier = given.shapes["kernel"][2:]
    kernel = {"weight": ("kernel", DEPTHWISE)}
    return [*_convolved(given, "", channels, channels * multiplier, kernel, channels), *given.activation()]


def _separable(given: LayerInput) -> list[LayerSpec]:
    """A depthwise convolution, and one of 1x1 over its outputs."""
    channels, multiplier = given.shapes["depthwise_kernel"][2:]
    height, width, between, filters = given.shapes["pointwise_kernel"]
    if (height, width, between) != (1, 1, channels * multiplier):
        raise ValueError(f"a pointwise kernel of {given.shapes['pointwise_kernel']}")
    kernel = {"weight": ("depthwise_kernel", DEPTHWISE)}
    depthwise = _convolved(given, "depthwise", channels, between, kernel, channels, biased=False)
    bias = given.config.get("use_bias", True)
    pointwise = nn.Conv2d(between, filters, 1, bias=bias, device="meta")
    weights = {"weight": ("pointwise_kernel", CONVOLUTION)} | ({"bias": ("bias", AS_IT_IS)} if bias else {})
    return [*depthwise, LayerSpec("pointwise", pointwise, weights), *given.activation()]


def _convolved(
    given: LayerInput,
    suffix: str,
    channels: int,
    filters: int,
    weights: dict[str, tuple[str, WeightLayout]],
    groups: int,
    *,
    biased: bool = True,
) -> list[LayerSpec]:
    """The convolution, and before it what 'same' has to add where torch's own padding cannot."""
    kernel, stride, dilation = given.pair("kernel_size"), given.pair("strides"), given.pair("dilation_rate")
    reach = [(size - 1) * step for size, step in zip(kernel, dilation, strict=True)]
    even = stride == (1, 1) and not any(size % 2 for size in reach)
    bias = biased and given.config.get("use_bias", True)
    convolution = nn.Conv2d(
        channels, filters, kernel, stride,
        (reach[0] // 2, reach[1] // 2) if given.same() and even else 0,
        dilation, groups, bias, device="meta",
    )  # fmt: skip
    padding = [LayerSpec("padding", SamePadding(kernel, stride, dilation))] if given.same() and not even else []
    return [*padding, LayerSpec(suffix, convolution, weights | ({"bias": ("bias", AS_IT_IS)} if bias else {}))]


def _transposed(given: LayerInput) -> list[LayerSpec]:
    """A transposed convolution; of 'same' the outermost of what it makes is cut, the odd one at the end."""
    height, width, filters, channels = given.shapes["kernel"]
    kernel, stride = given.pair("kernel_size"), given.pair("strides")
    if (height, width) != kernel or filters != given.config["filters"] or channels != given.inputs[0].shape[1]:
        raise ValueError(f"a kernel of {given.shapes['kernel']}")
    plain = given.pair("dilation_rate") == (1, 1) and given.config.get("output_padding") is None
    if not plain or given.config.get("groups", 1) != 1:
        raise ModelError(
            "A Conv2DTranspose with groups, dilation or an output padding of its own is not read.", cure=OTHER_KERAS
        )
    bias = given.config.get("use_bias", True)
    rows, columns = (max(step - size, 0) for size, step in zip(kernel, stride, strict=True))
    module = nn.ConvTranspose2d(channels, filters, kernel, stride, 0, (rows, columns), bias=bias, device="meta")
    weights = {"weight": ("kernel", CONVOLUTION)} | ({"bias": ("bias", AS_IT_IS)} if bias else {})
    found = [LayerSpec("", module, weights)]
    over = [max(size - step, 0) if given.same() else 0 for size, step in zip(kernel, stride, strict=True)]
    if any(over):
        sides = [-side for total in reversed(over) for side in (total // 2, total - total // 2)]
        found.append(LayerSpec("cropping", nn.ZeroPad2d((sides[0], sides[1], sides[2], sides[3]))))
    return [*found, *given.activation()]


def _dense(given: LayerInput) -> list[LayerSpec]:
    inputs, units = given.shapes["kernel"]
    bias = given.config.get("use_bias", True)
    linear: nn.Module = nn.Linear(inputs, units, bias, device="meta")
    inner = "operation." if given.rank == 4 and given.channels_last else ""
    weights = {f"{inner}weight": ("kernel", DENSE)} | ({f"{inner}bias": ("bias", AS_IT_IS)} if bias else {})
    return [LayerSpec("", KerasOrder(linear) if inner else linear, weights), *given.activation()]


def _batch_norm(given: LayerInput) -> list[LayerSpec]:
    axis = given.config.get("axis", -1)
    axes = [axis] if isinstance(axis, int) else list(axis)
    if len(axes) != 1 or given.dim(axes[0]) != 1 or given.rank == 3 or given.config.get("mode", 0) != 0:
        raise ModelError(f"Batch normalisation over the axes {axes} of {given.rank} is not read.", cure=OTHER_KERAS)
    kind = nn.BatchNorm2d if given.rank == 4 else nn.BatchNorm1d
    epsilon, momentum = (float(given.config.get(key, value)) for key, value in (("epsilon", 1e-3), ("momentum", 0.99)))
    module = kind(given.shapes["moving_mean"][0], epsilon, 1 - momentum, device="meta")
    sources = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for name, source in sources.items():
        if source not in given.shapes:
            module.register_parameter(name, None)
    weights = {name: (source, AS_IT_IS) for name, source in sources.items() if source in given.shapes}
    return [LayerSpec("", module, weights)]


def _layer_norm(given: LayerInput) -> list[LayerSpec]:
    axis = given.config.get("axis", -1)
    axes = [axis] if isinstance(axis, int) else list(axis)
    if axes not in ([-1], [given.rank - 1]) or not given.channels_last or given.config.get("rms_scaling"):
        raise ModelError(f"Layer normalisation over the axes {axes} is not read; only over the last.", cure=OTHER_KERAS)
    size = given.inputs[0].shape[1 if given.rank == 4 else -1]
    module: nn.Module = nn.LayerNorm(size, float(given.config.get("epsilon", 1e-3)), device="meta")
    inner = "operation." if given.rank == 4 else ""
    weights = {}
    for name, source in (("weight", "gamma"), ("bias", "beta")):
        if source in given.shapes:
            weights[inner + name] = (source, AS_IT_IS)
        else:
            module.register_parameter(name, None)
    return [LayerSpec("", KerasOrder(module) if inner else module, weights)]


def _group_norm(given: LayerInput) -> list[LayerSpec]:
    axis, channels = given.config.get("axis", -1), given.inputs[0].shape[1]
    groups = int(given.config.get("groups", 32))
    if not isinstance(axis, int) or given.dim(axis) != 1 or given.rank == 3:
        raise ModelError(f"Group normalisation over the axes {axis} of {given.rank} is not read.", cure=OTHER_KERAS)
    groups = channels if groups == -1 else groups
    if groups < 1 or channels % groups:
        raise ValueError(f"{groups} groups of {channels} channels")
    module = nn.GroupNorm(groups, channels, float(given.config.get("epsilon", 1e-3)), device="meta")
    sources = {"weight": "gamma", "bias": "beta"}
    for name, source in sources.items():
        if source not in given.shapes:
            module.register_parameter(name, None)
    weights = {name: (source, AS_IT_IS) for name, source in sources.items() if source in given.shapes}
    return [LayerSpec("", module, weights)]


def _layer_scale(given: LayerInput) -> list[LayerSpec]:
    """Of Keras' ConvNeXt: a learned factor for each channel."""
    (size,) = given.shapes["gamma"]
    if not given.channels_last or size != given.inputs[0].shape[given.dim(-1)]:
        raise ValueError(f"{size} factors")
    shape = (size, 1, 1) if given.rank == 4 else (size,)
    shaped = WeightLayout(lambda values: values.reshape(shape), lambda values, keras: values.reshape(keras))
    return [LayerSpec("", ChannelScale(shape), {"weight": ("gamma", shaped)})]


def _prelu(given: LayerInput) -> list[LayerSpec]:
    shape = given.shapes["alpha"]
    if given.rank == 4 and given.channels_last:
        if shape[:2] == (1, 1):
            return [LayerSpec("", nn.PReLU(shape[2], device="meta"), {"weight": ("alpha", FLAT)})]
        return [LayerSpec("", SlopePerPixel((shape[2], *shape[:2])), {"weight": ("alpha", LAST_AXIS_FIRST)})]
    return [LayerSpec("", SlopePerPixel(shape), {"weight": ("alpha", AS_IT_IS)})]


BUILDERS: Mapping[str, Callable[[LayerInput], list[LayerSpec]]] = {
    "Conv2D": _convolution, "DepthwiseConv2D": _depthwise, "SeparableConv2D": _separable, "Dense": _dense,
    "BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm, "PReLU": _prelu,
    "GroupNormalization": _group_norm, "Conv2DTranspose": _transposed, "MultiHeadAttention": attention,
    "LayerScale": _layer_scale, "StochasticDepth": maps.unchanged,
    "MaxPooling2D": maps.pool, "AveragePooling2D": maps.pool,
    "GlobalMaxPooling2D": maps.global_pool, "GlobalAveragePooling2D": maps.global_pool,
    "GlobalMaxPooling1D": maps.pool_tokens, "GlobalAveragePooling1D": maps.pool_tokens,
    "Flatten": maps.flatten, "Reshape": maps.reshape, "Permute": maps.permute,
    "ZeroPadding2D": maps.zero_padding, "Cropping2D": maps.cropping, "UpSampling2D": maps.upsampling,
    "Resizing": maps.resizing, "CenterCrop": maps.centre_crop,
    "GetItem": maps.channel, "Stack": maps.stack,
    "Rescaling": maps.rescaling, "Normalization": maps.normalization,
    "Dropout": maps.dropout, "SpatialDropout2D": maps.dropout,
} | dict.fromkeys(
    ("Add", "Average", "Concatenate", "Divide", "Maximum", "Minimum", "Multiply", "Subtract"), maps.merge
) | dict.fromkeys(
    (
        "ActivityRegularization", "AlphaDropout", "GaussianDropout", "GaussianNoise", "Identity", "InputLayer",
        "RandomBrightness",
        "RandomColorJitter", "RandomContrast", "RandomFlip", "RandomGrayscale", "RandomHue",
        "RandomRotation", "RandomSaturation", "RandomShear", "RandomTranslation", "RandomZoom",
    ),
    maps.unchanged,
)  # fmt: skip
KINDS = frozenset(BUILDERS) | ACTIVATION_LAYERS
