"""Small ONNX graphs for the tests, made in code."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from neural_cleanse.loading.network import Network
from neural_cleanse.loading.onnx import reader

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
helper, node = onnx.helper, onnx.helper.make_node

SHAPE = (3, 16, 16)
FLOAT = 1


def values(**arrays: Any) -> list[Any]:
    return [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def graph(
    nodes: list[Any],
    initializers: list[Any] | None = None,
    shape: Any = ("n", *SHAPE),
    *,
    opset: int = 17,
    kind: int = FLOAT,
    inputs: list[Any] | None = None,
    outputs: Sequence[str] = ("y",),
    functions: list[Any] | None = None,
    imports: list[Any] | None = None,
) -> Any:
    """A model from `images` to `y`."""
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("images", kind, shape), *(inputs or [])],
            [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
            initializers or [],
        ),
        opset_imports=[helper.make_opsetid("", opset), *(imports or [])],
        ir_version=8,
        functions=functions or [],
    )


# What ends in the mean of each channel of `features`.
HEAD = (
    node("GlobalAveragePool", ["features"], ["pooled"]),
    node("Flatten", ["pooled"], ["flat"]),
)


def with_head(*nodes: Any, initializers: list[Any] | None = None, **options: Any) -> Any:
    """A graph that ends in the mean of each channel of `features`."""
    return graph([*nodes, *HEAD, node("Identity", ["flat"], ["y"])], initializers, **options)


def read(model: Any) -> Network:
    return reader.read(model.SerializeToString(), "model.onnx")
