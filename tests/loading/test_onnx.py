"""ONNX: what any exporter writes is read exactly, for any batch, differentiably; what is hostile is refused."""

import copy
import io
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx_graphs import FLOAT, SHAPE, graph, helper, node, onnx, onnxruntime, read, values, with_head
from torch import Tensor, nn

from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import ModelError
from neural_cleanse.loading.network import Network
from neural_cleanse.loading.onnx import reader
from neural_cleanse.probe import probe

DIM = 16  # width of the transformer


class Residual(nn.Module):
    """Batch norms, a depthwise and a grouped convolution, a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1, groups=2)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        skip = torch.relu(self.norm(self.first(images)))
        deep = nn.functional.silu(self.grouped(self.depthwise(skip)) + skip)
        logits: Tensor = self.head(nn.functional.max_pool2d(deep, 3, 2, 1).mean((2, 3)))
        return logits


class Transformer(nn.Module):
    """One block of a vision transformer, with a class token, written as timm does."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, DIM, 4, stride=4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, DIM)), nn.Parameter(torch.randn(1, 17, DIM))
        self.norm, self.mixer, self.out = nn.LayerNorm(DIM), nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.head = nn.Linear(DIM, 7)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        n = x.shape[0]
        x = torch.cat([self.token.expand(n, -1, -1), x], 1) + self.position
        query, key, value = self.mixer(self.norm(x)).reshape(n, 17, 3, 2, DIM // 2).permute(2, 0, 3, 1, 4).unbind(0)
        shares = (query @ key.transpose(-2, -1) / 3).softmax(-1)
        x = x + self.out((shares @ value).transpose(1, 2).reshape(n, 17, DIM))
        logits: Tensor = self.head(nn.functional.gelu(x)[:, 0])
        return logits


def sequential() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.Dropout(),
        nn.AvgPool2d(2, padding=1), nn.Flatten(), nn.Linear(128, 6), nn.Softmax(1),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "sequential": sequential,
    "residual": Residual,
    "transformer": Transformer,
}


def network(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = NETWORKS[kind]().eval()
        for norm in made.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    return made


def exported(module: nn.Module, opset: int, *, any_batch: bool, dynamo: bool = False, **options: Any) -> bytes:
    pytest.importorskip("onnxscript")
    stream = io.BytesIO()
    if any_batch and dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    elif any_batch:
        options["dynamic_axes"] = {"images": {0: "batch"}}
    example = torch.zeros(2 if any_batch else 1, *SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own
        torch.onnx.export(
            module, (example,), stream, opset_version=opset, dynamo=dynamo, input_names=["images"], verbose=False,
            external_data=False, **options,
        )  # fmt: skip
    return stream.getvalue()


@pytest.fixture(scope="module")
def residual_file() -> bytes:
    return exported(network("residual"), 17, any_batch=True)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.randn(7, *SHAPE, generator=torch.Generator().manual_seed(1))


def run(content: bytes, images: Any) -> Tensor:
    """What onnxruntime answers."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: np.asarray(images)})[0])


# --- exporters ---

LEGACY = [
    ("sequential", 9, True), ("residual", 9, False), ("residual", 11, True), ("sequential", 13, False),
    ("transformer", 13, True), ("transformer", 17, False), ("transformer", 20, True), ("residual", 20, False),
]  # fmt: skip


def check(content: bytes, module: nn.Module, pictures: Tensor, any_batch: bool) -> Network:
    loaded = reader.read(content, "model.onnx")
    assert (loaded.container, loaded.trust, loaded.input_shape) == ("ONNX", "graph of known operators", SHAPE)
    assert loaded.assumed == () and loaded.findings == ()
    for size in (1, 7):
        with torch.no_grad():
            ours = loaded.module(pictures[:size])
        batches = [pictures[:size]] if any_batch else pictures[:size].split(1)
        theirs = torch.cat([run(content, batch) for batch in batches])
        if any(isinstance(layer, nn.Softmax) for layer in module.modules()):
            assert not torch.allclose(ours.sum(1), torch.ones(size), atol=1e-3), "the softmax is left out"
            ours = ours.softmax(1)
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert loaded.num_classes == ours.shape[1]
    return loaded


@pytest.mark.parametrize(("kind", "opset", "any_batch"), LEGACY)
def test_what_the_torchscript_exporter_writes(kind: str, opset: int, any_batch: bool, pictures: Tensor) -> None:
    module = network(kind)
    check(exported(module, opset, any_batch=any_batch), module, pictures, any_batch)


@pytest.mark.parametrize(("kind", "opset", "any_batch"), [("transformer", 18, True), ("residual", 23, False)])
def test_what_the_dynamo_exporter_writes(kind: str, opset: int, any_batch: bool, pictures: Tensor) -> None:
    module = network(kind)
    check(exported(module, opset, any_batch=any_batch, dynamo=True), module, pictures, any_batch)


def test_layers_can_be_tapped_pruned_and_copied_and_pixels_get_a_gradient(
    residual_file: bytes, pictures: Tensor
) -> None:
    module = network("residual")
    loaded = reader.read(residual_file, "m").module
    assert sorted(type(layer).__name__ for layer in loaded.modules()) == sorted(
        ["GraphNetwork", "ModuleDict", "Linear", *["Conv2d"] * 3]
    )
    assert torch.equal(copy.deepcopy(loaded)(pictures), loaded(pictures))
    ours, theirs = pictures.clone().requires_grad_(), pictures.clone().requires_grad_()
    loaded(ours).square().sum().backward()
    module(theirs).square().sum().backward()
    assert ours.grad is not None and theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-4)
    head = next(layer for layer in loaded.modules() if isinstance(layer, nn.Linear))
    seen: list[Tensor] = []
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loaded(pictures)
    assert seen[0].shape == (7, 8)


def test_separate_batch_norms_stay_layers_and_shared_weights_get_copies(pictures: Tensor) -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(768, 4)).eval()
    loaded = reader.read(exported(module, 17, any_batch=True), "m").module
    norms = [layer for layer in loaded.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 2 and norms[0].weight.data_ptr() != norms[1].weight.data_ptr()
    assert torch.allclose(loaded(pictures), module(pictures), atol=1e-5)
    assert probe(loaded, torch.rand(8, *SHAPE), Normalize())[0] == 4


@pytest.mark.skipif("KERAS_BACKEND" in os.environ and os.environ["KERAS_BACKEND"] != "torch", reason="another backend")
def test_what_keras_writes(tmp_path: Path, pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((16, 16, 3)), layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
         layers.BatchNormalization(), layers.MaxPooling2D(2), layers.Flatten(), layers.Dense(6, activation="softmax")]
    )  # fmt: skip
    images = pictures.permute(0, 2, 3, 1).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras's own
        expected = torch.from_numpy(model.predict(images, verbose=0))
        model.export(tmp_path / "m.onnx", format="onnx", verbose=False)
    loaded = reader.read((tmp_path / "m.onnx").read_bytes(), "m.onnx")
    assert loaded.input_shape == SHAPE
    assert torch.allclose(loaded.module(pictures).softmax(1), expected, atol=1e-5)


# --- inputs ---


def tf2onnx_like(shape: Any, kind: int = FLOAT, *, extra: tuple[Any, ...] = ()) -> Any:
    """As tf2onnx writes a convolution with SAME padding: channels last, turned and turned back."""
    rng = np.random.default_rng(0)
    arrays = values(w=rng.normal(size=(4, 3, 3, 3)).astype("f4"), b=rng.normal(size=4).astype("f4"))
    nodes = [
        *extra,
        node("Transpose", [extra[-1].output[0] if extra else "images"], ["nchw"], perm=[0, 3, 1, 2]),
        node("Conv", ["nchw", "w", "b"], ["c"], auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Transpose", ["c"], ["nhwc"], perm=[0, 2, 3, 1]),
        node("ReduceMean", ["nhwc"], ["m"], axes=[1, 2], keepdims=0),
        node("Softmax", ["m"], ["y"]),
    ]
    return graph(nodes, arrays, shape, kind=kind)


@pytest.mark.parametrize("shape", [("n", 10, 12, 3), (1, 10, 12, 3), ("n", 3, 12, 3), ("n", "h", "w", "c")])
def test_channels_last(shape: Any) -> None:
    model = tf2onnx_like(shape)
    loaded = read(model)
    guessed = shape in (("n", 3, 12, 3), ("n", "h", "w", "c"))
    assert any("channels come last" in text for text in loaded.assumed) == guessed
    assert loaded.input_shape == (None if "h" in shape else (3, *shape[1:3]))
    images = torch.rand(1, 3, *(shape[1:3] if "h" not in shape else (9, 11)))
    theirs = run(model.SerializeToString(), images.permute(0, 2, 3, 1).contiguous())
    assert torch.allclose(loaded.module(images).softmax(1), theirs, atol=1e-5)


@pytest.mark.parametrize(("kind", "dtype"), [(2, torch.uint8), (6, torch.int32), (7, torch.int64)])
def test_whole_numbers_are_pixels_from_0_to_255(kind: int, dtype: torch.dtype) -> None:
    model = tf2onnx_like(("n", 10, 12, 3), kind, extra=(node("Cast", ["images"], ["floats"], to=FLOAT),))
    loaded = read(model)
    assert loaded.normalize == Normalize(scale=255.0)
    images = torch.randint(256, (4, 3, 10, 12))
    theirs = run(model.SerializeToString(), images.permute(0, 2, 3, 1).to(dtype).contiguous())
    assert torch.allclose(loaded.module(images.float()).softmax(1), theirs, atol=1e-5)


def test_images_without_a_channel_axis() -> None:
    arrays = values(w=np.eye(784, 5, dtype="f4"), s=np.array([-1, 784]))
    nodes = [node("Reshape", ["images", "s"], ["x"]), node("MatMul", ["x", "w"], ["y"])]
    loaded = read(graph(nodes, arrays, ("n", 28, 28)))
    assert loaded.input_shape == (1, 28, 28) and len(loaded.assumed) == 1
    assert loaded.module(torch.ones(3, 1, 28, 28)).shape == (3, 5)


@pytest.mark.parametrize("ir_version", [3, 8])
def test_initializers_that_are_inputs_too_as_before_2019(ir_version: int) -> None:
    weight = values(w=np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype("f4"))
    model = with_head(
        node("Conv", ["images", "w"], ["features"]), initializers=weight, opset=8,
        inputs=[helper.make_tensor_value_info("w", FLOAT, [4, 3, 3, 3])],
    )  # fmt: skip
    model.ir_version = ir_version
    loaded = read(model)
    state = {key: tensor + 1 for key, tensor in loaded.module.state_dict().items()}
    loaded.module.load_state_dict(state)
    images = torch.rand(2, *SHAPE)
    written = reader.rewrite(model.SerializeToString(), state)
    assert torch.allclose(run(written, images), loaded.module(images), atol=1e-4)


def test_label_names_and_the_producer_are_read_and_sanitized() -> None:
    for text, expected in [
        (json.dumps(["cat", "dog\x1b[31m"]), ("cat", "dog\x1b[31m")),  # whoever shows a label makes it safe
        (json.dumps({"1": "b", "0": "a"}), ("a", "b")),
        ("{0: 'a', 1: 'b'}", None),
        ("[1, 2]", None),
        ("[" * 10_000, None),
        (json.dumps(["x" * 10_000]), ("x" * 200,)),
    ]:
        model = with_head(node("Relu", ["images"], ["features"]))
        model.metadata_props.add(key="names", value=text)
        model.producer_name = "py\x1b[31mtorch" + "x" * 1000
        loaded = read(model)
        assert loaded.label_names == expected
        assert loaded.architecture.isprintable() and len(loaded.architecture) <= 60


# --- operators, each against onnxruntime ---

ONE, TWO = np.float32(1.5), np.array([2, 2])
CASES: dict[str, tuple[Any, ...]] = {  # operator, opset, constant inputs, attributes
    "leaky": ("LeakyRelu", 17, [], {"alpha": 0.3}),
    "prelu": ("PRelu", 17, [np.full((3, 1, 1), 0.2, "f4")], {}),
    "elu": ("Elu", 17, [], {"alpha": 0.7}),
    "selu": ("Selu", 17, [], {}),
    "celu": ("Celu", 17, [], {"alpha": 2.0}),
    "gelu": ("Gelu", 20, [], {"approximate": "tanh"}),
    "hard sigmoid": ("HardSigmoid", 17, [], {"alpha": 0.3}),
    "hard swish": ("HardSwish", 17, [], {}),
    "mish": ("Mish", 18, [], {}),
    "softplus": ("Softplus", 17, [], {}),
    "thresholded": ("ThresholdedRelu", 17, [], {"alpha": 0.4}),
    "erf": ("Erf", 17, [], {}),
    "power": ("Pow", 17, [np.float32(2)], {}),
    "divide": ("Div", 17, [np.full((3, 1, 1), 2, "f4")], {}),
    "maximum": ("Max", 17, [ONE, np.full((3, 1, 1), -0.1, "f4")], {}),
    "mean": ("Mean", 17, [ONE], {}),
    "clip 6": ("Clip", 8, [], {"min": -0.5, "max": 0.5}),
    "clip 13": ("Clip", 13, [np.float32(-0.5), np.float32(0.5)], {}),
    "clip above": ("Clip", 13, [None, np.float32(0.5)], {}),
    "softmax 9": ("Softmax", 9, [], {"axis": 1}),
    "softmax 13": ("Softmax", 13, [], {"axis": 1}),
    "log softmax": ("LogSoftmax", 13, [], {}),
    "lrn": ("LRN", 17, [], {"size": 3, "alpha": 0.1}),
    "norm": ("LpNormalization", 17, [], {"axis": 1}),
    "instance norm": ("InstanceNormalization", 17, [np.ones(3, "f4"), np.ones(3, "f4")], {}),
    "layer norm": ("LayerNormalization", 17, [np.ones(16, "f4"), np.ones(16, "f4")], {}),
    "group norm": ("GroupNormalization", 21, [np.ones(3, "f4"), np.ones(3, "f4")], {"num_groups": 3}),
    "max pool": ("MaxPool", 17, [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "max pool uneven": ("MaxPool", 17, [], {"kernel_shape": [3, 2], "pads": [0, 0, 1, 1], "strides": [2, 1]}),
    "max pool same": ("MaxPool", 17, [], {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "max pool wide": ("MaxPool", 17, [], {"kernel_shape": [2, 2], "dilations": [3, 3]}),
    "average pool": ("AveragePool", 17, [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "average pool counted": (
        "AveragePool",
        17,
        [],
        {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1], "count_include_pad": 1},
    ),
    "average pool same": ("AveragePool", 17, [], {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER", "strides": [3, 3]}),
    "average pool ceil": ("AveragePool", 17, [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "conv uneven": ("Conv", 17, [np.ones((2, 3, 3, 3), "f4")], {"pads": [0, 1, 2, 1], "dilations": [2, 1]}),
    "conv same": ("Conv", 17, [np.ones((2, 3, 2, 2), "f4")], {"auto_pad": "SAME_LOWER", "strides": [3, 3]}),
    "transposed": (
        "ConvTranspose",
        17,
        [np.ones((3, 2, 3, 2), "f4")],
        {"strides": [2, 3], "pads": [1, 0, 1, 0], "output_padding": [1, 0]},
    ),
    "transposed uneven": (
        "ConvTranspose",
        17,
        [np.ones((3, 2, 3, 3), "f4"), np.ones(2, "f4")],
        {"pads": [0, 1, 2, 0], "strides": [2, 2]},
    ),
    "transposed groups": ("ConvTranspose", 17, [np.ones((3, 1, 2, 2), "f4")], {"group": 3, "dilations": [2, 1]}),
    "pad 2": ("Pad", 9, [], {"pads": [0, 0, 1, 2, 0, 0, 3, 4], "value": 1.5}),
    "pad 13": ("Pad", 13, [np.array([0, 0, 1, 2, 0, 0, 3, 4])], {"mode": "reflect"}),
    "pad axes": ("Pad", 18, [np.array([1, 2, -1, 0]), ONE, np.array([3, 2])], {}),
    "slice 9": ("Slice", 9, [], {"axes": [2, 3], "starts": [1, -5], "ends": [9, 1000]}),
    "slice back": ("Slice", 13, [np.array([-1]), np.array([-(2**63)]), np.array([3]), np.array([-3])], {}),
    "transpose": ("Transpose", 17, [], {"perm": [0, 1, 3, 2]}),
    "gather": ("Gather", 17, [np.array([[0, -1], [1, 1]])], {"axis": 3}),
    "expand": ("Expand", 17, [np.array([3, 16, 1])], {}),
    "tile": ("Tile", 17, [np.array([1, 1, 2, 1])], {}),
    "depth to space": ("DepthToSpace", 17, [], {"blocksize": 1}),
    "space to depth": ("SpaceToDepth", 17, [], {"blocksize": 4}),
    "upsample": ("Upsample", 9, [np.array([1, 1, 2, 2], "f4")], {"mode": "linear"}),
    "resize nearest": ("Resize", 13, [None, np.array([1, 1, 1.7, 0.6], "f4")], {"nearest_mode": "floor"}),
    "resize linear": ("Resize", 18, [None, None, np.array([7, 23])], {"mode": "linear", "axes": [2, 3]}),
    "resize cubic": ("Resize", 13, [None, np.array([1, 1, 2, 2], "f4")], {"mode": "cubic"}),
    "resize corners": (
        "Resize",
        13,
        [None, None, np.array([1, 3, 5, 31])],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    "resize smooth": ("Resize", 19, [None, None, np.array([5, 9])], {"mode": "linear", "antialias": 1, "axes": [2, 3]}),
    "resize smooth cubic": (
        "Resize",
        19,
        [None, None, np.array([20, 9])],
        {"mode": "cubic", "antialias": 1, "axes": [2, 3]},
    ),
    "resize inside": (
        "Resize",
        19,
        [None, None, np.array([5, 20])],
        {"mode": "cubic", "antialias": 1, "exclude_outside": 1, "cubic_coeff_a": -0.5, "axes": [2, 3]},
    ),
    "resize inside, not smooth": (
        "Resize",
        18,
        [None, None, np.array([5, 20])],
        {"mode": "cubic", "exclude_outside": 1, "axes": [2, 3]},
    ),
    "reduce l2": ("ReduceL2", 13, [], {"axes": [3]}),
    "reduce max": ("ReduceMax", 18, [np.array([-1, 2])], {}),
    "reduce log": ("ReduceLogSumExp", 17, [], {"axes": [2]}),
    "einsum": ("Einsum", 17, [np.ones((16, 4), "f4")], {"equation": "nchw,wd->nchd"}),
    "trilu": ("Trilu", 17, [np.array(1)], {"upper": 0}),
    "mod": ("Mod", 17, [np.float32(0.7)], {"fmod": 1}),
    "where": ("Where", 17, [], {}),
    "global max": ("GlobalMaxPool", 17, [], {}),
    "cast": ("Cast", 17, [], {"to": 11}),
}


@pytest.mark.parametrize("case", CASES)
def test_operators(case: str, pictures: Tensor) -> None:
    op_type, opset, constants, attributes = CASES[case]
    names = ["" if array is None else f"c{number}" for number, array in enumerate(constants)]
    arrays = values(**{name: array for name, array in zip(names, constants, strict=True) if name})
    before, inputs = [], ["images", *names]
    if case == "where":
        arrays = values(zero=np.float32(0), other=np.float32(7))
        before, inputs = [node("Less", ["images", "zero"], ["less"])], ["less", "other", "images"]
    nodes = [*before, node(op_type, inputs, ["x"], **attributes)]
    nodes += [node("Cast", ["x"], ["z"], to=FLOAT), node("Flatten", ["z"], ["y"])]
    fixed = case == "resize corners"  # its sizes name the batch
    content = graph(nodes, arrays, (1 if fixed else "n", *SHAPE), opset=opset).SerializeToString()
    loaded = reader.read(content, "m")
    assert loaded.assumed == ()
    images = pictures.clone().requires_grad_()
    ours, theirs = loaded.module(images), torch.cat([run(content, part) for part in pictures.split(1 if fixed else 7)])
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=2e-5)
    ours.sum().backward()
    assert images.grad is not None


def test_a_bias_joins_a_layer_only_where_nothing_else_uses_its_output(pictures: Tensor) -> None:
    rng = np.random.default_rng(0)
    arrays = values(w=rng.normal(size=(3, 3)).astype("f4"), b=rng.normal(size=3).astype("f4"))
    before = [
        node("GlobalAveragePool", ["images"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("MatMul", ["f", "w"], ["m"]),
    ]
    for after in (
        [node("Add", ["m", "b"], ["y"])],
        [node("Add", ["m", "b"], ["a"]), node("Mul", ["a", "m"], ["y"])],
        [node("Identity", ["m"], ["i"]), node("Add", ["i", "b"], ["a"]), node("Mul", ["a", "m"], ["y"])],
    ):
        model = graph([*before, *after], arrays)
        loaded = read(model).module
        (linear,) = (layer for layer in loaded.modules() if isinstance(layer, nn.Linear))
        assert (linear.bias is not None) == (len(after) == 1)
        assert torch.allclose(loaded(pictures), run(model.SerializeToString(), pictures), atol=1e-5)


@pytest.mark.parametrize("shape", [("n", 16, 16), (1, 16, 16)])
def test_sizes_are_computed_with_each_batch(shape: Any) -> None:
    """Shape, Gather, Concat, ConstantOfShape, Expand, Range: what exporters write around a reshape."""
    arrays = values(
        zero=np.array(0), one=np.array(1), axis=np.array([0]), rest=np.array([3, -1]),
        token=np.arange(256, dtype="f4").reshape(1, 1, 256), tail=np.array([1, 256]),
    )  # fmt: skip
    nodes = [
        node("Shape", ["images"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Concat", ["n1", "rest"], ["to"], axis=0),
        node("Concat", ["n1", "tail"], ["size"], axis=0),
        node("Reshape", ["images", "to"], ["rows"]),
        node("Expand", ["token", "size"], ["tokens"]),
        node("Concat", ["tokens", "rows"], ["all"], axis=1),
        node("Gather", ["s", "one"], ["c"]),
        node("Range", ["zero", "c", "one"], ["numbers"]),
        node("Gather", ["all", "numbers"], ["taken"], axis=1),
        node("ConstantOfShape", ["size"], ["zeros"]),
        node("Add", ["taken", "zeros"], ["sum"]),
        node("ReduceMean", ["sum"], ["y"], axes=[2], keepdims=0),
    ]
    model = graph(nodes, arrays, (shape[0], 3, 16, 16))
    loaded = read(model)
    images = torch.randn(5, *SHAPE)
    expected = torch.cat([run(model.SerializeToString(), image) for image in images.split(1)])
    assert torch.allclose(loaded.module(images), expected, atol=1e-5)


def test_a_fixed_batch_is_lifted_wherever_the_images_stand() -> None:
    """Sequence first, as nn.MultiheadAttention does: the images are the second axis, and join the heads."""
    arrays = values(a=np.array([3, 2, 4, 64]), b=np.array([2, 12, 64]), c=np.array([2, -1]))
    nodes = [
        node("Transpose", ["images"], ["t"], perm=[1, 0, 2, 3]),
        node("Reshape", ["t", "a"], ["u"]),
        node("Transpose", ["u"], ["v"], perm=[1, 0, 2, 3]),
        node("Reshape", ["v", "b"], ["w"]),
        node("Reshape", ["w", "c"], ["y"]),
    ]
    model = graph(nodes, arrays, (2, *SHAPE))
    images = torch.randn(6, *SHAPE)
    expected = torch.cat([run(model.SerializeToString(), pair) for pair in images.split(2)])
    assert torch.equal(read(model).module(images), expected)
    assert read(model).module(images[:5]).shape == (5, 768)


@pytest.mark.parametrize(
    ("operator", "constant", "takes_bytes"),
    [
        ("Div", 255.0, True), ("Mul", 1 / 127.5, True), ("Sub", [123.7, 116.3, 103.5], True),
        ("Sub", [0.5, 0.4, 0.4], False), ("Div", [0.2, 0.2, 0.3], False), ("Add", 255.0, False), ("Mul", 2.0, False),
    ],
)  # fmt: skip
def test_a_graph_that_scales_bytes_itself_is_given_bytes(operator: str, constant: Any, takes_bytes: bool) -> None:
    value = np.asarray(constant, np.float32)
    arrays = values(c=value.reshape(3, 1, 1) if value.ndim else value)
    loaded = read(with_head(node(operator, ["images", "c"], ["features"]), initializers=arrays))
    assert (loaded.normalize is not None and loaded.normalize.scale == 255) == takes_bytes
    assert any("0-255" in said for said in loaded.assumed) == takes_bytes
    images = torch.rand(2, *SHAPE)
    assert torch.allclose(loaded.module(images), run(with_head(
        node(operator, ["images", "c"], ["features"]), initializers=arrays
    ).SerializeToString(), images), atol=1e-4)  # fmt: skip


@pytest.mark.parametrize(("mean", "takes_bytes"), [([123.7, 116.3, 103.5], True), ([0.5, 0.4, 0.4], False)])
def test_a_graph_whose_first_batch_norm_learned_bytes_is_given_bytes(mean: list[float], takes_bytes: bool) -> None:
    names = dict(zip("abcd", ([1.0] * 3, [0.0] * 3, mean, [900.0] * 3), strict=True))
    arrays = values(**{name: np.asarray(numbers, np.float32) for name, numbers in names.items()})
    loaded = read(with_head(node("BatchNormalization", ["images", *names], ["features"]), initializers=arrays))
    assert (loaded.normalize is not None and loaded.normalize.scale == 255) == takes_bytes


class Attention(nn.Module):
    """Tokens of patches through torch's own attention, sequence first inside."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 16, 4, 4), nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        mixed: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(mixed.mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("opset", [14, 17])
def test_torchs_own_attention_exported_for_one_image_takes_any_number(opset: int, pictures: Tensor) -> None:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the exporter has no operator for it
    try:
        module = Attention().eval()
        check(exported(module, opset, any_batch=False), module, pictures, False)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def test_local_functions_are_inlined() -> None:
    imports = [helper.make_opsetid("own", 1)]
    relu = helper.make_function("own", "Act", ["x"], ["z"], [node("Relu", ["x"], ["z"])], [helper.make_opsetid("", 17)])
    call = node("Act", ["images"], ["features"], domain="own")
    loaded = read(with_head(call, functions=[relu], imports=imports))
    images = torch.randn(2, *SHAPE)
    assert torch.allclose(loaded.module(images), images.relu().mean((2, 3)), atol=1e-6)


# --- writing back ---


@pytest.mark.parametrize(("kind", "opset"), [("sequential", 9), ("residual", 17), ("transformer", 17)])
def test_changed_weights_go_back_into_the_file(kind: str, opset: int, pictures: Tensor) -> None:
    content = exported(network(kind), opset, any_batch=True)
    loaded = reader.read(content, "m").module
    before = loaded.state_dict()
    assert torch.equal(run(reader.rewrite(content, before), pictures), run(content, pictures))
    state = {
        key: tensor * 1.1 + 0.01 if tensor.is_floating_point() else tensor
        for key, tensor in loaded.state_dict().items()
    }
    written = reader.rewrite(content, state)
    onnx.checker.check_model(written)
    loaded.load_state_dict(state)
    again = reader.read(written, "m").module
    with torch.no_grad():
        ours = loaded(pictures)
    theirs = run(written, pictures)
    assert torch.allclose(ours.softmax(1) if kind == "sequential" else ours, theirs, atol=1e-5)
    assert torch.allclose(again(pictures), ours, atol=1e-5)
    assert not torch.allclose(theirs, run(content, pictures), atol=1e-3)


def test_weights_shared_in_the_file_part_when_they_differ(pictures: Tensor) -> None:
    """Turned, scaled and shared matrices, in half precision, with metadata beside."""
    rng = np.random.default_rng(0)
    arrays = values(w=rng.normal(size=(3, 3)).astype("f2"), b=rng.normal(size=3).astype("f4"))
    nodes = [
        *(node("GlobalAveragePool", ["images"], ["p"]), node("Flatten", ["p"], ["f"])),
        node("Cast", ["w"], ["w1"], to=FLOAT),
        node("Identity", ["w1"], ["w2"]),
        node("Gemm", ["f", "w1", "b"], ["g"], alpha=0.5, beta=2.0),
        node("MatMul", ["g", "w2"], ["m"]),
        node("Add", ["m", "b"], ["s"]),
        node("Mul", ["s", "b"], ["y"]),
    ]
    model = graph(nodes, arrays)
    model.metadata_props.add(key="author", value="somebody")
    content = model.SerializeToString()
    loaded = reader.read(content, "m").module
    assert [type(layer) for layer in loaded.modules()].count(nn.Linear) == 2
    state = {key: tensor + number for number, (key, tensor) in enumerate(loaded.state_dict().items())}
    written = reader.rewrite(content, state)
    loaded.load_state_dict(state)
    assert torch.allclose(run(written, pictures), loaded(pictures), atol=1e-4)
    assert onnx.ModelProto.FromString(written).metadata_props[0].value == "somebody"


def test_external_data_inside_the_folder(tmp_path: Path, residual_file: bytes, pictures: Tensor) -> None:
    model = onnx.ModelProto.FromString(residual_file)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    content = path.read_bytes()
    with pytest.raises(ModelError, match="in another file"):
        reader.read(content, "m")
    loaded = reader.read(content, "m", tmp_path)
    assert torch.allclose(loaded.module(pictures), run(residual_file, pictures), atol=1e-5)
    whole = reader.rewrite(content, loaded.module.state_dict(), tmp_path)
    assert torch.equal(run(whole, pictures), run(residual_file, pictures))
    (tmp_path / "m.data").write_bytes(b"short")
    with pytest.raises(ModelError, match=r"more than m\.data holds"):
        reader.read(content, "m", tmp_path)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(10_000))
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "m.data").symlink_to(secret)
    with pytest.raises(ModelError, match="no file in its folder"):
        reader.read(content, "m", inner)


# --- as tools write them ---


def test_nodes_that_stand_before_what_makes_their_inputs_are_sorted(residual_file: bytes, pictures: Tensor) -> None:
    model = onnx.ModelProto.FromString(residual_file)
    expected = read(model).module(pictures)
    backwards = [onnx.NodeProto.FromString(one.SerializeToString()) for one in model.graph.node][::-1]
    del model.graph.node[:]
    model.graph.node.extend(backwards)
    found = read(model)
    assert torch.equal(found.module(pictures), expected)
    changed = {key: tensor * 0.5 if tensor.dim() == 4 else tensor for key, tensor in found.module.state_dict().items()}
    again = reader.read(reader.rewrite(model.SerializeToString(), changed), "again")
    found.module.load_state_dict(changed)
    assert torch.allclose(again.module(pictures), found.module(pictures), atol=1e-5)


@pytest.mark.parametrize(("size", "shape"), [(784, (1, 28, 28)), (3072, (3, 32, 32))])
def test_rows_of_pixels_are_reshaped_images(size: int, shape: tuple[int, int, int]) -> None:
    module = nn.Sequential(nn.Linear(size, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.rand(2, size),), stream, dynamo=False, dynamic_axes={"x": {0: "n"}}, input_names=["x"]
        )
    found = reader.read(stream.getvalue(), "flat.onnx")
    images = torch.rand(3, *shape)
    assert found.input_shape == shape and any("values of its input" in note for note in found.assumed)
    assert torch.allclose(found.module(images), module(images.flatten(1)), atol=1e-5)


def test_rows_that_are_no_square_are_refused() -> None:
    module = nn.Linear(35, 5).eval()
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.rand(2, 35),), stream, dynamo=False)
    with pytest.raises(ModelError, match="rows of 35 values"):
        reader.read(stream.getvalue(), "flat.onnx")
