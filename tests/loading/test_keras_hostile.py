"""Keras files that mean harm or make no sense: one clear error each, nothing run, followed, or built too large."""

import io
import json
import marshal
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hdf5_files import by_hand, chain, described, edited
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neural_cleanse.errors import CheckpointMismatch, CodeExecutionRefused, ModelError, NeuralCleanseError
from neural_cleanse.loading.keras.reader import read

h5py = pytest.importorskip("h5py")

IMAGE = {"batch_input_shape": [None, 6, 6, 2]}
CONVOLUTION = {"filters": 3, "kernel_size": [3, 3], "activation": "relu"}
KERNEL, SHAPE, HUGE = "model_weights/c/c/0:0", (3, 3, 2, 3), (3, 3, 2, 3 * 2**24)
WEIGHTS = {
    "c": [np.ones((3, 3, 2, 3)), np.zeros(3)],
    "d": [np.ones((48, 3)) / 48, np.zeros(3)],
}


def model(*between: dict[str, Any], **first: Any) -> dict[str, Any]:
    """A small network, with layers put between its two halves."""
    return chain(
        described("Conv2D", "c", **{**IMAGE, **CONVOLUTION, **first}),
        *between,
        described("Flatten", "f"),
        described("Dense", "d", units=3, activation="softmax"),
    )


def file(*between: dict[str, Any], **first: Any) -> bytes:
    return by_hand(model(*between, **first), WEIGHTS)


def small() -> bytes:
    """A network of few weights, for files of a few kilobytes."""
    layers = [described("Flatten", "f", batch_input_shape=[None, 2, 2, 1]), described("Dense", "d", units=2)]
    return by_hand(chain(*layers), {"d": [np.eye(4)[:, :2], np.zeros(2)]})


def archive(description: Any, *, weights: bytes | None = None, **more: bytes) -> bytes:
    """A .keras archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        written.writestr("config.json", description if isinstance(description, bytes) else json.dumps(description))
        written.writestr("model.weights.h5", counted() if weights is None else weights)
        for name, content in more.items():
            written.writestr(name, content)
    return stream.getvalue()


def counted(container: str = "layers") -> bytes:
    """The same weights by kind and number, as archives hold them."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as opened:
        for kind, name in (("conv2d", "c"), ("dense", "d")):
            for number, array in enumerate(WEIGHTS[name]):
                opened[f"{container}/{kind}/vars/{number}"] = array.astype(np.float32)
    return stream.getvalue()


def test_the_file_that_the_others_are_made_from_is_read() -> None:
    assert read(file(), "m").module(torch.rand(2, 2, 6, 6)).shape == (2, 3)
    assert read(small(), "m").module(torch.rand(2, 1, 2, 2)).shape == (2, 2)
    images = torch.rand(2, 2, 6, 6)
    for held in (counted(), counted("_layer_checkpoint_dependencies")):
        assert torch.equal(read(archive(model(), weights=held), "m").module(images), read(file(), "m").module(images))


# --- code ---


def lambda_layer(marker: Path) -> dict[str, Any]:
    code = compile(f"open({str(marker)!r}, 'w').close()", "x", "exec")
    function = [b64encode(marshal.dumps(code)).decode(), None, None]
    return described("Lambda", "evil", function=function, function_type="lambda")


CODE: dict[str, dict[str, Any]] = {
    "custom class": described("MyLayer", "mine"),
    "registered class": {**described("Conv2D", "mine"), "registered_name": "theirs>Conv2D"},
    "class of a module": {**described("Conv2D", "mine"), "module": "os.path"},
    "class of screening-alike": {**described("Conv2D", "mine"), "module": "keras_evil.layers"},
    "TorchScript inside": described("TorchModuleWrapper", "mine", module="..."),
    "SavedModel inside": described("TFSMLayer", "mine", filepath="/etc"),
    "function as activation": described("Activation", "mine", activation="my_swish"),
    "activation of a module": described(
        "Activation", "mine", activation={"module": "builtins", "class_name": "function", "config": "system"}
    ),
    "model of a custom class": {"class_name": "MyModel", "config": {"name": "mine", "layers": []}},
}


@pytest.mark.parametrize("name", CODE)
def test_code_is_refused(name: str) -> None:
    for content in (file(CODE[name]), archive(model(CODE[name]))):
        with pytest.raises(CodeExecutionRefused, match="allow-code"):
            read(content, "m")


def test_a_lambda_layer_is_named_and_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for content in (file(lambda_layer(marker)), archive(model(lambda_layer(marker)))):
        with pytest.raises(CodeExecutionRefused, match="'evil', a Lambda layer"):
            read(content, "m")
    assert not marker.exists()


def test_a_layer_of_keras_that_is_not_read_says_what_is() -> None:
    with pytest.raises(
        ModelError, match=r"'x' of the kind LSTM.*BatchNormalization, CenterCrop, Concatenate, Conv2D"
    ) as error:
        read(file(described("LSTM", "x")), "m")
    assert not isinstance(error.value, CodeExecutionRefused)


def test_names_are_shown_sanitized() -> None:
    with pytest.raises(CodeExecutionRefused) as error:
        read(file(described("My\x1b[31m\u202eLayer", "n\n" * 500)), "m")
    assert str(error.value).isprintable() and len(str(error.value)) < 500


# --- HDF5 ---


def put(path: str, make: Callable[[Any, str], Any]) -> Callable[[Any], None]:
    """Something else in the place of what is at `path`."""

    def edit(opened: Any) -> None:
        del opened[path]
        made = make(opened, path)
        if made is not None:
            opened[path] = made

    return edit


def virtual(opened: Any, path: str) -> None:
    layout = h5py.VirtualLayout((3, 3, 2, 3), "f4")
    layout[...] = h5py.VirtualSource("elsewhere.h5", "x", (3, 3, 2, 3))
    opened.create_virtual_dataset(path, layout)


def inflating(opened: Any, path: str) -> None:
    """One chunk that is said to hold 54 values and inflates to 64 MB."""
    array = opened.create_dataset(path, (3, 3, 2, 3), "f4", chunks=(3, 3, 2, 3), compression="gzip")
    array.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(2**26)))


def sharing_one_string(content: bytes) -> bytes:
    """Two thousand names that all point to one string of 60,000 characters."""
    size, count, reference = 60_000, 2000, 16  # a name of variable length: its length, where its heap is, which one

    def name(opened: Any) -> None:
        names = np.array(["x" * size, *["y"] * (count - 1)], h5py.string_dtype())
        opened["model_weights/c"].attrs.create("weight_names", names, dtype=h5py.string_dtype())

    named = bytearray(edited(content, name))
    place = named.find(size.to_bytes(4, "little"))
    while int.from_bytes(named[place + reference : place + reference + 4], "little") != 1:
        place = named.find(size.to_bytes(4, "little"), place + 1)
    named[place : place + count * reference] = named[place : place + reference] * count
    return bytes(named)


def test_names_that_share_a_string_are_counted_before_they_are_read() -> None:
    with pytest.raises(ModelError, match="more than it holds"):
        read(sharing_one_string(file()), "m")


# What made the HDF5 library 2.0.0 loop for ever, allocate gigabytes, or crash: see hdf5_objects.
@pytest.mark.parametrize(("offset", "size"), [(8, 0), (24, 0), (24, 2**33), (2, 0), (0, 0)])
def test_broken_heaps_of_strings_end_at_once(offset: int, size: int) -> None:
    content = bytearray(file())
    start = content.find(b"GCOL")
    content[start + offset : start + offset + 8] = size.to_bytes(8, "little")
    with pytest.raises(ModelError, match=r"damaged|cannot be read"):
        read(bytes(content), "m")


@pytest.mark.parametrize(("place", "value"), [(8, 2), (13, 4), (24, 1)])
def test_other_layouts_of_the_file_are_refused(place: int, value: int) -> None:
    content = bytearray(file())
    content[place] = value
    with pytest.raises(ModelError, match=r"layout that Keras does not write.*model\.save"):
        read(bytes(content), "m")


@pytest.mark.parametrize("options", [{"libver": "latest"}, {"track_order": True}])
def test_files_of_the_newer_layouts_are_refused(options: dict[str, Any]) -> None:
    stream = io.BytesIO()
    with h5py.File(io.BytesIO(file())) as old, h5py.File(stream, "w", **options) as new:
        new.attrs["model_config"] = old.attrs["model_config"]
        old.copy("model_weights", new)
    with pytest.raises(ModelError, match="Keras does not write"):
        read(stream.getvalue(), "m")


def test_two_entries_of_one_name_are_refused() -> None:
    names = b"c" + bytes(7) + b"d" + bytes(7)  # in the group of the layers
    assert file().count(names) == 1
    with pytest.raises(ModelError, match="two entries of the name 'c'"):
        read(file().replace(names, names.replace(b"d", b"c")), "m")


@pytest.mark.parametrize("kind", ["<f2", ">f2", ">f4", "<f8", ">f8"])
def test_every_floating_point_number_is_read(kind: str) -> None:
    values, images = np.arange(54).reshape(SHAPE) / 64, torch.rand(2, 2, 6, 6)
    other, plain = (edited(file(), put(KERNEL, lambda f, p, k=k: values.astype(k))) for k in (kind, "<f4"))
    assert torch.equal(read(other, "m").module(images), read(plain, "m").module(images))


@pytest.mark.parametrize("part", [b"TREE", b"SNOD", b"HEAP", b"GCOL"])
def test_parts_that_point_at_themselves_end(part: bytes) -> None:
    content, place = bytearray(file()), -1
    while (place := content.find(part, place + 1)) >= 0:
        content[place + 8 : place + 64] = place.to_bytes(8, "little") * 7
    with pytest.raises(ModelError, match=r"damaged|no group"):
        read(bytes(content), "m")


HDF5: dict[str, tuple[Callable[[Any], None], str]] = {
    "external link": (put(KERNEL, lambda f, p: h5py.ExternalLink("/etc/passwd", "x")), "links may lead out"),
    "soft link": (put(KERNEL, lambda f, p: h5py.SoftLink("/model_weights/d/d/0:0")), "soft link"),
    "external group": (put("model_weights/c", lambda f, p: h5py.ExternalLink("other.h5", "/")), "links may lead out"),
    "linked root": (put("model_weights", lambda f, p: h5py.ExternalLink("other.h5", "/")), "links may lead out"),
    "external storage": (
        put(KERNEL, lambda f, p: f.create_dataset(p, (3, 3, 2, 3), "f4", external=[("/etc/passwd", 0, 216)]) and None),
        "another file",
    ),
    "virtual": (put(KERNEL, virtual), "into pieces"),
    "never written": (put(KERNEL, lambda f, p: f.create_dataset(p, (3, 3, 2, 2**33), "f4") and None), "than it holds"),
    "never written, right size": (
        put("model_weights/d/d/0:0", lambda f, p: f.create_dataset(p, (48, 2**31), "f4", chunks=(48, 1)) and None),
        "into pieces",
    ),
    "huge chunk": (
        put(KERNEL, lambda f, p: f.create_dataset(p, SHAPE, "f4", chunks=HUGE, maxshape=(3, 3, 2, None)) and None),
        "into pieces",
    ),
    "bomb": (put(KERNEL, inflating), "packs it"),
    "packed in another way": (
        put(KERNEL, lambda f, p: f.create_dataset(p, data=np.ones((3, 3, 2, 3), "f4"), compression="lzf") and None),
        "packs it",
    ),
    "references": (put(KERNEL, lambda f, p: f.create_dataset(p, SHAPE, h5py.ref_dtype) and None), "no floating"),
    "strings": (put(KERNEL, lambda f, p: np.full((3, 3, 2, 3), b"x")), "no floating"),
    "whole numbers": (put(KERNEL, lambda f, p: np.ones((3, 3, 2, 3), np.int64)), "no floating"),
    "group for an array": (put(KERNEL, lambda f, p: f.create_group(p) and None), "no array"),
    "array for a group": (put("model_weights/c", lambda f, p: np.ones(3)), "no group"),
    "no weights": (put("model_weights", lambda f, p: None), "no group"),
    "NaN": (put(KERNEL, lambda f, p: np.full((3, 3, 2, 3), np.nan, "f4")), "NaN"),
    "other shape": (put(KERNEL, lambda f, p: np.ones((3, 3, 3, 2), "f4")), "does not fit"),
    "other rank": (put(KERNEL, lambda f, p: np.ones((3, 3), "f4")), "does not fit"),
    "circle of groups": (put("model_weights/c", lambda f, p: f["model_weights"]), "holds 0 weights"),
    "no names": (lambda f: f["model_weights/c"].attrs.pop("weight_names"), "holds 0 weights"),
    "names out of the file": (
        lambda f: f["model_weights/c"].attrs.__setitem__("weight_names", [b"../../x", b"/etc/passwd"]), "no array"
    ),
    "no description": (lambda f: f.attrs.pop("model_config"), "weights only"),
    "Theano": (lambda f: f.attrs.__setitem__("backend", b"theano"), "mirrored"),
}  # fmt: skip


@pytest.mark.parametrize("name", HDF5)
def test_what_is_wrong_with_the_arrays_is_said(name: str) -> None:
    edit, message = HDF5[name]
    with pytest.raises(ModelError, match=message):
        read(edited(file(), edit), "m")


# --- description ---


def models_in_models(depth: int) -> dict[str, Any]:
    return chain(models_in_models(depth - 1)) if depth else model()


DESCRIPTIONS: dict[str, tuple[Any, str]] = {
    "not JSON": (b"{", "cannot be read"),
    "no text": (b"\xff\xfe", "cannot be read"),
    "a number": (b"1", "cannot be read"),
    "deep": (b"[" * 100_000, "deep"),
    "models in models": (models_in_models(20), "nests models"),
    "no layers": (chain(), "cannot be read"),
    "no image": (chain(described("Flatten", "f")), "shape it does not say"),
    "one-dimensional": (chain(described("Flatten", "f", batch_input_shape=[None, 7])), "images are needed"),
    "huge image": (chain(described("Flatten", "f", batch_input_shape=[None, 2**20, 2**20, 3])), "Nothing that large"),
    "huge padding": (model(described("ZeroPadding2D", "z", padding=10**6)), "Nothing that large"),
    "huge upsampling": (model(described("UpSampling2D", "u", size=[10**5, 10**5])), "Nothing that large"),
    "huge window": (model(described("AveragePooling2D", "p", pool_size=10**6, padding="same")), "does not fit"),
    "huge dilation": (model(padding="same", dilation_rate=10**9, kernel_size=[3, 4]), "does not fit|Nothing that"),
    "huge resizing": (model(described("Resizing", "r", height=10**6, width=10**6)), "Nothing that large"),
    "resizing to nothing": (model(described("Resizing", "r", height=0, width=4)), "does not fit"),
    "crop to a fraction": (model(described("CenterCrop", "z", height=2.5, width=4)), "does not fit"),
    "resizing by the nearest": (
        model(described("Resizing", "r", height=4, width=4, interpolation="nearest")),
        "only bilinear",
    ),
    "negative cropping": (model(described("Cropping2D", "z", cropping=-3)), "does not fit"),
    "nothing left": (model(described("Cropping2D", "z", cropping=2)), "makes nothing of an image"),
    "odd padding": (model(padding="causal"), "'causal'"),
    "stride 0": (model(strides=0), "does not fit"),
    "infinite number": (model(strides=float("inf")), "does not fit"),
    "wrong filters": (model(filters=4), "does not fit"),
    "groups": (model(groups=2), "does not fit"),
    "both orders": (
        model(described("MaxPooling2D", "p", data_format="channels_first"), data_format="channels_last"), "several ways"
    ),
    "axis": (model(described("Softmax", "s", axis=[1, 2])), "only over one"),
}  # fmt: skip


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_what_is_wrong_with_the_description_is_said(name: str) -> None:
    description, message = DESCRIPTIONS[name]
    text = description if isinstance(description, bytes) else json.dumps(description).encode()
    content = edited(file(), lambda f: f.attrs.__setitem__("model_config", text))
    with pytest.raises(ModelError, match=message):
        read(content, "m")


def graph(*layers: dict[str, Any], output: str = "f", inputs: int = 1) -> bytes:
    image = described("InputLayer", "i", [], batch_input_shape=[None, 2, 2, 3])
    wiring = {"input_layers": [["i", 0, 0]] * inputs, "output_layers": [[output, 0, 0]]}
    return by_hand({"class_name": "Model", "config": {"name": "m", "layers": [image, *layers], **wiring}}, {})


def calls(*names: str) -> list[Any]:
    return [[[name, 0, 0, {}] for name in names]]


GRAPHS: dict[str, tuple[bytes, str]] = {
    "a circle": (graph(described("Add", "a", calls("i", "f")), described("Flatten", "f", calls("a"))), "in a circle"),
    "itself": (graph(described("Add", "f", calls("f", "f"))), "in a circle"),
    "a layer that is not there": (graph(described("Flatten", "f", calls("nobody"))), "'nobody'"),
    "no such call": (graph(described("Flatten", "f", [[["i", 7, 0, {}]]])), "'i'"),
    "two of one name": (graph(*[described("Flatten", "f", calls("i"))] * 2), "one name"),
    "two inputs": (graph(described("Flatten", "f", calls("i")), inputs=2), "2 inputs"),
    "a second output of a layer": (graph(described("Flatten", "f", [[["i", 0, 1, {}]]])), "several outputs"),
    "chance": (graph(described("Dropout", "f", [[["i", 0, 0, {"training": True}]]])), "by chance"),
    "two inputs for one": (graph(described("Flatten", "f", calls("i", "i"))), "does not fit"),
    "unlike ranks": (
        graph(described("Flatten", "g", calls("i")), described("Add", "f", calls("i", "g"))), "different rank"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_wrong_with_the_wiring_is_said(name: str) -> None:
    content, message = GRAPHS[name]
    with pytest.raises(ModelError, match=message):
        read(content, "m")


def test_a_long_chain_of_layers_is_no_recursion() -> None:
    names = ["i", *(f"a{number}" for number in range(1200))]
    layers = [described("Permute", name, calls(before), dims=[1, 2, 3]) for before, name in pairwise(names)]
    content = graph(*layers, described("Flatten", "f", calls(names[-1])))
    assert len(read(content, "m").module.layers) == 1201


# --- archives ---


def test_archives_that_lack_or_hide_something() -> None:
    whole = archive(model())
    with pytest.raises(CheckpointMismatch, match=r"holds 0 weights"):
        read(archive(model(), weights=small()), "m")
    with pytest.raises(ModelError, match="damaged"):
        read(whole[:-10], "m")
    with pytest.raises(ModelError, match="bomb"):
        read(archive(b" " * 50_000_000), "m")
    with pytest.raises(ModelError, match="bomb"):
        read(archive(model(), assets=bytes(50_000_000)), "m")
    for missing in ("metadata.json", "config.json", "model.weights.h5"):
        stream = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(stream, "w") as new:
            for entry in old.namelist():
                if entry != missing:
                    new.writestr(entry, old.read(entry))
        with pytest.raises(ModelError, match=missing):
            read(stream.getvalue(), "m")


# --- anything at all ---

BYTES = small()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, len(BYTES) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_bytes_give_a_network_or_one_of_our_errors(changes: list[tuple[int, int]]) -> None:
    content = bytearray(BYTES)
    for place, value in changes:
        content[place] = value
    try:
        read(bytes(content), "m")
    except NeuralCleanseError as error:
        assert str(error)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 2**40)
    | st.floats(allow_nan=False)
    | st.sampled_from(["c", "same", "relu"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["config", "layers", "name"]), inner),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_description_gives_a_network_or_one_of_our_errors(data: st.DataObject) -> None:
    whole = model(described("BatchNormalization", "b"), described("MaxPooling2D", "p", pool_size=[2, 2]))
    description = json.loads(json.dumps(whole))
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = description
        while True:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or data.draw(st.integers(0, 5)) == 0:
                place[key] = data.draw(JSON)
                break
            place = place[key]
    try:
        read(by_hand(description, WEIGHTS), "m")
    except NeuralCleanseError as error:
        assert str(error)
