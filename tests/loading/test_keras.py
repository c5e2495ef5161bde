"""Keras files read without Keras: Keras itself is the oracle, and nothing of a hostile file is run or followed."""

import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hdf5_files import by_hand, chain, described, edited
from torch import Tensor, nn

from neural_cleanse.loading.keras.reader import read, rewrite
from neural_cleanse.loading.load import load_model
from neural_cleanse.outputs import OutputKind

h5py = pytest.importorskip("h5py")
os.environ["KERAS_BACKEND"] = "torch"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what Keras imports
    keras = pytest.importorskip("keras")
    from keras import layers as kl

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:keras", "ignore:.*:DeprecationWarning")
TOLERANCE = 1e-5
FORMATS = [".h5", ".keras"]


def randomized(model: Any, seed: int = 0) -> Any:
    """The model with all weights at random, batch norm's statistics among them; variances stay positive."""
    draw = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False):
        for variable in layer.weights if not getattr(layer, "layers", None) else []:
            values = draw.normal(0, 0.4, variable.shape)
            variable.assign(np.abs(values) + 0.5 if "variance" in variable.name else values)
    return model


def saved(model: Any, path: Path) -> bytes:
    model.save(path)
    return path.read_bytes()


def oracle(model: Any, images: Tensor) -> Tensor:
    """What Keras answers to images that are channels first here."""
    with torch.no_grad():
        return torch.as_tensor(model(images.permute(0, 2, 3, 1).contiguous(), training=False)).cpu()


def answer(content: bytes, images: Tensor) -> Tensor:
    with torch.no_grad():
        return read(content, "file").module(images)


def images_for(model: Any, count: int = 3) -> Tensor:
    _, height, width, channels = (size or 20 for size in model.input_shape)
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 0.5


def agree(model: Any, path: Path) -> None:
    content, images = saved(model, path), images_for(model)
    assert torch.allclose(answer(content, images), oracle(model, images), atol=TOLERANCE, rtol=1e-4)


SAME = {"padding": "same"}
MAPS: dict[str, Callable[[], list[Any]]] = {
    "conv": lambda: [kl.Conv2D(5, 3)],
    "conv without bias": lambda: [kl.Conv2D(5, (2, 3), use_bias=False)],
    "conv same": lambda: [kl.Conv2D(5, (3, 5), **SAME)],
    "conv same even": lambda: [kl.Conv2D(5, (4, 2), **SAME)],
    "conv same stride 2": lambda: [kl.Conv2D(5, 3, strides=2, **SAME)],
    "conv same stride 3": lambda: [kl.Conv2D(5, (2, 5), strides=(3, 2), **SAME)],
    "conv stride": lambda: [kl.Conv2D(5, (3, 2), strides=(2, 3))],
    "conv dilation": lambda: [kl.Conv2D(5, 3, dilation_rate=2), kl.Conv2D(4, 2, dilation_rate=2, **SAME)],
    "conv groups": lambda: [kl.Conv2D(6, 3, groups=3)],
    "depthwise": lambda: [kl.DepthwiseConv2D(3, activation="relu")],
    "depthwise multiplier": lambda: [kl.DepthwiseConv2D(3, depth_multiplier=2, strides=2, **SAME)],
    "separable": lambda: [kl.SeparableConv2D(5, 3, depth_multiplier=2, activation="tanh", **SAME)],
    "separable without bias": lambda: [kl.SeparableConv2D(4, 2, use_bias=False)],
    "batch norm": lambda: [kl.BatchNormalization(epsilon=0.01)],
    "batch norm unscaled": lambda: [kl.BatchNormalization(scale=False), kl.BatchNormalization(center=False)],
    "batch norm bare": lambda: [kl.BatchNormalization(scale=False, center=False)],
    "layer norm": lambda: [kl.LayerNormalization(), kl.LayerNormalization(scale=False)],
    "group norm": lambda: [kl.Conv2D(4, 1), kl.GroupNormalization(2), kl.GroupNormalization(-1, center=False)],
    "transposed": lambda: [kl.Conv2DTranspose(5, (3, 2), strides=(2, 3), activation="relu")],
    "transposed same": lambda: [
        kl.Conv2DTranspose(4, 3, strides=2, **SAME), kl.Conv2DTranspose(3, (4, 2), use_bias=False, **SAME),
        kl.Conv2DTranspose(3, 1, strides=2, **SAME),
    ],
    "max pool": lambda: [kl.MaxPooling2D()],
    "max pool same": lambda: [kl.MaxPooling2D((3, 2), strides=(2, 1), **SAME), kl.MaxPooling2D(2, **SAME)],
    "average pool": lambda: [kl.AveragePooling2D((2, 3), strides=1)],
    # Only where the padding is even: Keras on torch repeats the border otherwise, as no other backend does.
    "average pool same": lambda: [kl.AveragePooling2D(3, strides=1, **SAME), kl.AveragePooling2D((2, 3), **SAME)],
    "padding and cropping": lambda: [kl.ZeroPadding2D(((1, 2), (3, 0))), kl.Cropping2D(((2, 0), (1, 1)))],
    "padding by one number": lambda: [kl.ZeroPadding2D(2), kl.Cropping2D((1, 2))],
    "upsampling": lambda: [kl.UpSampling2D((2, 3)), kl.UpSampling2D(2, interpolation="bilinear")],
    "resizing": lambda: [kl.Resizing(7, 15), kl.Resizing(12, 10)],
    "resizing, antialiased": lambda: [kl.Resizing(6, 5, antialias=True)],
    "resizing, cropped": lambda: [kl.Resizing(*size, crop_to_aspect_ratio=True) for size in ((9, 6), (4, 9))],
    "resizing, padded": lambda: [kl.Resizing(9, 6, pad_to_aspect_ratio=True, fill_value=0.5)],
    "centre crop": lambda: [kl.CenterCrop(7, 6)],
    "centre crop of smaller images": lambda: [kl.CenterCrop(30, 6), kl.CenterCrop(5, 11)],
    "dropout": lambda: [kl.Dropout(0.5), kl.SpatialDropout2D(0.5), kl.GaussianNoise(1.0), kl.GaussianDropout(0.5)],
    "augmentation": lambda: [kl.RandomFlip(), kl.RandomRotation(0.2), kl.RandomZoom(0.2), kl.RandomContrast(0.3)],
    "rescaling": lambda: [kl.Rescaling(1 / 127.5, offset=-1)],
    "rescaling by channel": lambda: [kl.Rescaling([0.5, 2.0, 3.0], offset=[1.0, -1.0, 0.25])],
    "normalization": lambda: [kl.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.5, 0.6, 0.7])],
    "normalization by one": lambda: [kl.Normalization(axis=None, mean=0.3, variance=2.0)],
    "normalization learned": lambda: [kl.Normalization()],
    "dense on maps": lambda: [kl.Dense(5, activation="relu")],
    "permute": lambda: [kl.Permute((3, 1, 2)), kl.Permute((2, 3, 1)), kl.Permute((2, 1, 3))],
    "reshape": lambda: [kl.Reshape((-1, 3)), kl.Dense(4), kl.Reshape((10, 6, 4)), kl.Conv2D(3, 2)],
    "squeeze and excite": lambda: [kl.GlobalAveragePooling2D(keepdims=True), kl.Conv2D(3, 1)],
    "prelu": lambda: [kl.PReLU()],
    "prelu shared": lambda: [kl.PReLU(shared_axes=[1, 2]), kl.PReLU(shared_axes=[1])],
    "leaky": lambda: [kl.LeakyReLU(negative_slope=0.2), kl.ELU(alpha=0.7), kl.Softmax(), kl.Softmax(axis=1)],
    "relu": lambda: [kl.ReLU(), kl.ReLU(max_value=6.0), kl.ReLU(0.8, negative_slope=0.1, threshold=0.2)],
    "regularization": lambda: [kl.ActivityRegularization(l1=0.1), kl.Identity()],
}  # fmt: skip


def ending(model: Any, end: str = "flatten") -> Any:
    if end == "flatten":
        model.add(kl.Flatten())
    else:
        model.add(kl.GlobalAveragePooling2D() if end == "mean" else kl.GlobalMaxPooling2D())
    model.add(kl.Dense(4))
    return randomized(model)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", MAPS)
def test_every_layer_answers_as_in_keras(tmp_path: Path, name: str, suffix: str) -> None:
    model = keras.Sequential([keras.Input((10, 6, 3)), *MAPS[name]()])
    agree(ending(model), tmp_path / f"m{suffix}")


ACTIVATIONS = [
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu",
    "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink",
    "softmax", "softplus", "softsign", "swish", "tanh", "tanh_shrink",
]  # fmt: skip


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_activation_answers_as_in_keras(tmp_path: Path, suffix: str) -> None:
    image = keras.Input((4, 4, 2))
    outputs = [kl.Conv2D(2, 1, activation=name)(image) for name in ACTIVATIONS]
    merged = kl.Concatenate()([*outputs, *(kl.Activation(name)(image) for name in ACTIVATIONS)])
    agree(randomized(keras.Model(image, kl.Dense(4)(kl.Flatten()(merged)))), tmp_path / f"m{suffix}")


def residual() -> Any:
    """Every kind of merge, a layer called twice, another that nothing needs but a sum."""
    image = keras.Input((9, 7, 3), name="keys")
    shared = kl.Conv2D(4, 3, padding="same", name="pop")
    first = shared(image / 2 - 0.5)
    second = kl.BatchNormalization(name="0")(kl.Conv2D(4, 3, padding="same")(first))
    values = [kl.Add()([first, second, first]), kl.Subtract()([first, second]), kl.Multiply()([first, second])]
    values += [kl.Average()([first, second]), kl.Maximum()([first, second]), kl.Minimum()([first, second])]
    joined = kl.Concatenate(axis=-1)([*values, shared(kl.Conv2D(3, 1)(second))])
    tall = kl.Concatenate(axis=1)([joined, kl.ReLU()(joined) * 0.25])
    gate = kl.Dense(28, activation="sigmoid")(kl.GlobalAveragePooling2D(keepdims=True)(tall))
    pooled = kl.GlobalMaxPooling2D()(kl.Multiply()([tall, gate]))
    return randomized(keras.Model(image, kl.Dense(4)(pooled)))


def nested(frozen: str = "") -> Any:
    """Models inside models, one in the middle and one at the end, a chain of layers and a graph."""
    image = keras.Input((8, 8, 3))
    inner_image = keras.Input((8, 8, 3))
    branch = kl.BatchNormalization()(kl.Conv2D(3, 3, padding="same")(inner_image))
    graph = keras.Model(inner_image, kl.Add()([inner_image, kl.PReLU()(branch)]), name="graph")
    deep = keras.Sequential([keras.Input((6, 6, 3)), kl.Conv2D(2, 1), kl.BatchNormalization()], name="deep")
    chain = keras.Sequential([keras.Input((8, 8, 3)), kl.DepthwiseConv2D(3), kl.BatchNormalization(), deep], name="ch")
    tail = keras.Sequential([kl.Flatten(), kl.Dense(5, activation="relu"), kl.Dense(4, activation="softmax")])
    model = randomized(keras.Model(image, tail(chain(graph(image)))))
    if frozen == "layer":
        graph.layers[1].trainable = chain.layers[1].trainable = False
    elif frozen:
        model.get_layer(frozen).trainable = False
    return model


@pytest.mark.parametrize("suffix", FORMATS)
def test_graphs_of_layers(tmp_path: Path, suffix: str) -> None:
    agree(residual(), tmp_path / f"m{suffix}")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("frozen", ["", "graph", "ch", "layer"])
def test_models_inside_models(tmp_path: Path, frozen: str, suffix: str) -> None:
    model = nested(frozen)
    content, images = saved(model, tmp_path / f"m{suffix}"), images_for(model)
    assert torch.allclose(answer(content, images).softmax(1), oracle(model, images), atol=TOLERANCE)
    assert not any(isinstance(layer, nn.Softmax) for layer in read(content, "m").module.modules())


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("end", ["flatten", "mean", "max"])
@pytest.mark.parametrize("last", ["Dense", "Activation", "Softmax"])
def test_a_last_softmax_is_left_out(tmp_path: Path, end: str, last: str, suffix: str) -> None:
    model = ending(keras.Sequential([keras.Input((6, 5, 2)), kl.Conv2D(3, 2, activation="relu")]), end)
    ends = {"Dense": kl.Dense(4, activation="softmax"), "Activation": kl.Activation("softmax"), "Softmax": kl.Softmax()}
    model.add(ends[last])
    content, images = saved(model, tmp_path / f"m{suffix}"), images_for(model)
    network = read(content, "m")
    assert torch.allclose(network.module(images).softmax(1), oracle(model, images), atol=TOLERANCE)
    assert (network.input_shape, network.num_classes) == ((2, 6, 5), 4)
    assert network.trust == "graph of known operators"


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_last_sigmoid_is_kept(tmp_path: Path, suffix: str) -> None:
    model = keras.Sequential([keras.Input((6, 5, 2)), kl.Flatten(), kl.Dense(4, activation="sigmoid")])
    agree(model, tmp_path / f"m{suffix}")


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_input_of_open_size_is_not_said(tmp_path: Path, suffix: str) -> None:
    layers = [kl.Conv2D(4, 3, strides=2, padding="same"), kl.GlobalAveragePooling2D(), kl.Dense(3)]
    model = randomized(keras.Sequential([keras.Input((None, None, 3)), *layers]))
    content = saved(model, tmp_path / f"m{suffix}")
    assert read(content, "m").input_shape is None
    for size in (20, 33):
        images = torch.rand(2, 3, size, size + 1)
        assert torch.allclose(answer(content, images), oracle(model, images), atol=TOLERANCE)


@pytest.mark.parametrize("suffix", FORMATS)
def test_channels_first_models(tmp_path: Path, suffix: str) -> None:
    first = {"data_format": "channels_first"}
    layers = [
        kl.Conv2D(4, 3, strides=2, padding="same", activation="softmax", **first),
        kl.BatchNormalization(axis=1), kl.PReLU(), kl.MaxPooling2D(**first), kl.Concatenate(axis=1), kl.Dense(3),
    ]  # fmt: skip
    image = keras.Input((3, 12, 10))
    values = image
    for layer in layers[:4]:
        values = layer(values)
    values = layers[5](layers[4]([values, values]))
    flat = [kl.Flatten(**first)(values), kl.Flatten(data_format="channels_last")(values)]
    model = randomized(keras.Model(image, kl.Dense(4)(kl.Concatenate()(flat))))
    content = saved(model, tmp_path / f"m{suffix}")
    images = torch.rand(2, 3, 12, 10)
    with torch.no_grad():
        assert torch.allclose(answer(content, images), model(images, training=False), atol=TOLERANCE)
    assert read(content, "m").input_shape == (3, 12, 10)


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_network_is_fit_for_a_scan(tmp_path: Path, suffix: str) -> None:
    model, path = weighty(), tmp_path / f"m{suffix}"
    saved(model, path)
    classifier = load_model(path).classifier  # frozen, copied, channels last in memory
    assert classifier.outputs is OutputKind.LOGITS
    for count in (1, 5):
        images = images_for(model, count).requires_grad_()
        logits = classifier(images)
        assert torch.allclose(logits, oracle(model, images), atol=TOLERANCE, rtol=1e-4)
        (gradient,) = torch.autograd.grad(logits.sum(), images)
        assert torch.isfinite(gradient).all() and gradient.any()


def test_any_name_will_do_for_a_layer() -> None:
    names = ["training", "items", "_modules", "a.b/c", "a_b_c", "\u202e", "", "forward"]
    layers = [described("Activation", name, activation="relu") for name in names]
    layers[0]["config"]["batch_input_shape"] = [None, 2]
    layers = [described("Reshape", "r", target_shape=[2, 2, 1], batch_input_shape=[None, 2, 2, 1]), *layers]
    content = by_hand(chain(*layers, described("Flatten", "f")), {})
    assert len(read(content, "m").module.layers) == len(layers) + 1


# --- written back ---


def weighty() -> Any:
    """Every kind of layer that has weights."""
    layers = [
        kl.Normalization(), kl.Conv2D(4, (3, 2), padding="same"), kl.SeparableConv2D(4, 3, depth_multiplier=2),
        kl.BatchNormalization(scale=False), kl.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), kl.PReLU(),
        kl.PReLU(shared_axes=[1, 2]), kl.LayerNormalization(), kl.GroupNormalization(2),
        kl.Conv2DTranspose(4, 3), kl.Dense(6), kl.Conv2D(4, 1, groups=2, use_bias=False),
    ]  # fmt: skip
    return ending(keras.Sequential([keras.Input((10, 6, 3)), *layers]))


# Keras itself does not open an .h5 with calculations in it, as `residual` has.
@pytest.mark.parametrize(
    ("build", "suffix"),
    [(weighty, ".h5"), (weighty, ".keras"), (nested, ".h5"), (nested, ".keras"), (residual, ".keras")],
)
def test_changed_weights_go_back_into_the_file(tmp_path: Path, build: Callable[[], Any], suffix: str) -> None:
    model = build()
    content, images = saved(model, tmp_path / f"m{suffix}"), images_for(model)
    network = read(content, "m").module
    (tmp_path / f"same{suffix}").write_bytes(rewrite(content, network.state_dict()))
    again = keras.saving.load_model(tmp_path / f"same{suffix}")
    assert torch.equal(oracle(again, images), oracle(model, images))
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and not name.endswith(("scale", "offset")):
                tensor.mul_(0.9).add_(0.05)
    written = rewrite(content, network.state_dict())
    (tmp_path / f"changed{suffix}").write_bytes(written)
    expected = oracle(keras.saving.load_model(tmp_path / f"changed{suffix}"), images)
    softmax = torch.allclose(expected.sum(1), torch.ones(len(images))) and bool((expected >= 0).all())
    with torch.no_grad():
        changed = network(images)
    assert torch.allclose(changed.softmax(1) if softmax else changed, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(answer(written, images), changed)


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_lies_beside_the_weights_stays(tmp_path: Path, suffix: str) -> None:
    model = ending(keras.Sequential([keras.Input((4, 4, 1))]))
    model.compile("adam", "mse")
    model.fit(np.zeros((2, 4, 4, 1)), np.zeros((2, 4)), verbose=0)
    content = saved(model, tmp_path / f"m{suffix}")
    state = {name: tensor + 1 for name, tensor in read(content, "m").module.state_dict().items()}
    written = rewrite(content, state)
    before, after = held(content), held(written)
    assert before.keys() == after.keys()
    different = {name for name in before if before[name] != after[name]}
    assert len(different) == 2 and all("dense" in name and "optimizer" not in name for name in different)
    if suffix == ".keras":
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(io.BytesIO(written)) as new:
            assert old.namelist() == new.namelist()
            assert all(old.read(n) == new.read(n) for n in old.namelist() if not n.endswith(".h5"))


def held(content: bytes) -> dict[str, bytes]:
    """All arrays and attributes of a file, as bytes."""
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = archive.read("model.weights.h5")
    found: dict[str, bytes] = {}
    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(lambda name, item: found.update({name: item[()].tobytes() if hasattr(item, "shape") else b""}))
        found |= {f"@{name}": str(value).encode() for name, value in file.attrs.items()}
    return found


def test_half_precision_is_widened_and_written_back_as_it_was(tmp_path: Path) -> None:
    model = ending(keras.Sequential([keras.Input((4, 4, 1))]))
    content = edited(saved(model, tmp_path / "m.h5"), halved)
    network = read(content, "m").module
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert held(rewrite(content, network.state_dict())) == held(content)


def halved(file: Any) -> None:
    def reduce(name: str, item: Any) -> None:
        if hasattr(item, "shape"):
            names.append(name)

    names: list[str] = []
    file.visititems(reduce)
    for name in names:
        values = file[name][()].astype("<f2")
        del file[name]
        file[name] = values


# --- older files ---


def older(content: bytes, layout: str, version: str = "2.1.6") -> bytes:
    """The file as an earlier Keras would have described it."""

    def rewrite_config(file: Any) -> None:
        config = older_model(json.loads(file.attrs["model_config"]), layout)
        file.attrs["model_config"] = json.dumps(config).encode()
        file.attrs["keras_version"] = file["model_weights"].attrs["keras_version"] = version.encode()

    return edited(content, rewrite_config)


def older_model(model: dict[str, Any], layout: str) -> dict[str, Any]:
    """`list` and `dict` of layers whose first says the input, or `rows` of inputs in a graph."""
    config = model["config"]
    for layer in config["layers"]:
        layer["config"]["dtype"] = "float32"
        layer["config"].pop("registered_name", None)
        if "batch_shape" in layer["config"]:
            layer["config"]["batch_input_shape"] = layer["config"].pop("batch_shape")
        if "layers" in layer["config"]:
            older_model(layer, layout)
        layer["inbound_nodes"] = [older_call(node) for node in layer.get("inbound_nodes", [])]
    nested = [layer["name"] for layer in config["layers"] if "layers" in layer["config"] and "name" in layer]
    if model["class_name"] == "Sequential":
        layers = config["layers"]
        if layers[0]["class_name"] == "InputLayer" and layout != "rows":
            said = layers.pop(0)["config"]["batch_input_shape"]
            layers[0]["config"]["batch_input_shape"] = said
        if layout == "list":
            model["config"] = layers
    else:
        model["class_name"] = "Model"
        for key in ("input_layers", "output_layers"):
            config[key] = [config[key]]
            config[key][0][1] = int(config[key][0][0] in nested)
        for layer in config["layers"]:
            for row in (row for node in layer["inbound_nodes"] for row in node if row[0] in nested):
                row[1] = 1
    return model


def older_call(node: dict[str, Any]) -> list[Any]:
    values = node["args"][0] if isinstance(node["args"][0], list) else node["args"]
    return [[*value["config"]["keras_history"], {}] for value in values]


@pytest.mark.parametrize("layout", ["list", "dict", "rows"])
def test_sequential_models_of_keras_2(tmp_path: Path, layout: str) -> None:
    model = ending(keras.Sequential([keras.Input((10, 6, 3)), kl.Conv2D(4, 3), kl.BatchNormalization(), kl.ReLU()]))
    content, images = older(saved(model, tmp_path / "m.h5"), layout), images_for(model)
    network = read(content, "m")
    assert network.input_shape == (3, 10, 6)
    assert torch.allclose(answer(content, images), oracle(model, images), atol=TOLERANCE)
    assert torch.equal(answer(rewrite(content, network.module.state_dict()), images), answer(content, images))


@pytest.mark.parametrize("frozen", ["", "graph", "layer"])
@pytest.mark.parametrize("layout", ["list", "dict", "rows"])
def test_graphs_of_keras_2(tmp_path: Path, layout: str, frozen: str) -> None:
    model = nested(frozen)
    content, images = older(saved(model, tmp_path / "m.h5"), layout), images_for(model)
    assert torch.allclose(answer(content, images).softmax(1), oracle(model, images), atol=TOLERANCE)


def test_the_hard_sigmoid_changed_in_keras_3(tmp_path: Path) -> None:
    layers = [kl.Flatten(), kl.Dense(3, activation="hard_sigmoid")]
    model = randomized(keras.Sequential([keras.Input((4, 4, 1)), *layers]))
    content, images = saved(model, tmp_path / "m.h5"), images_for(model)
    kernel, bias = (torch.as_tensor(weight.numpy()) for weight in model.layers[-1].weights)
    linear = images.permute(0, 2, 3, 1).flatten(1) @ kernel + bias
    assert torch.allclose(answer(content, images), nn.functional.hardsigmoid(linear), atol=TOLERANCE)
    assert torch.allclose(answer(older(content, "dict"), images), (0.2 * linear + 0.5).clamp(0, 1), atol=TOLERANCE)


def test_a_model_of_keras_1() -> None:
    draw = np.random.default_rng(0)
    kernel, shift = draw.normal(size=(3, 2, 3, 4)), draw.normal(size=4)
    dense, bias = draw.normal(size=(4 * 4 * 4, 5)), draw.normal(size=5)
    size = {"nb_filter": 4, "nb_row": 3, "nb_col": 2, "border_mode": "valid", "subsample": [2, 1], "bias": True}
    convolution = {**size, "batch_input_shape": [None, 9, 5, 3], "dim_ordering": "tf", "activation": "relu"}
    layers = [
        described("Convolution2D", "c", **convolution),
        described("Dropout", "p", p=0.25),
        described("Flatten", "f"),
        described("Dense", "d", output_dim=5, activation="softmax", bias=True),
    ]
    content = by_hand(
        {"class_name": "Sequential", "config": layers}, {"c": [kernel, shift], "d": [dense, bias]}, "1.2.2"
    )
    images = torch.rand(2, 3, 9, 5)
    weights = [torch.as_tensor(array, dtype=torch.float32) for array in (kernel, shift, dense, bias)]
    maps = nn.functional.conv2d(images, weights[0].permute(3, 2, 0, 1), weights[1], (2, 1)).relu()
    expected = maps.permute(0, 2, 3, 1).flatten(1) @ weights[2] + weights[3]
    assert torch.allclose(answer(content, images), expected, atol=1e-4)


@pytest.mark.parametrize(
    "node",
    [
        [["i", 0, 0, {"y": 127.5, "name": None}]],
        ["i", 0, 0, {"y": 127.5, "name": None}],
        [["i", 0, 0, {}], ["_CONSTANT_VALUE", -1, 127.5, {}]],
    ],
)
def test_calculations_of_tf_keras(node: Any) -> None:
    layers = [
        described("InputLayer", "i", [], batch_input_shape=[None, 2, 2, 3]),
        described("TFOpLambda", "tf.math.truediv", [node], function="math.truediv"),
        described("TFOpLambda", "s", [["tf.math.truediv", 0, 0, {"y": 1.0}]], function="math.subtract"),
        described("TFOpLambda", "a", [["s", 0, 0, {"y": ["i", 0, 0]}]], function="__operators__.add"),
        described("Flatten", "f", [[["a", 0, 0, {}]]]),
    ]
    wiring = {"input_layers": [["i", 0, 0]], "output_layers": [["f", 0, 0]]}
    content = by_hand({"class_name": "Functional", "config": {"name": "m", "layers": layers, **wiring}}, {}, "2.9.0")
    images = torch.rand(2, 3, 2, 2)
    expected = (images / 127.5 - 1 + images).permute(0, 2, 3, 1).flatten(1)
    assert torch.allclose(answer(content, images), expected, atol=TOLERANCE)


def test_average_pooling_leaves_the_padding_out_as_tensorflow_does() -> None:
    pool = {"pool_size": [2, 3], "strides": [2, 2], "padding": "same", "batch_input_shape": [None, 3, 4, 1]}
    layers = [described("AveragePooling2D", "p", **pool), described("Flatten", "f")]
    images = torch.arange(12.0).reshape(1, 1, 3, 4)
    rows = [images[0, 0, top : top + 2, left : left + 3].mean() for top in (0, 2) for left in (0, 2)]
    content = by_hand(chain(*layers), {})
    assert torch.allclose(answer(content, images), torch.stack(rows)[None])
