"""Whether an ONNX graph is made for pixels in 0-255: it divides them by 255 itself, or takes a mean of bytes off."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from neural_cleanse.loading.byte_pixels import scaling, standardising, subtracting
from neural_cleanse.loading.onnx.file import tensor_of

LEAVE_RANGE = ("Identity", "Cast", "Transpose", "Resize", "Reshape", "Squeeze", "Unsqueeze", "Pad", "Dropout")
MEAN = 3  # place of the running mean among the inputs of a BatchNormalization
MAX_PASSED = 20  # nodes that leave the range as it is


def takes_bytes(graph: Any, image: str) -> str | None:
    """In words, what the graph does to pixels in 0-255 first of all; None where nothing says that it takes them."""
    constants = _constants(graph)
    for _ in range(MAX_PASSED):
        users = [node for node in graph.node if image in node.input]
        if len(users) != 1:
            return None
        node = users[0]
        if node.op_type in LEAVE_RANGE and node.output:
            image = node.output[0]
            continue
        if node.op_type == "BatchNormalization" and len(node.input) > MEAN and node.input[MEAN] in constants:
            return standardising(tensor_of(constants[node.input[MEAN]]).flatten().tolist())
        value = next((constants[name] for name in node.input if name in constants), None)
        if value is None or (node.input[0] != image and node.op_type != "Mul"):
            return None
        return _said(node.op_type, value)
    return None


def _constants(graph: Any) -> Mapping[str, Any]:
    found = {proto.name: proto for proto in graph.initializer}
    for node in graph.node:
        value = next((item.t for item in node.attribute if item.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            found[node.output[0]] = value
    return found


def _said(operator: str, proto: Any) -> str | None:
    value: Tensor = tensor_of(proto)
    if not value.is_floating_point() or not 1 <= value.numel() <= 4:
        return None
    numbers = [float(number) for number in value.flatten()]
    if operator in ("Div", "Mul"):
        return scaling([1 / number if operator == "Div" else number for number in numbers if number])
    return subtracting(numbers) if operator == "Sub" else None
