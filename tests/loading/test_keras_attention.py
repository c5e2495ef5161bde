"""Attention of Keras files: by hand from its equation, and against Keras itself."""

import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hdf5_files import by_hand, chain, described
from torch import Tensor

from neural_cleanse.errors import CheckpointMismatch, CodeExecutionRefused, ModelError
from neural_cleanse.loading.keras.reader import read, rewrite

pytest.importorskip("h5py")
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:keras", "ignore:.*:DeprecationWarning")
HEADS, WIDTH, CHANNELS = 2, 3, 4


def weights(seed: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    shapes = [(CHANNELS, HEADS, WIDTH), (HEADS, WIDTH)] * 3 + [(HEADS, WIDTH, CHANNELS), (CHANNELS,)]
    return [draw.normal(0, 0.7, shape).astype(np.float32) for shape in shapes]


def file_of(arrays: list[np.ndarray], **settings: Any) -> bytes:
    """6 x 5 images of 4 channels as 30 tokens, attention among them, and the mean of its outputs."""
    layers = [
        described("InputLayer", "image", [], batch_input_shape=[None, 6, 5, CHANNELS]),
        described("Reshape", "tokens", [[["image", 0, 0, {}]]], target_shape=[30, CHANNELS]),
        described(
            "MultiHeadAttention", "attention", [[["tokens", 0, 0, {"value": ["tokens", 0, 0]}]]],
            **{"num_heads": HEADS, "key_dim": WIDTH, **settings},
        ),
        described("GlobalAveragePooling1D", "mean", [[["attention", 0, 0, {}]]], data_format="channels_last"),
    ]  # fmt: skip
    config = {"name": "m", "layers": layers, "input_layers": [["image", 0, 0]], "output_layers": [["mean", 0, 0]]}
    return by_hand({"class_name": "Functional", "config": config}, {"attention": arrays}, version="2.15.0")


def images() -> Tensor:
    return torch.rand(3, CHANNELS, 6, 5, generator=torch.Generator().manual_seed(0))


def attended(tokens: np.ndarray, arrays: list[np.ndarray]) -> np.ndarray:
    """The equation (Vaswani et al. 2017), head by head and in double precision."""
    query, query_bias, key, key_bias, value, value_bias, output, output_bias = (a.astype(np.float64) for a in arrays)
    result = np.zeros((len(tokens), CHANNELS)) + output_bias
    for head in range(HEADS):
        q, k, v = (
            tokens @ kernel[:, head] + bias[head]
            for kernel, bias in ((query, query_bias), (key, key_bias), (value, value_bias))
        )
        scores = np.exp(q @ k.T / math.sqrt(WIDTH))
        result += scores / scores.sum(1, keepdims=True) @ v @ output[head]
    return result


def test_attention_is_its_equation() -> None:
    arrays, given = weights(), images()
    with torch.no_grad():
        answer = read(file_of(arrays), "file").module(given)
    for image, row in zip(given, answer, strict=True):
        tokens = image.permute(1, 2, 0).reshape(30, CHANNELS).double().numpy()
        assert np.allclose(row.numpy(), attended(tokens, arrays).mean(0), atol=1e-5)


def test_changed_weights_of_an_attention_are_written_back_in_keras_order() -> None:
    content = file_of(weights())
    module, given = read(content, "file").module, images()
    changed = {key: value * 1.5 if "query" in key else value + 0.1 for key, value in module.state_dict().items()}
    again = read(rewrite(content, changed), "file").module
    assert all(torch.equal(changed[key], value) for key, value in again.state_dict().items())
    module.load_state_dict(changed)
    with torch.no_grad():
        assert torch.equal(module(given), again(given))


def test_attention_reaches_the_pixels_with_a_gradient() -> None:
    given = images().requires_grad_()
    read(file_of(weights()), "file").module(given)[:, 0].sum().backward()
    assert given.grad is not None and given.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "settings", [{"use_gate": True}, {"sliding_window": 3}, {"attention_axes": [0]}, {"attention_axes": [2]}], ids=str
)
def test_an_attention_of_another_kind_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"[Aa]ttention"):
        read(file_of(weights(), **settings), "file")


@pytest.mark.parametrize("settings", [{"num_heads": 3}, {"key_dim": 2}, {"num_heads": 10**9}, {"key_dim": 0}], ids=str)
def test_settings_that_do_not_fit_the_weights_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(CheckpointMismatch, match="attention"):
        read(file_of(weights(), **settings), "file")


def test_more_tokens_than_any_classifier_has_are_refused() -> None:
    content = file_of(weights()).replace(b"[null, 6, 5, 4]", b"[null,9000,4]  ")
    with pytest.raises(ModelError):
        read(content, "file")


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what Keras imports
    os.environ["KERAS_BACKEND"] = "torch"
    try:
        import keras
        from keras import layers as kl
    except ImportError:
        keras = None


def transformer(**settings: Any) -> Any:
    """A small vision transformer of Keras' own layers."""
    image = keras.Input((8, 8, 3))
    tokens = kl.Reshape((16, 6))(kl.Conv2D(6, 2, strides=2)(image))
    for number in range(2):
        normed = kl.LayerNormalization()(tokens)
        attention = kl.MultiHeadAttention(2, 5, dropout=0.1, **settings)
        tokens = kl.Add()([tokens, attention(normed, normed) if number else attention(query=normed, value=normed)])
        tokens = kl.Add()([tokens, kl.Dense(6)(kl.Dense(12, "gelu")(kl.LayerNormalization()(tokens)))])
    return keras.Model(image, kl.Dense(4)(kl.GlobalAveragePooling1D()(tokens)))


def over_maps() -> Any:
    image = keras.Input((6, 5, 3))
    maps = kl.Conv2D(4, 3)(image)
    other = kl.Conv2D(7, 3)(image)
    return keras.Model(image, kl.Dense(4)(kl.GlobalMaxPooling2D()(kl.MultiHeadAttention(2, 3)(maps, other))))


def of_three() -> Any:
    image = keras.Input((6, 5, 3))
    query, value, key = (kl.Reshape((30, size))(kl.Conv2D(size, 1)(image)) for size in (4, 5, 6))
    mixed = kl.MultiHeadAttention(3, 4, value_dim=2, output_shape=7, use_bias=False)(query, value, key=key)
    return keras.Model(image, kl.Dense(4)(kl.GlobalMaxPooling1D()(mixed)))


def custom() -> dict[str, Any]:
    """What Keras itself asks for to read a ConvNeXt again."""
    from keras.src.applications import convnext

    return {"LayerScale": convnext.LayerScale, "StochasticDepth": convnext.StochasticDepth}


def mean_of_tokens() -> Any:
    image = keras.Input((8, 8, 3))
    tokens = kl.Reshape((16, 6))(kl.Conv2D(6, 2, strides=2)(image))
    return keras.Model(image, kl.Dense(4)(keras.ops.mean(kl.MultiHeadAttention(2, 3)(tokens, tokens), axis=1)))


def scaled() -> Any:
    """As a block of Keras' ConvNeXt."""
    convnext = pytest.importorskip("keras.src.applications.convnext")
    image = keras.Input((8, 6, 3))
    block = kl.LayerNormalization()(kl.DepthwiseConv2D(3, padding="same")(image))
    block = convnext.StochasticDepth(0.2)(convnext.LayerScale(1e-6, 3)(block))
    return keras.Model(image, kl.Dense(4)(kl.GlobalAveragePooling2D()(kl.Add()([image, block]))))


@pytest.mark.skipif(keras is None, reason="needs Keras")
@pytest.mark.parametrize("name", ["LayerScale", "StochasticDepth"])
def test_a_layer_of_somebody_elses_with_such_a_name_is_code(name: str) -> None:
    for module in ("my_layers", None):
        layer = {**described(name, "scale"), **({} if module is None else {"module": module})}
        layers = [described("InputLayer", "i", batch_input_shape=[None, 6, 5, 4]), layer, described("Flatten", "f")]
        with pytest.raises(CodeExecutionRefused, match="code of its author's"):
            read(by_hand(chain(*layers), {}), "file")


IN_BOTH = (transformer, lambda: transformer(use_bias=False), over_maps, of_three)
# An .h5 file does not say whose such a layer is, and Keras itself reads no operation back from one.
CASES = [
    *((make, suffix) for make in IN_BOTH for suffix in (".h5", ".keras")),
    (mean_of_tokens, ".keras"),
    (scaled, ".keras"),
]


@pytest.mark.skipif(keras is None, reason="needs Keras")
@pytest.mark.parametrize(("make", "suffix"), CASES)
def test_networks_with_attention_answer_as_in_keras(tmp_path: Path, make: Any, suffix: str) -> None:
    model = make()
    draw = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(draw.normal(0, 0.4, variable.shape))
    model.save(tmp_path / f"m{suffix}")
    content = (tmp_path / f"m{suffix}").read_bytes()
    given = torch.rand(3, 3, *model.input_shape[1:3], generator=torch.Generator().manual_seed(1))
    network = read(content, "file")
    with torch.no_grad():
        theirs = torch.as_tensor(model(given.permute(0, 2, 3, 1).contiguous(), training=False)).cpu()
        assert torch.allclose(network.module(given), theirs, atol=1e-5, rtol=1e-4)
    (tmp_path / f"again{suffix}").write_bytes(rewrite(content, network.module.state_dict()))
    again = keras.models.load_model(tmp_path / f"again{suffix}", custom_objects=custom())
    with torch.no_grad():
        assert torch.equal(torch.as_tensor(again(given.permute(0, 2, 3, 1).contiguous())).cpu(), theirs)
