"""What in an ONNX graph a search by gradients cannot see, or what needs its author's code: told without building it."""

from collections.abc import Iterator
from typing import Any

from neural_cleanse.loading.network import MAX_FINDINGS, FileIssue
from neural_cleanse.loading.onnx.external import EXTERNAL
from neural_cleanse.loading.onnx.file import CONTROL_FLOW, OUR_DOMAINS, place
from neural_cleanse.text import plain

# Constant almost everywhere: what stands behind them gets no gradient from the image.
STEPS = ("ArgMax", "ArgMin", "Ceil", "Floor", "Hardmax", "IsInf", "NonZero", "OneHot", "Round", "Sign", "TopK")
COMPARISONS = ("And", "Equal", "Greater", "GreaterOrEqual", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor")
FORGET_THE_IMAGE = ("Shape", "Size", "ConstantOfShape")  # they depend on its size alone


def findings_of(model: Any) -> tuple[FileIssue, ...]:
    """Control flow, choices that depend on the image, custom operators and data outside the file, with their places.

    Of a parsed model, its functions and inner graphs included; it need not be one that can be built.
    """
    found: dict[FileIssue, None] = {}
    own = {(function.domain, function.name) for function in model.functions}
    graphs = [([value.name for value in model.graph.input], model.graph.node, model.graph.initializer)]
    graphs += [(function.input, function.node, ()) for function in model.functions]
    while graphs:
        inputs, nodes, initializers = graphs.pop()
        kept = {tensor.name for tensor in initializers}
        for finding in _of_nodes(nodes, {value for value in inputs if value not in kept}, own):
            found[finding] = None
        for tensor in initializers:
            if tensor.data_location == EXTERNAL:
                where = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
                found[FileIssue(plain(tensor.name), f"weights outside the file, in {plain(where)}")] = None
        for node in nodes:
            for item in node.attribute:
                for inner in ([item.g] if item.HasField("g") else []) + list(item.graphs):
                    inputs = [value.name for value in inner.input]
                    graphs.append((inputs, inner.node, inner.initializer))
    return tuple(found)[:MAX_FINDINGS]


def _of_nodes(nodes: Any, from_image: set[str], own: set[tuple[str, str]]) -> Iterator[FileIssue]:
    compared: set[str] = set()  # true or false, decided by the image
    guards: set[tuple[str, str]] = set()  # "is this softmax NaN", which torch's exporter writes after every attention
    soft: set[str] = set()
    for node in nodes:
        inputs = [value for value in node.input if value]
        touched = any(value in from_image for value in inputs) and node.op_type not in FORGET_THE_IMAGE
        if touched:
            from_image.update(value for value in node.output if value)
        if node.op_type in CONTROL_FLOW:
            yield FileIssue(place(node), "control flow: which part runs may depend on the image")
        elif node.domain not in OUR_DOMAINS and (node.domain, node.op_type) not in own:
            what = f"a custom operator of {plain(node.domain)}: it needs its author's code"
            yield FileIssue(place(node), what, runs_code=True)
        elif node.op_type == "Softmax":
            soft.update(node.output)
        elif node.op_type in COMPARISONS and touched:
            compared.update(node.output)
            if node.op_type == "IsNaN" and inputs[0] in soft:
                guards.add((node.output[0], inputs[0]))
        elif node.op_type == "Where" and inputs and inputs[0] in from_image and (inputs[0], inputs[-1]) not in guards:
            yield FileIssue(place(node), "a choice that depends on the image and gives no gradient")
        elif node.op_type == "Cast" and inputs and inputs[0] in compared:
            yield FileIssue(place(node), "a comparison with the image used as a number: it gives no gradient")
        elif node.op_type in STEPS and touched:
            yield FileIssue(place(node), "a step function of the image: it gives no gradient")
