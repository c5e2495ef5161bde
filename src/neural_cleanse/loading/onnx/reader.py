"""ONNX files, read into torch by a table of our own: exact, differentiable, for any batch size.

No onnx2torch or onnx2pytorch: both need torchvision, which un-pins torch, and one is stale. The package onnx parses the
file and inlines its functions, onnx_operators builds it, and onnxruntime, where it is installed, must agree with what
was built. Nothing of the file is run but by onnxruntime, which gets it without custom operators and external data.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import ModelError, UnusableOutputs
from neural_cleanse.loading.checkpoint import MAX_LABEL_NAME
from neural_cleanse.loading.cures import OTHER_THAN_ONNX
from neural_cleanse.loading.graph import GraphNetwork, Value
from neural_cleanse.loading.network import FileIssue, Network, Trust
from neural_cleanse.loading.onnx.builder import IMAGE, Builder, Entry, Kind, Slot, add_initializers
from neural_cleanse.loading.onnx.compare import compare
from neural_cleanse.loading.onnx.file import (
    FLOAT,
    FLOATS,
    UINT8,
    WHOLE_NUMBERS,
    bytes_of,
    opset_of,
    parse,
    parse_only,
    place,
)
from neural_cleanse.loading.onnx.findings import findings_of
from neural_cleanse.loading.onnx.input import FLAT, NHW, NHWC, ImageInput, image_input
from neural_cleanse.loading.onnx.node import WEIGHT, Node
from neural_cleanse.loading.onnx.operators import OPERATORS
from neural_cleanse.loading.onnx.scale import takes_bytes
from neural_cleanse.loading.planes import WHOLE_PIXELS
from neural_cleanse.text import plain

CONTAINER = "ONNX"
ROOM_FOR_CONSTANTS, VALUES_A_BYTE = 2**22, 4  # values that the graph may make of its constants, by its size
LABEL_KEYS = ("names", "labels", "classes", "class_names", "id2label")
DECIDE = ("ArgMax", "ArgMin", "Hardmax", "TopK", "NonMaxSuppression")


def read(content: bytes, name: str, folder: Path | None = None) -> Network:
    """The network of an ONNX file. External data are taken from `folder` only, and refused without it.

    Raises ModelError for what is damaged, too large, not an image classifier, or not in the table of operators, and
    when onnxruntime gives other answers; UnusableOutputs for several outputs or labels instead of scores.
    """
    model = parse(content, name, folder)
    found, labels = findings_of(model), _label_names(model)
    built = _built(model, name)
    image = built.image
    compared = compare(model, name, image, built.network, built.shape, softmax=built.softmax)
    said = (image.channels, image.height, image.width)
    whole = image.data_type in WHOLE_NUMBERS
    scaled = None if whole else takes_bytes(model.graph, image.name)
    return Network(
        module=built.network,
        container=CONTAINER,
        trust=Trust.GRAPH,
        architecture=plain(" ".join((model.producer_name, model.graph.name)).strip(), 60) or "unnamed graph",
        input_shape=None if None in said else built.shape,
        num_classes=built.num_classes,
        normalize=Normalize(scale=255.0) if whole or scaled is not None else None,
        label_names=labels,
        assumed=(
            *image.assumed,
            *([WHOLE_PIXELS] if whole and image.data_type != UINT8 else []),
            *compared,
            *([] if scaled is None else [f"pixels in 0-255, since the graph itself {scaled}"]),
        ),
        findings=found,
    )


def findings(content: bytes, name: str) -> tuple[FileIssue, ...]:
    """What a scan of the file could not see, whether it can be read or not. Raises ModelError when it is damaged."""
    return findings_of(parse_only(content, name))


def rewrite(content: bytes, state: Mapping[str, Tensor], folder: Path | None = None) -> bytes:
    """The same file with the weights of `state`, a state_dict of the module that `read` gives.

    What did not change stays as it is, bit for bit; external data come into the file.
    """
    model = parse(content, "The file", folder)
    built = _built(model, "The file")
    before = built.network.state_dict()
    used = {name for node in model.graph.node for name in node.input}
    for key, slot in sorted(built.slots.items()):
        old = before.get(key)
        if old is None or not old.is_floating_point():
            continue
        if key not in state:
            raise ModelError(f"The changed network has no {plain(key)}, which the file holds.", cure=OTHER_THAN_ONNX)
        new = state[key].detach().to("cpu", old.dtype)
        if not torch.equal(old, new):
            _write(model, slot, new)
    wanted = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    for field in (model.graph.initializer, model.graph.input):
        for item in [item for item in field if item.name in used - wanted]:
            field.remove(item)
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf has no more than 2 GiB in one message
        raise ModelError("The changed network is too large for one ONNX file.", cure=OTHER_THAN_ONNX) from error


def _write(model: Any, slot: Slot, tensor: Tensor) -> None:
    """Give the nodes that use a tensor another: in its own initializer, or in a new one where others use that too.

    Layers are called by their weights: what is written must be read again as the same layers.
    """
    assert slot.entry.tensor is not None
    graph, (first, index) = model.graph, slot.uses[0]
    name, data_type = first.input[index], slot.entry.data_type or FLOAT
    shape = slot.entry.tensor.shape
    raw = bytes_of(slot.back(tensor).reshape(shape), data_type)
    own = next((item for item in graph.initializer if item.name == name), None)
    if own is not None and _used_by(slot, name, graph):
        own.Clear()
        own.MergeFrom(type(own)(name=name, data_type=data_type, dims=list(shape), raw_data=raw))
        return
    taken = {value for node in graph.node for value in (*node.input, *node.output)}
    taken.update(item.name for field in (graph.initializer, graph.input, graph.output) for item in field)
    while name in taken:
        name = f"{name.removesuffix(WEIGHT)}_{WEIGHT if name.endswith(WEIGHT) else ''}"
    graph.initializer.add(name=name, data_type=data_type, dims=list(shape), raw_data=raw)
    if model.ir_version < 4:  # then every initializer is an input as well
        kind = graph.input.add(name=name).type.tensor_type
        kind.elem_type = data_type
        for size in shape:
            kind.shape.dim.add(dim_value=size)
    for node, place_in in slot.uses:
        node.input[place_in] = name


def _used_by(slot: Slot, name: str, graph: Any) -> bool:
    """Whether nothing else in the graph uses the value of that name."""
    own = sum(node.input[index] == name for node, index in slot.uses)
    uses = sum(value == name for node in graph.node for value in node.input)
    return own == len(slot.uses) == uses and all(value.name != name for value in graph.output)


# --- building ---


@dataclass(frozen=True)
class _Built:
    """A network, the images it was tried with, and which inputs of the graph its tensors are. `softmax`: left out."""

    image: ImageInput
    shape: tuple[int, int, int]
    network: GraphNetwork
    num_classes: int | None
    softmax: bool
    slots: Mapping[str, Slot]


def _built(model: Any, name: str) -> _Built:
    """Build the graph for the first size of image that it takes. Raises ModelError of the likeliest size."""
    image, opset = image_input(model.graph, name), opset_of(model, name)
    if len(model.graph.output) != 1:
        names = ", ".join(plain(value.name, 30) for value in model.graph.output[:5]) or "none"
        raise UnusableOutputs(
            f"{name} has {len(model.graph.output)} outputs ({names}), a scan needs the scores alone.",
            cure="Cut it: onnx.utils.extract_model(path, new_path, [input], [scores]).",
        )
    faults = []
    for shape in image.shapes():
        try:
            builder = _filled_builder(model, name, image, opset, shape)
            output, softmax = _logits(model, builder)
            rows = builder.shapes(output)[0]
            num_classes = rows[1] if len(rows) == 2 else None
            network = builder.network(output).eval()
            return _Built(image, shape, network, num_classes=num_classes, softmax=softmax, slots=builder.slots)
        except ModelError as error:
            faults.append(error)
    fault = faults[0]
    message = fault.message if fault.message.startswith(name) else f"{name}: {fault.message}"
    raise type(fault)(message, cure=fault.cure) from fault


def _filled_builder(model: Any, name: str, image: ImageInput, opset: int, shape: tuple[int, int, int]) -> Builder:
    graph = model.graph
    uses = Counter(value for node in graph.node for value in node.input)
    uses.update(value.name for value in graph.output)
    allowance = ROOM_FOR_CONSTANTS + VALUES_A_BYTE * model.ByteSize()
    builder = Builder(opset, shape, image.batch, allowance, uses)
    add_initializers(builder, graph.initializer)
    pixels: Any = Value(IMAGE)
    if image.layout == NHWC:
        pixels = builder.call(torch.permute, (pixels, (0, 2, 3, 1)), Kind.DATA)
    elif image.layout == NHW:
        pixels = builder.call(torch.squeeze, (pixels, 1), Kind.DATA)
    elif image.layout == FLAT:
        pixels = builder.call(torch.flatten, (pixels, 1), Kind.DATA)
    builder.bind(image.name, pixels)
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        _add_node(builder, node, name, outputs)
    return builder


def _add_node(builder: Builder, proto: Any, name: str, outputs: set[str]) -> None:
    """One node more. Raises ModelError when it is not in the table, or cannot be built."""
    operator = OPERATORS.get(proto.op_type)
    if proto.op_type in DECIDE and outputs.intersection(proto.output):
        raise UnusableOutputs(
            f"{name} ends in {place(proto)}: it tells the label and keeps the scores, which a scan needs.",
            cure="Cut it before that: onnx.utils.extract_model(path, new_path, [input], [scores]).",
        )
    if operator is None:
        quantised = "Linear" in proto.op_type or "Integer" in proto.op_type
        raise ModelError(
            f"{name} uses {place(proto)}, " + ("whose weights are rounded." if quantised else "which is not read."),
            cure="Scan the network as it was before it was quantised." if quantised else "",
        )
    try:
        node = Node(builder, proto)
        results = operator(node)
        if node.leftover():
            raise ModelError(
                f"{place(proto)} has attributes that are not read: {plain(', '.join(node.leftover()))}.",
                cure=OTHER_THAN_ONNX,
            )
        results = results if isinstance(results, list | tuple) else [results]
        for output, result in zip(proto.output, results, strict=False):
            builder.bind(output, result, _result_type(node))
    except ModelError:
        raise
    except Exception as error:  # whatever torch says of shapes that do not fit
        first_line = next(iter(str(error).splitlines()), "")
        raise ModelError(
            f"{name}: {place(proto)} cannot be built: {type(error).__name__} {plain(first_line)}.", cure=OTHER_THAN_ONNX
        ) from error


def _result_type(node: Node) -> int:
    """The ONNX type of a constant's floats, which it is written back with."""
    if node.op_type == "Constant":
        value = node.tensor("value")
        return value.data_type if value is not None and value.data_type in FLOATS else 0
    if node.op_type == "Cast":
        return node.integer("to") if node.integer("to") in FLOATS else 0
    return next((entry.data_type for entry in map(node.entry, range(node.num_inputs)) if entry and entry.data_type), 0)


def _logits(model: Any, builder: Builder) -> tuple[Entry, bool]:
    """The output, taken before a softmax over the classes that comes last; and whether there was one."""
    makers = {output: node for node in model.graph.node for output in node.output}
    name = model.graph.output[0].name
    entry = builder.entries.get(name)
    while name in makers and _passes_on(makers[name]):
        name = makers[name].input[0]
    maker = makers.get(name)
    if entry is None:
        raise ModelError("The graph's output is made by none of its nodes.", cure=OTHER_THAN_ONNX)
    if maker is None or maker.op_type != "Softmax" or entry.kind is not Kind.DATA:
        return entry, False
    axis = next((item.i for item in maker.attribute if item.name == "axis"), -1)
    before = builder.entries[maker.input[0]]
    if len(builder.shapes(entry)[0]) != 2 or axis not in (1, -1) or before.kind is not Kind.DATA:
        return entry, False
    return before, True


def _passes_on(node: Any) -> bool:
    """Whether a node hands on the scores as they are."""
    return node.op_type in ("Identity", "Dropout") or (
        node.op_type == "Cast" and any(item.name == "to" and item.i in FLOATS for item in node.attribute)
    )


# --- beside the weights ---


def _label_names(model: Any) -> tuple[str, ...] | None:
    """Label names, where the metadata hold them as a JSON list or a dictionary by number."""
    texts = {entry.key.lower(): entry.value for entry in model.metadata_props}
    for key in LABEL_KEYS:
        try:
            names = json.loads(texts.get(key, "null"))
            if isinstance(names, dict):
                names = [names[str(number)] for number in range(len(names))]
            if isinstance(names, list) and names and all(isinstance(label, str) for label in names):
                return tuple(label[:MAX_LABEL_NAME] for label in names)
        except (ValueError, KeyError, RecursionError):
            continue
    return None
