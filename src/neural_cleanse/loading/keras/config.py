"""The description of a Keras model: from its JSON, of whatever era, to layers that name their inputs.

Nothing named in it is imported. What could only run as the author's own code (Lambda, custom classes) is refused here.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from neural_cleanse.errors import CodeExecutionRefused, ModelError
from neural_cleanse.loading.cures import OTHER_KERAS
from neural_cleanse.loading.keras.keras1 import modern
from neural_cleanse.loading.keras.operations import as_layer, is_operation
from neural_cleanse.text import quoted

MAX_CONFIG, MAX_LAYERS, MAX_DEPTH = 32 * 1024**2, 10_000, 8  # characters; layers; models inside models
MODELS = {"Sequential", "Functional", "Model"}
# Kinds of layer that are Keras' own and that no image classifier here needs: not read, and no code either.
OTHERS_OF_KERAS = frozenset({
    "AdditiveAttention", "Attention", "AutoContrast", "AveragePooling1D", "AveragePooling3D", "Bidirectional",
    "CategoryEncoding", "Conv1D", "Conv1DTranspose", "Conv3D", "Conv3DTranspose",
    "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "Convolution1D", "Convolution3D", "Cropping1D", "Cropping3D",
    "CuDNNGRU", "CuDNNLSTM", "CutMix", "DepthwiseConv1D", "Discretization", "Dot", "EinsumDense", "Embedding",
    "Equalization", "FlaxLayer", "GRU", "GRUCell", "GlobalAveragePooling3D",
    "GlobalMaxPooling3D", "GroupQueryAttention", "HashedCrossing",
    "Hashing", "Highway", "IntegerLookup", "JaxLayer", "LSTM", "LSTMCell", "LocallyConnected1D",
    "LocallyConnected2D", "Masking", "MaxNumBoundingBoxes", "MaxPooling1D", "MaxPooling3D", "MaxoutDense",
    "MelSpectrogram", "Merge", "MixUp", "Pipeline", "RMSNormalization", "RNN", "RandomCrop",
    "RepeatVector", "STFTSpectrogram", "SeparableConv1D", "SimpleRNN", "SimpleRNNCell",
    "SlicingOpLambda", "SpectralNormalization", "StackedRNNCells", "StringLookup", "TFOpLambda", "TFSMLayer",
    "TensorFlowOpLayer", "TextVectorization", "TimeDistributed", "TorchModuleWrapper", "UnitNormalization",
    "UpSampling1D", "UpSampling3D", "ZeroPadding1D", "ZeroPadding3D",
})  # fmt: skip
# These wrap functions or files that come with the model: Keras runs them.
PROGRAMS = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
# Calculations that stand in a model as layers: `images / 127.5 - 1` makes two, by tf.keras' names and by Keras 3's.
OPERATIONS = {"math.add": "Add", "__operators__.add": "Add", "math.subtract": "Subtract", "math.multiply": "Multiply"}
OPERATIONS |= {"math.truediv": "Divide", "math.divide": "Divide", "TrueDivide": "Divide"}
CONSTANT = "_CONSTANT_VALUE"  # in place of a layer's name: a number
IDLE = {"training", "mask", "name"}  # keywords of a call of no effect here
OPERANDS = ("query", "y", "x2", "value", "key")  # those that name an operand, in its order
OF_APPLICATIONS = {"LayerScale", "StochasticDepth"}  # layers of Keras' ConvNeXt; others have some of the same name
CURE_CODE = "Ask its author for a model of Keras' own layers, or pass --allow-code if you trust its author."


@dataclass(frozen=True)
class Reference:
    """The value that a layer gave at its `node`-th call."""

    layer: str
    node: int


Operand = Reference | float


@dataclass(frozen=True)
class Layer:
    """One layer: its settings, and for every call of it what it takes. `model` where it is a model itself."""

    kind: str
    name: str
    config: Mapping[str, Any]
    calls: tuple[tuple[Operand, ...], ...]
    model: "Model | None" = None

    @property
    def trainable(self) -> bool:
        return self.config.get("trainable") is not False


@dataclass(frozen=True)
class Model:
    """Layers between one input and one output. `input_shape` is as in the file, without the batch; None: not said."""

    kind: str
    name: str
    layers: tuple[Layer, ...]
    image: str
    output: Reference
    input_shape: tuple[int | None, ...] | None


def parse(text: str, file: str, known: frozenset[str]) -> Model:
    """The model that `text` describes, all of whose layers are of the `known` kinds.

    Raises ModelError when it is none that can be read, CodeExecutionRefused when it holds code.
    """
    if len(text) > MAX_CONFIG:
        raise ModelError(f"{file} describes its layers in {len(text):,} characters.", cure=OTHER_KERAS)
    try:
        raw = json.loads(text)
        model = _model(raw, file, known, 0)
    except RecursionError as error:
        raise ModelError(f"{file} nests its description too deep to be read.", cure=OTHER_KERAS) from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ModelError(
            f"{file} describes its layers in a way that cannot be read: {type(error).__name__} {error}.",
            cure=OTHER_KERAS,
        ) from error
    return model


def channels_last(model: Model, file: str) -> bool:
    """How the model lays out its feature maps. Raises ModelError when its layers disagree."""
    said = set(_data_formats(model))
    if len(said) > 1:
        raise ModelError(
            f"{file} lays out feature maps in several ways: {', '.join(sorted(map(quoted, said)))}.", cure=OTHER_KERAS
        )
    return said != {"channels_first"}


def _data_formats(model: Model) -> Iterator[str]:
    for layer in model.layers:
        if layer.model is not None:
            yield from _data_formats(layer.model)
        elif layer.config.get("data_format") and layer.kind != "Flatten" and not layer.kind.startswith("Random"):
            yield str(layer.config["data_format"])


def _model(raw: Mapping[str, Any], file: str, known: frozenset[str], depth: int) -> Model:
    kind = raw["class_name"]
    _refuse_code(str(kind), raw, file, MODELS)
    if depth > MAX_DEPTH:
        raise ModelError(f"{file} nests models {MAX_DEPTH} deep.", cure=OTHER_KERAS)
    config = raw["config"]
    listed = config if isinstance(config, list) else config["layers"]
    if len(listed) > MAX_LAYERS:
        raise ModelError(f"{file} has {len(listed):,} layers.", cure=OTHER_KERAS)
    settings = {} if isinstance(config, list) else config
    name = str(settings.get("name", kind.lower()))
    layers = [_layer(part, file, known, depth) for part in listed]
    if kind == "Sequential":
        return _sequential(name, layers, settings)
    if len({layer.name for layer in layers}) < len(layers):
        raise ModelError(f"{file} has two layers of one name.", cure=OTHER_KERAS)
    inputs, outputs = (_references(settings[key]) for key in ("input_layers", "output_layers"))
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"{file} is a model of {len(inputs)} inputs and {len(outputs)} outputs: a scan needs one image and one row "
            "of classes.",
            cure="Save keras.Model(images, classes) of the part that classifies.",
        )
    (image,) = (layer for layer in layers if layer.name == inputs[0].layer)
    models = {layer.name for layer in layers if layer.model is not None}
    return Model(
        kind=kind,
        name=name,
        layers=tuple(_calling_once(layer, models) for layer in layers),
        image=image.name,
        output=_once(outputs[0], models),
        input_shape=_shape(image.config),
    )


def _calling_once(layer: Layer, models: set[str]) -> Layer:
    """A model inside a model is called once here, and counts that call as its second: the first was its making."""
    calls = [[_once(part, models) if isinstance(part, Reference) else part for part in call] for call in layer.calls]
    return replace(layer, calls=tuple(map(tuple, calls)))


def _once(reference: Reference, models: set[str]) -> Reference:
    return Reference(reference.layer, 0) if reference.layer in models else reference


def _sequential(name: str, layers: list[Layer], settings: Mapping[str, Any]) -> Model:
    """A chain: every layer takes what the one before gave; the first may be an input layer or say its input itself."""
    first = layers[0]
    shape = _shape(first.config) or (first.model.input_shape if first.model else None)
    shape = shape or _sizes(settings.get("build_input_shape"))
    if first.kind != "InputLayer":
        layers = [Layer("InputLayer", "", {}, ()), *layers]
    chain = [layers[0]]
    for layer in layers[1:]:
        before = Reference(chain[-1].name, 0)
        chain.append(Layer(layer.kind, layer.name, layer.config, ((before,),), layer.model))
    return Model(
        kind="Sequential",
        name=name,
        layers=tuple(chain),
        image=chain[0].name,
        output=Reference(chain[-1].name, 0),
        input_shape=shape,
    )


def _layer(raw: Mapping[str, Any], file: str, known: frozenset[str], depth: int) -> Layer:
    raw = as_layer(raw) if is_operation(raw) else raw
    kind, config = str(raw["class_name"]), raw["config"]
    nested = kind in MODELS
    if not nested:
        operation = str(config.get("function")) if kind == "TFOpLambda" else kind
        kind, config = modern(OPERATIONS.get(operation, kind), config)
    _refuse_code(kind, raw, file, known | MODELS)
    model = _model(raw, file, known, depth + 1) if nested else None
    settings: Mapping[str, Any] = {} if isinstance(config, list) else config
    name = str(raw.get("name") or settings.get("name") or (model.name if model else kind.lower()))
    calls = tuple(_call(node, name, file) for node in raw.get("inbound_nodes") or [])
    if nested and len(calls) > 1:
        raise ModelError(f"{file} uses the model {quoted(name)} inside it in several places.", cure=OTHER_KERAS)
    return Layer(kind, name, settings, calls, model)


def _refuse_code(kind: str, raw: Mapping[str, Any], file: str, known: frozenset[str] | set[str]) -> None:
    """Raise unless this is a class of Keras' own, by all that the file says of it, and one that is read."""
    module, registered = raw.get("module"), raw.get("registered_name")
    settings = raw["config"] if isinstance(raw.get("config"), Mapping) else {}
    name = quoted(str(raw.get("name") or settings.get("name") or kind))
    foreign = module is not None and str(module).split(".")[0] not in ("keras", "tensorflow", "tf_keras")
    foreign |= kind in OF_APPLICATIONS and not str(module).startswith("keras.src.applications.")
    foreign |= registered not in (None, raw["class_name"])
    foreign |= kind not in known | OTHERS_OF_KERAS and not is_operation(raw)
    if foreign or kind in PROGRAMS:
        what = "a Lambda layer" if kind == "Lambda" else f"of the class {quoted(str(registered or kind))}"
        raise CodeExecutionRefused(
            f"{file} holds the layer {name}, {what}: code of its author's, which would run. Nothing of it was run.",
            cure=CURE_CODE,
        )
    if kind not in known:
        raise ModelError(
            f"{file} holds the layer {name} of the kind {kind}, which is not read.",
            cure=f"These are: {', '.join(sorted(known))}.",
        )


def _call(node: Any, name: str, file: str) -> tuple[Operand, ...]:
    """What one call takes, as Keras 3 writes it (args, kwargs) or as those before did: rows of name, node, output."""
    if isinstance(node, Mapping):
        operands = _operands(node["args"])
        return (*operands, *_keywords({**node["kwargs"], "training": None}, name, file))
    operands = []
    for row in [node] if node and isinstance(node[0], str) else node:
        operands.append(float(row[2]) if row[0] == CONSTANT else _reference(row))
        operands += _keywords(row[3] if len(row) > 3 else {}, name, file)
    return tuple(operands)


def _keywords(keywords: Mapping[str, Any], name: str, file: str) -> list[Operand]:
    """The operands that have a name. Keras 3 sets `training` anew at every call, those before it kept it."""
    if keywords.get("training") is True:
        raise ModelError(
            f"{file} keeps its layer {quoted(name)} in training mode: it answers by chance or by the batch.",
            cure=OTHER_KERAS,
        )
    said = {key: value for key, value in keywords.items() if not (key in IDLE or value is None or value is False)}
    if not set(said) <= set(OPERANDS):
        raise ModelError(
            f"{file} calls its layer {quoted(name)} with settings that are not read: {', '.join(said)}.",
            cure=OTHER_KERAS,
        )
    return [operand for key in OPERANDS if key in said for operand in _operands([said[key]])]


def _operands(value: Any) -> list[Operand]:
    """All values and numbers in the arguments of a call."""
    if isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__":
        return [_reference(value["config"]["keras_history"])]
    if isinstance(value, list) and len(value) in (3, 4) and isinstance(value[0], str):
        return [_reference(value)]
    if isinstance(value, list):
        return [operand for part in value for operand in _operands(part)]
    return [float(value)]


def _reference(row: Sequence[Any]) -> Reference:
    layer, node, output = row[:3]
    if output != 0:
        raise ValueError("a layer with several outputs")
    return Reference(str(layer), int(node))


def _references(rows: Any) -> list[Reference]:
    if isinstance(rows, Mapping):
        rows = list(rows.values())
    return [_reference(rows)] if isinstance(rows[0], str) else [_reference(row) for row in rows]


def _shape(config: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    return _sizes(config.get("batch_shape") or config.get("batch_input_shape"))


def _sizes(shape: Any) -> tuple[int | None, ...] | None:
    return None if shape is None else tuple(None if size is None else int(size) for size in shape[1:])
