"""ONNX files that are hostile, broken or not image classifiers: one clear answer, nothing opened, nothing reserved."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_graphs import FLOAT, HEAD, graph, helper, node, read, values, with_head

from neural_cleanse.errors import ModelError, NeuralCleanseError, UnknownFormat, UnusableOutputs
from neural_cleanse.loading.onnx import operators as onnx_operators
from neural_cleanse.loading.onnx import reader


def relu_model(**changes: Any) -> Any:
    return with_head(node("Relu", ["images"], ["features"]), **changes)


def lying_tensor(**fields: Any) -> Any:
    model = with_head(node("Mul", ["images", "w"], ["features"]))
    model.graph.initializer.add(name="w", **{"data_type": FLOAT, **fields})
    return model


def external(location: str) -> Any:
    model = lying_tensor(dims=[1], data_location=1)
    model.graph.initializer[0].external_data.add(key="location", value=location)
    return model


def grows(steps: int) -> Any:
    """Constants that double, from a file of a few hundred bytes."""
    nodes = [node("Concat", [f"d{n}", f"d{n}"], [f"d{n + 1}"], axis=0) for n in range(steps)]
    nodes.append(node("ReduceSum", [f"d{steps}"], ["total"]))
    nodes.append(node("Mul", ["images", "total"], ["features"]))
    return with_head(*nodes, initializers=values(d0=np.ones(8, "f4")))


def through(*nodes: Any, **arrays: Any) -> Any:
    return with_head(*nodes, initializers=values(**arrays))


def branching() -> Any:
    branch = helper.make_graph(
        [node("Relu", ["images"], ["b"])], "branch", [], [helper.make_tensor_value_info("b", FLOAT, None)]
    )
    return with_head(
        node("If", ["c"], ["features"], "fork", then_branch=branch, else_branch=branch),
        initializers=values(c=np.array(True)),
    )


def calls_itself() -> Any:
    imports = [helper.make_opsetid("own", 1)]
    again = helper.make_function("own", "F", ["x"], ["z"], [node("F", ["x"], ["z"], domain="own")], imports)
    return with_head(node("F", ["images"], ["features"], domain="own"), functions=[again], imports=imports)


def unfolds(depth: int) -> Any:
    """Functions that call the next one twice: 2 to the depth nodes."""
    imports = [helper.make_opsetid("own", 1), helper.make_opsetid("", 17)]
    functions = [
        helper.make_function(
            "own", f"F{n}", ["x"], ["z"],
            [node(f"F{n + 1}", [a], [b], domain="own") for a, b in (("x", "t"), ("t", "z"))], imports,
        )
        for n in range(depth)
    ]  # fmt: skip
    last = [node("Relu", ["x"], ["z"])]
    functions.append(helper.make_function("own", f"F{depth}", ["x"], ["z"], last, imports))
    call = node("F0", ["images"], ["features"], domain="own")
    return with_head(call, functions=functions, imports=imports[:1])


HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "absolute external data": (lambda: external("/etc/passwd"), "outside its folder"),
    "external data above": (lambda: external("a/../../secret"), "outside its folder"),
    "external data of Windows": (lambda: external("..\\secret"), "outside its folder"),
    "external data beside": (lambda: external("weights.bin"), "save_as_external_data=False"),
    "a shape without data": (lambda: lying_tensor(dims=[10**6, 10**6]), "holds 0 values"),
    "a huge shape of nothing": (lambda: lying_tensor(dims=[2**62, 0, 2**62]), "damaged"),
    "a negative shape": (lambda: lying_tensor(dims=[-1, -4], float_data=[1.0] * 4), "damaged"),
    "an odd number of bytes": (lambda: lying_tensor(dims=[1], raw_data=b"123"), "damaged"),
    "text for weights": (lambda: lying_tensor(dims=[1], data_type=8, string_data=[b"x"]), "not read"),
    "a huge constant": (
        lambda: through(
            node("ConstantOfShape", ["s"], ["big"]),
            node("ReduceSum", ["big"], ["t"]),
            node("Mul", ["images", "t"], ["features"]),
            s=np.array([10**6, 10**6]),
        ),
        "asks for a tensor of shape",
    ),
    "a huge range": (
        lambda: through(
            node("Range", ["a", "b", "c"], ["big"]),
            node("ReduceSum", ["big"], ["t"]),
            node("Mul", ["images", "t"], ["features"]),
            a=np.float32(0),
            b=np.float32(1e15),
            c=np.float32(1),
        ),
        "asks for a tensor of shape",
    ),
    "doubling constants": (lambda: grows(40), "larger than the file"),
    "a huge expansion": (
        lambda: through(node("Expand", ["images", "s"], ["features"]), s=np.array([10**9, 1, 3, 16, 16])),
        "For one image",
    ),
    "a huge tile": (
        lambda: through(node("Tile", ["images", "s"], ["features"]), s=np.array([1, 1, 10**4, 10**4])),
        "For one image",
    ),
    "a huge enlargement": (
        lambda: through(node("Resize", ["images", "", "s"], ["features"]), s=np.array([1, 1, 1e4, 1e4], "f4")),
        "For one image",
    ),
    "a huge padding": (
        lambda: through(node("Pad", ["images", "p"], ["features"]), p=np.array([0] * 6 + [0, 10**12])),
        "For one image",
    ),
    "growth with the square of the batch": (
        lambda: graph(
            [
                node("Flatten", ["images"], ["f"]),
                node("Transpose", ["f"], ["t"], perm=[1, 0]),
                node("MatMul", ["f", "t"], ["y"]),
            ]
        ),
        "grows faster",
    ),
    "a branch": (branching, r"control flow at If 'fork'"),
    "a custom operator": (
        lambda: with_head(node("Evil", ["images"], ["features"], "run", domain="my.ops")),
        "custom operator",
    ),
    "Microsoft's operators": (
        lambda: with_head(node("Gelu", ["images"], ["features"], domain="com.microsoft")),
        "custom operator",
    ),
    "a function that calls itself": (calls_itself, "call themselves"),
    "functions that unfold": (lambda: unfolds(40), "unfold into more than"),
    "parts that do not add up": (
        lambda: with_head(node("Split", ["images"], ["features", "rest"], axis=1, num_outputs=9), opset=18),
        "2 results makes 3",
    ),
    "an unknown operator": (
        lambda: with_head(node("NonZero", ["images"], ["features"], "odd")),
        "NonZero 'odd', which is not read",
    ),
    "a quantised operator": (
        lambda: through(node("QuantizeLinear", ["images", "s"], ["features"]), s=np.float32(1)),
        "before it was quantised",
    ),
    "an unknown attribute": (lambda: with_head(node("Relu", ["images"], ["features"], twist=3)), "twist"),
    "a wrong attribute": (
        lambda: with_head(node("Elu", ["images"], ["features"], alpha="big")),
        "alpha of the wrong type",
    ),
    "chance": (
        lambda: through(node("Dropout", ["images", "r", "t"], ["features"]), r=np.float32(0.5), t=np.array(True)),
        "by chance",
    ),
    "training mode": (
        lambda: through(
            node("BatchNormalization", ["images", "a", "a", "a", "a"], ["features"], training_mode=1),
            a=np.ones(3, "f4"),
        ),
        "eval mode",
    ),
    "NaN weights": (
        lambda: through(node("Conv", ["images", "w"], ["features"]), w=np.full((1, 3, 3, 3), np.nan, "f4")),
        "NaN or Inf",
    ),
    "weights that do not fit": (
        lambda: through(node("Conv", ["images", "w"], ["features"]), w=np.ones((1, 4, 3, 3), "f4")),
        "Conv",
    ),
    "no groups": (
        lambda: through(node("Conv", ["images", "w"], ["features"], group=0), w=np.ones((1, 3, 3, 3), "f4")),
        "Conv",
    ),
    "no stride": (
        lambda: with_head(node("MaxPool", ["images"], ["features"], kernel_shape=[2, 2], strides=[0, 0])),
        "MaxPool",
    ),
    "a name twice": (lambda: with_head(node("Relu", ["images"], ["images"])), "is taken"),
    "a loop of values": (lambda: with_head(node("Add", ["images", "pooled"], ["features"])), "nothing before it makes"),
    "two inputs": (
        lambda: relu_model(inputs=[helper.make_tensor_value_info("mask\n", FLOAT, [1])]),
        r"2 inputs \(images, mask\?\)",
    ),
    "vectors": (lambda: graph([node("Relu", ["images"], ["y"])], shape=("n", 783)), "rows of 783 values"),
    "huge images": (lambda: relu_model(shape=("n", 3, 10**6, 10**6)), "too large"),
    "a huge batch": (lambda: relu_model(shape=(10**9, 3, 8, 8)), "too large"),
    "an old opset": (lambda: relu_model(opset=6), "opset 6"),
    "a new opset": (lambda: relu_model(opset=99), "opset 99"),
    "no output": (lambda: graph([node("Relu", ["images"], ["y"])], outputs=[]), "0 outputs"),
    "an output from nowhere": (lambda: graph([node("Relu", ["images"], ["z"])]), "made by none"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_get_one_clear_answer(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, message = HOSTILE[case]
    monkeypatch.chdir(tmp_path)
    content = build().SerializeToString()
    with pytest.raises(ModelError, match=message) as caught:
        reader.read(content, "model.onnx")
    assert str(caught.value).startswith("model.onnx")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    assert list(tmp_path.iterdir()) == []


def test_several_outputs_and_labels_are_not_scores() -> None:
    two = graph([node("Relu", ["images"], ["y"]), node("Neg", ["images"], ["z"])], outputs=["y", "z"])
    with pytest.raises(UnusableOutputs, match=r"2 outputs \(y, z\).*extract_model"):
        read(two)
    with pytest.raises(UnusableOutputs, match="tells the label"):
        read(graph([*HEAD[1:], node("ArgMax", ["flat"], ["y"])], values(pooled=np.ones((1, 3, 1, 1), "f4"))))
    with pytest.raises(UnusableOutputs, match="does not depend on the image"):
        read(graph([node("Relu", ["c"], ["y"])], values(c=np.ones((1, 5), "f4"))))


def test_damaged_and_empty_files() -> None:
    content = relu_model().SerializeToString()
    for damaged in (content[:-3], content[: len(content) // 2], b"\x08\x08\x3a\xff", b"\xff" * 50):
        with pytest.raises(ModelError):
            reader.read(damaged, "m")
    with pytest.raises(UnknownFormat, match="without a graph"):
        reader.read(b"\x08\x08", "m")


def test_many_empty_messages_are_counted_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neural_cleanse.loading.onnx.file.MAX_MESSAGES", 10_000)
    nodes = b"\x0a\x00" * 40_000
    body = b"\x3a" + bytes([len(nodes) & 127 | 128, len(nodes) >> 7 & 127 | 128, len(nodes) >> 14]) + nodes
    with pytest.raises(ModelError, match="more than 10,000 parts"):
        reader.read(b"\x08\x08" + body, "m")


def test_a_runtime_that_disagrees_stops_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {**onnx_operators.OPERATORS, "Relu": onnx_operators.OPERATORS["Neg"]}
    monkeypatch.setattr(reader, "OPERATORS", table)
    with pytest.raises(ModelError, match="other outputs in onnxruntime"):
        read(relu_model())


def test_without_onnxruntime_it_says_so_and_without_onnx_it_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = relu_model().SerializeToString()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert reader.read(content, "m").assumed == ("not compared with onnxruntime, which is not installed",)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError, match=r"neural-cleanse\[onnx\]"):
        reader.read(content, "m")


# --- findings ---


def test_findings_have_their_places_even_where_the_graph_cannot_be_read() -> None:
    assert [finding.place for finding in found(branching())] == ["If 'fork'"]
    evil = found(with_head(node("Evil", ["images"], ["features"], "run", domain="my.ops")))
    assert [(finding.place, finding.runs_code) for finding in evil] == [("Evil 'run'", True)]
    assert "outside the file, in ../x" in found(external("../x"))[0].what
    with pytest.raises(ModelError):
        reader.findings(b"\xff\xff", "m")


def found(model: Any) -> Any:
    return reader.findings(model.SerializeToString(), "m")


def test_a_choice_by_the_image_is_found_and_one_by_its_size_is_not() -> None:
    choice = through(
        node("Greater", ["images", "t"], ["g"]),
        node("Where", ["g", "images", "t"], ["w"], "trap"),
        node("Round", ["w"], ["features"], "step"),
        t=np.float32(0),
    )
    assert [finding.place for finding in read(choice).findings] == ["Where 'trap'", "Round 'step'"]
    by_size = through(
        node("Shape", ["images"], ["s"]), node("Equal", ["s", "m"], ["e"]), node("Where", ["e", "m", "s"], ["to"]),
        node("Reshape", ["images", "to"], ["features"]), m=np.array([-1, 3, 16, 16]),
    )  # fmt: skip
    assert read(by_size).findings == ()


# --- fuzz ---


def small() -> bytes:
    """A convolution, pooling and a head whose shapes were written for one image."""
    rng = np.random.default_rng(0)
    arrays = values(
        w=rng.normal(size=(2, 3, 3, 3)).astype("f4"),
        v=rng.normal(size=(98, 3)).astype("f4"),
        b=np.zeros(3, "f4"),
        s=np.array([1, -1]),
    )
    nodes = [
        node("Conv", ["images", "w"], ["c"], strides=[1, 1], pads=[0, 0, 0, 0]),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", ["p", "s"], ["f"]),
        node("Gemm", ["f", "v", "b"], ["y"], alpha=0.5),
    ]
    model = graph(nodes, arrays, (1, 3, 16, 16))
    return bytes(model.SerializeToString())


SEED = small()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
def test_only_our_own_errors_come_out_of_a_damaged_file(data: st.DataObject) -> None:
    content = bytearray(SEED)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if kind == "set":
            content[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 20))]
        else:
            content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    with contextlib.suppress(NeuralCleanseError):
        loaded = reader.read(bytes(content), "m")
        reader.rewrite(bytes(content), loaded.module.state_dict())
