"""An ONNX file taken apart before anything is built from it: parsed, its sizes checked against its bytes, its functions
inlined. Nothing of it is run, and no file beside it is opened unless its folder is given.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neural_cleanse.errors import ModelError, UnknownFormat
from neural_cleanse.loading.cures import AGAIN, OTHER_THAN_ONNX
from neural_cleanse.loading.onnx.external import EXTERNAL, take_in, tensors
from neural_cleanse.loading.onnx.order import sort_nodes
from neural_cleanse.text import plain

# Bounds on what a file may hold. Parsing takes about a hundred bytes a message, however short it is in the file.
MAX_MESSAGES, MAX_NODES, MAX_DEPTH, MAX_SHAPE = 3_000_000, 100_000, 60, 2**40
OLDEST_OPSET, NEWEST_OPSET = 7, 24
OUR_DOMAINS = ("", "ai.onnx")
CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
STRING_FIELD = 9  # FieldDescriptor.TYPE_STRING
GRAPH, GRAPHS = 5, 10  # AttributeProto.AttributeType
FLOAT, UINT8, FLOAT16, DOUBLE, BFLOAT16 = 1, 2, 10, 11, 16  # TensorProto.DataType
INT16, UINT16, INT32, INT64 = 5, 4, 6, 7
WHOLE_NUMBERS = (UINT8, INT16, UINT16, INT32, INT64)  # that pixels may be
FLOATS = (FLOAT, FLOAT16, DOUBLE, BFLOAT16)
# TensorProto.DataType -> how its bytes are read, the field that may hold it instead, and what it becomes here.
DATA_TYPES: Mapping[int, tuple[str, str, torch.dtype]] = {
    FLOAT: ("<f4", "float_data", torch.float32),
    UINT8: ("u1", "int32_data", torch.uint8),
    3: ("i1", "int32_data", torch.int8),
    4: ("<u2", "int32_data", torch.int64),
    5: ("<i2", "int32_data", torch.int16),
    6: ("<i4", "int32_data", torch.int32),
    7: ("<i8", "int64_data", torch.int64),
    9: ("?", "int32_data", torch.bool),
    FLOAT16: ("<f2", "int32_data", torch.float32),
    DOUBLE: ("<f8", "double_data", torch.float32),
    12: ("<u4", "uint64_data", torch.int64),
    13: ("<u8", "uint64_data", torch.int64),
    BFLOAT16: ("<u2", "int32_data", torch.float32),
}


def parse(content: bytes, name: str, folder: Path | None = None) -> Any:
    """The ModelProto: functions inlined, external data inside `folder` taken in.

    Raises ModelError for control flow, operators of unknown domains, weights outside the folder and damaged files.
    """
    model = parse_only(content, name)
    if not model.graph.node:
        raise UnknownFormat(f"{name} is an ONNX file without a graph.", cure=AGAIN)
    model = _inlined(model, name)
    for node in model.graph.node:
        if node.op_type in CONTROL_FLOW or any(item.type in (GRAPH, GRAPHS) for item in node.attribute):
            raise ModelError(
                f"{name} has control flow at {place(node)}: what runs may depend on the image, unseen by a scan.",
                cure="Export the network without it, for one fixed path.",
            )
        if node.domain not in OUR_DOMAINS:
            raise ModelError(
                f"{name} uses {place(node)} of {plain(node.domain)}: a custom operator needs its author's code.",
                cure="Export with the standard ONNX operators alone.",
            )
    if model.graph.sparse_initializer:
        raise ModelError(f"{name} holds sparse weights: plain ones are needed.", cure=OTHER_THAN_ONNX)
    take_in(model, name, folder)
    sort_nodes(model.graph)
    return model


def parse_only(content: bytes, name: str) -> Any:
    """The ModelProto as the file has it. Raises ModelError when it is damaged, too large, or onnx is missing."""
    try:
        import onnx
    except ImportError as error:
        raise ModelError(
            f"{name} is an ONNX file, and the package onnx is not installed.", cure="pip install 'neural-cleanse[onnx]'"
        ) from error
    try:
        few = _few_messages(memoryview(content), onnx.ModelProto.DESCRIPTOR)
        model = onnx.ModelProto.FromString(content) if few else None
    except Exception as error:  # protobuf's own kind of error, and ours for what is cut off
        raise ModelError(f"{name} is damaged: not a readable ONNX file.", cure=AGAIN) from error
    if model is None:
        raise ModelError(
            f"{name} has more than {MAX_MESSAGES:,} parts or nests them too deeply: it is not read.",
            cure=OTHER_THAN_ONNX,
        )
    if len(model.graph.node) > MAX_NODES:
        raise ModelError(
            f"{name} has {len(model.graph.node):,} nodes, at most {MAX_NODES:,} are read.", cure=OTHER_THAN_ONNX
        )
    return model


def opset_of(model: Any, name: str) -> int:
    """The version of the standard operators. Raises ModelError outside 7 to 24."""
    versions = [int(entry.version) for entry in model.opset_import if entry.domain in OUR_DOMAINS]
    if len(versions) != 1 or not OLDEST_OPSET <= versions[0] <= NEWEST_OPSET:
        raise ModelError(
            f"{name} has opset {versions[0] if versions else 'none'}, {OLDEST_OPSET} to {NEWEST_OPSET} are read.",
            cure="Export it again with opset_version=20.",
        )
    return versions[0]


def tensor_of(proto: Any) -> Tensor:
    """The values of a TensorProto, floats as float32. Raises ModelError when they do not fill its shape exactly."""
    label = f"The tensor {plain(proto.name) or 'of a constant'}"
    if proto.data_type not in DATA_TYPES:
        raise ModelError(f"{label} has the ONNX type {proto.data_type}, which is not read.", cure=OTHER_THAN_ONNX)
    layout, field, dtype = DATA_TYPES[proto.data_type]
    shape = tuple(proto.dims)
    held = proto.raw_data if proto.HasField("raw_data") else getattr(proto, field)
    unit = np.dtype(layout).itemsize if proto.HasField("raw_data") else 1
    large = len(shape) > MAX_DEPTH or math.prod(size or 1 for size in shape) > MAX_SHAPE  # also where one size is 0
    if min(shape, default=1) < 0 or large or math.prod(shape) * unit != len(held):
        raise ModelError(
            f"{label} is damaged: it says its shape is {list(shape)[:8]} and holds {len(held) // unit} values.",
            cure=AGAIN,
        )
    if unit == 1 and not proto.HasField("raw_data"):
        wide = np.array(
            held,
            np.float64 if field in ("float_data", "double_data") else np.uint64 if field == "uint64_data" else np.int64,
        )
        array = wide.astype("<u2").view("<f2") if proto.data_type == FLOAT16 else wide.astype(layout)
    else:
        array = np.frombuffer(held, layout)
    if proto.data_type == BFLOAT16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    if dtype is torch.int64:
        array = array.astype(np.int64)
    return torch.from_numpy(array.copy()).reshape(shape).to(dtype)


def bytes_of(tensor: Tensor, data_type: int) -> bytes:
    """The raw bytes of a float tensor in an ONNX type."""
    if data_type == BFLOAT16:
        return tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()
    return tensor.contiguous().numpy().astype(DATA_TYPES[data_type][0]).tobytes()


def place(node: Any) -> str:
    """Where a node stands, in words that are safe to show."""
    return f"{plain(node.op_type)} {plain(node.name or next(iter(node.output), ''))!r}"


def _fields(view: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The fields of a protobuf message: number, wire type, and the bytes of those that have a length.

    Raises IndexError or ValueError where the message is broken.
    """
    position = 0
    while position < len(view):
        tag, position = _varint(view, position)
        number, wire = tag >> 3, tag & 7
        start = position
        if wire == 2:
            length, start = _varint(view, position)
            position = start + length
        elif wire == 0:
            _, position = _varint(view, position)
        elif wire in (1, 5):
            position += 8 if wire == 1 else 4
        else:
            raise ValueError("groups are not used")
        if position > len(view):
            raise ValueError("ends too early")
        yield number, wire, view[start:position]


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = view[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number of more than ten bytes")


def _few_messages(view: memoryview, descriptor: Any) -> bool:
    """Whether the file stays under MAX_MESSAGES and MAX_DEPTH, told without keeping any of it.

    Raises IndexError or ValueError where it is broken.
    """
    waiting, count = [(view, descriptor, 0)], 0
    while waiting:
        message, kind, depth = waiting.pop()
        for number, wire, inside in _fields(message):
            field = kind.fields_by_number.get(number)
            if wire != 2 or field is None:
                continue
            if field.message_type is None:
                if field.type == STRING_FIELD:
                    str(inside, "utf-8")  # protobuf would hand out bytes for a name that is no text
                continue
            count += 1
            if count > MAX_MESSAGES or depth >= MAX_DEPTH:
                return False
            waiting.append((inside, field.message_type, depth + 1))
    return True


def _inlined(model: Any, name: str) -> Any:
    """The model with its local functions written out. Raises ModelError where they call themselves or grow too far."""
    if not model.functions:
        return model
    functions = {(function.domain, function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Any, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise ModelError(f"{name} has functions that call themselves, or nest too deeply.", cure=OTHER_THAN_ONNX)
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in functions and key not in sizes:
                sizes[key] = size(functions[key].node, depth + 1)
            total += sizes.get(key, 1)
        return total

    if size(model.graph.node, 0) > MAX_NODES:
        raise ModelError(f"{name} has functions that unfold into more than {MAX_NODES:,} nodes.", cure=OTHER_THAN_ONNX)
    try:
        from onnx import inliner

        return inliner.inline_local_functions(model)
    except Exception as error:  # the inliner's own kinds of error differ from version to version
        raise ModelError(
            f"{name} has functions that cannot be inlined: {plain(error)}.", cure=OTHER_THAN_ONNX
        ) from error


def in_one(content: bytes, name: str, folder: Path) -> bytes:
    """The file with the external data of `folder` in it, so that one hash covers all; as it is where it has none.

    Raises ModelError as `parse` does for data that cannot be read.
    """
    model = parse_only(content, name)
    if all(proto.data_location != EXTERNAL for proto in tensors(model)):
        return content
    take_in(model, name, folder)
    try:
        whole: bytes = model.SerializeToString(deterministic=True)
    except Exception as error:  # protobuf's own kind of error, above 2 GiB
        raise ModelError(
            f"{name} and the weights beside it are too large for one ONNX file.", cure=OTHER_THAN_ONNX
        ) from error
    return whole
