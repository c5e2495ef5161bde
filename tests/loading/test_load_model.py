"""Files that somebody else made: what can be read is read exactly, and nothing of them is ever run."""

import json
import os
import pickle
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import (
    CheckpointMismatch,
    CodeExecutionRefused,
    ModelError,
    NeuralCleanseError,
    SettingsError,
    UnknownFormat,
    UnusableOutputs,
)
from neural_cleanse.loading.architectures import gtsrb_cnn, mnist_cnn
from neural_cleanse.loading.checkpoint import METADATA_KEY, Description, write_checkpoint
from neural_cleanse.loading.load import LoadedModel, load_model
from neural_cleanse.loading.network import Trust
from neural_cleanse.outputs import OutputKind

DIGIT = (1, 28, 28)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Networks made in a test have the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    """An untrained digit network with seeded weights."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return mnist_cnn(7).eval()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.rand(5, *DIGIT, generator=torch.Generator().manual_seed(1))


def saved(path: Path, value: object, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def agree(loaded: LoadedModel, network: nn.Module, pictures: Tensor, tolerance: float = 1e-5) -> bool:
    return torch.allclose(loaded.classifier(pictures), network(pictures), atol=tolerance)


# --- what can be read ---


def test_our_own_file_needs_no_option(tmp_path: Path, network: nn.Module, pictures: Tensor) -> None:
    names = tuple(f"class {label}" for label in range(7))
    path = tmp_path / "model.bin"  # told by content, never by name
    write_checkpoint(path, network, Description("mnist_cnn", DIGIT, 7, Normalize((0.5,), (0.25,)), names))
    loaded = load_model(path)
    assert torch.allclose(loaded.classifier(pictures), network((pictures - 0.5) / 0.25), atol=1e-5)
    assert (loaded.classifier.input_shape, loaded.classifier.num_classes) == (DIGIT, 7)
    assert loaded.origin.label_names == names
    assert loaded.origin.trust == "tensors only"
    assert loaded.origin.assumed == ()
    assert [file.name for file in tmp_path.iterdir()] == ["model.bin"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", [None, "net", "state_dict", "model", "netC", "unheard_of"])
def test_state_dicts_wherever_they_lie(
    tmp_path: Path, network: nn.Module, pictures: Tensor, zipped: bool, key: str | None
) -> None:
    weights = network.state_dict()
    value = weights if key is None else {key: weights, "epoch": 3, "accuracy": 0.5}
    path = saved(tmp_path / "m.pth", value, _use_new_zipfile_serialization=zipped)
    loaded = load_model(path, architecture="mnist_cnn")
    assert agree(loaded, network, pictures)
    assert loaded.origin.nested_under == key
    assert any("normalisation" in note for note in loaded.origin.assumed)


@pytest.mark.parametrize("prefix", ["module.", "module.module.", "_orig_mod.module.", "model."])
def test_wrappers_prefixes_are_dropped(tmp_path: Path, network: nn.Module, pictures: Tensor, prefix: str) -> None:
    weights = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    assert agree(load_model(saved(tmp_path / "m", weights), architecture="mnist_cnn"), network, pictures)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(
    tmp_path: Path, network: nn.Module, pictures: Tensor, dtype: torch.dtype
) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in network.state_dict().items()}
    loaded = load_model(saved(tmp_path / "m", weights), architecture="mnist_cnn")
    assert agree(loaded, network, pictures, tolerance=2e-2)
    assert all(parameter.dtype == torch.float32 for parameter in loaded.classifier.module.parameters())


@pytest.mark.parametrize("build", [mnist_cnn, gtsrb_cnn])
def test_safetensors_sort_their_tensors_and_still_tell_the_number_of_classes(
    tmp_path: Path, build: Callable[[int], nn.Module]
) -> None:
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(build(11).state_dict(), path)
    assert load_model(path, architecture=build.__name__).classifier.num_classes == 11


def test_the_hash_is_of_the_file(demo_files: Path) -> None:
    import hashlib

    path = demo_files / "clean.safetensors"
    origin = load_model(path).origin
    assert origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert origin.num_bytes == path.stat().st_size
    assert "label_names" not in origin.as_record()


# --- what would run code ---


class Payload:
    """Unpickling it makes the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("container", ["zip", "legacy", "pickle 2", "pickle 4"])
@pytest.mark.parametrize("hidden", [False, True])
def test_pickled_payloads_are_refused_unrun(tmp_path: Path, container: str, hidden: bool) -> None:
    marker, path = tmp_path / "marker", tmp_path / "m.pth"
    value: Any = Payload(marker)
    if hidden:
        value = {"state_dict": {"weight": torch.zeros(3)}, "optimizer": value}
    if container.startswith("pickle"):
        path.write_bytes(pickle.dumps(value, protocol=int(container[-1])))
    else:
        saved(path, value, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(CodeExecutionRefused, match="Nothing of it was run"):
        load_model(path, architecture="mnist_cnn")
    assert not marker.exists()
    if not hidden:
        pickle.loads(pickle.dumps(value))
        assert marker.exists(), "the payload must be a real one"


@pytest.mark.parametrize("allow_code", [False, True])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_module_whose_network_is_named_runs_nothing_whatever_is_allowed(
    tmp_path: Path, network: nn.Module, zipped: bool, allow_code: bool
) -> None:
    path = saved(tmp_path / "m", network, _use_new_zipfile_serialization=zipped)
    if zipped:
        loaded = load_model(path, architecture="mnist_cnn", allow_code=allow_code)
        assert loaded.origin.trust is Trust.TENSORS and loaded.classifier.num_classes == 7
    else:  # before PyTorch 1.6 the classes' source lay in the file
        with pytest.raises(CodeExecutionRefused, match="Nothing of it was run"):
            load_model(path, architecture="mnist_cnn", allow_code=allow_code)
    with pytest.raises(CodeExecutionRefused, match="Nothing of it was run"):
        load_model(path, input_shape=(1, 28, 28))


def test_torchscript_is_refused_as_a_program(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and what people still hand out
        torch.jit.save(torch.jit.script(nn.Linear(3, 2)), tmp_path / "m.pt")
    with pytest.raises(CodeExecutionRefused, match="TorchScript"):
        load_model(tmp_path / "m.pt", architecture="mnist_cnn")


# --- what is broken ---


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x80",
        b"\x80\x02",
        b"\x80garbage",
        b"PK\x03\x04",
        b"PK\x03\x04" + bytes(50),
        bytes(100),
        b"{}" * 9,
    ],
)
def test_what_is_no_container_is_an_unknown_format(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(UnknownFormat, match=str(tmp_path / "m")):
        load_model(tmp_path / "m", architecture="mnist_cnn")


def test_keras_files_are_told_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ModelError, match="HDF5 file"):
        load_model(tmp_path / "m.pth", architecture="mnist_cnn")


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model file"):
        load_model(tmp_path / "m")
    with pytest.raises(UnknownFormat, match="directory"):
        load_model(tmp_path)


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_truncated_files_end_in_one_message(tmp_path: Path, network: nn.Module, container: str) -> None:
    path = tmp_path / "m"
    if container == "safetensors":
        write_checkpoint(path, network, Description("mnist_cnn", DIGIT, 7))
    else:
        saved(path, network.state_dict(), _use_new_zipfile_serialization=container == "zip")
    whole = path.read_bytes()
    for kept in (5, 9, 60, 200, 700, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(ModelError):
            load_model(path, architecture="mnist_cnn")


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_flipped_bytes_never_raise_anything_else(tmp_path: Path, container: str) -> None:
    network, path = nn.Linear(3, 2), tmp_path / "m"
    if container == "safetensors":
        write_checkpoint(path, network, Description("mnist_cnn", DIGIT, 7))
    else:
        saved(path, network.state_dict(), _use_new_zipfile_serialization=container == "zip")
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(3)
    for _ in range(300):
        broken = bytearray(whole)
        for position in torch.randint(len(whole), (3,), generator=generator).tolist():
            broken[position] = int(torch.randint(256, (1,), generator=generator))
        path.write_bytes(broken)
        with pytest.raises(NeuralCleanseError):  # nn.Linear never fits mnist_cnn
            load_model(path, architecture="mnist_cnn")


def header_and(data: bytes, header: object, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize(
    "content",
    [
        header_and(bytes(64), {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, length=2**62),
        header_and(bytes(64), {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, length=2**63 + 2**62),
        header_and(
            bytes(24),
            {
                "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
                "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
            },
        ),
        header_and(bytes(16), {"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 16]}}),
        header_and(bytes(16), {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**60]}}),
        header_and(bytes(16), {"a": {"dtype": "X99", "shape": [4], "data_offsets": [0, 16]}}),
        header_and(bytes(16), {"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}),
        header_and(b"", {"a": 1}),
        header_and(b"", {"__metadata__": {METADATA_KEY: 3}}),
        header_and(b"", {"__metadata__": {METADATA_KEY: "[" * 100_000}}),
        header_and(b"", {}),
    ],
    ids=[
        "length",
        "length over 2**63",
        "overlap",
        "shape",
        "offset",
        "dtype",
        "negative",
        "form",
        "type",
        "deep",
        "none",
    ],
)
def test_crafted_safetensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ModelError):
        load_model(tmp_path / "m", architecture="mnist_cnn")


GOOD = {
    "architecture": "mnist_cnn",
    "input_shape": [1, 28, 28],
    "num_classes": 7,
    "normalize": {"mean": [0.0], "std": [1.0], "scale": 1.0},
    "label_names": None,
}


def described(path: Path, network: nn.Module, text: str) -> Path:
    safetensors.torch.save_file(network.state_dict(), path, metadata={METADATA_KEY: text})
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "nowhere"},
        {"architecture": None},
        {"input_shape": [1, 1_000_000, 1_000_000]},
        {"input_shape": [10**30, 1, 1]},
        {"input_shape": [1, 2000, 2000]},
        {"input_shape": [1, -28, -28]},
        {"input_shape": [0, 28, 28]},
        {"input_shape": [28, 28]},
        {"input_shape": "abc"},
        {"input_shape": [1, 29, 29]},
        {"num_classes": 10**9},
        {"num_classes": 10**18},
        {"num_classes": 100_000},
        {"num_classes": 8},
        {"num_classes": 0},
        {"num_classes": -7},
        {"num_classes": "many"},
        {"num_classes": float("inf")},
        {"label_names": 5},
        {"normalize": None},
        {"normalize": {"mean": [float("nan")], "std": [1.0], "scale": 1.0}},
        {"normalize": {"mean": [0.0], "std": [0.0], "scale": 1.0}},
        {"normalize": {"mean": [0.0], "std": [-1.0], "scale": 1.0}},
        {"normalize": {"mean": [], "std": [], "scale": 1.0}},
        {"normalize": {"mean": [0.0], "std": [1.0], "scale": float("inf")}},
        {"normalize": {"mean": [0.0] * 3, "std": [1.0] * 3, "scale": 1.0}},
    ],
    ids=str,
)
def test_hostile_descriptions_are_refused(tmp_path: Path, network: nn.Module, change: dict[str, Any]) -> None:
    with pytest.raises(NeuralCleanseError):
        load_model(described(tmp_path / "m", network, json.dumps(GOOD | change)))


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '"x"', "{}"])
def test_descriptions_that_are_none(tmp_path: Path, network: nn.Module, text: str) -> None:
    with pytest.raises(ModelError, match="describes itself"):
        load_model(described(tmp_path / "m", network, text))


@pytest.mark.parametrize(
    "names",
    [["x"] * 1_000_000, [1, None, {"a": []}, 2.5, True, [], "g"], "seven", ["\ud800" + "x" * 10_000] * 7, []],
    ids=["a million", "other types", "text", "long", "none"],
)
def test_hostile_label_names_are_sanitized_or_left_out(tmp_path: Path, network: nn.Module, names: Any) -> None:
    origin = load_model(described(tmp_path / "m", network, json.dumps(GOOD | {"label_names": names}))).origin
    if origin.label_names is not None:
        assert len(origin.label_names) == 7
        assert all(isinstance(name, str) and len(name) <= 200 for name in origin.label_names)


def test_a_description_cannot_name_code(tmp_path: Path, network: nn.Module) -> None:
    marker, code = tmp_path / "marker", tmp_path / "evil.py"
    code.write_text(f"import os\nos.mkdir({str(marker)!r})\ndef make(): return 1\n")
    for spec in (f"{code}:make", str(code)):
        path = described(tmp_path / "m", network, json.dumps(GOOD | {"architecture": spec}))
        for allow_code in (False, True):
            with pytest.raises(NeuralCleanseError):
                load_model(path, allow_code=allow_code)
    assert not marker.exists()


# --- what does not fit ---


def test_weights_without_a_name_say_what_to_do(tmp_path: Path, network: nn.Module) -> None:
    with pytest.raises(ModelError, match="--architecture"):
        load_model(saved(tmp_path / "m", network.state_dict()))
    with pytest.raises(SettingsError, match="gtsrb_cnn, gtsrb_cnn_half, mnist_cnn"):
        load_model(saved(tmp_path / "m", network.state_dict()), architecture="resnet")


def test_a_mismatch_names_what_differs(tmp_path: Path, network: nn.Module) -> None:
    weights = network.state_dict()
    del weights["0.bias"]
    weights["extra.weight"] = torch.zeros(1)
    weights["3.weight"] = torch.zeros(32, 16, 3, 3)
    weights = {name: weights[name] for name in sorted(weights, key=lambda name: name == "9.bias")}
    with pytest.raises(CheckpointMismatch) as caught:
        load_model(saved(tmp_path / "m", weights), architecture=_own(tmp_path, "mnist_cnn(7)"), allow_code=True)
    for part in ("missing: 0.bias", "unexpected: extra.weight", "3.weight is 32x16x3x3 in the file and 32x16x5x5"):
        assert part in str(caught.value)


def _own(directory: Path, expression: str, name: str = "own.py") -> str:
    """An architecture file whose function `make` returns the expression."""
    file = directory / name
    file.write_text(
        "import torch\nfrom torch import nn\nfrom neural_cleanse.loading.architectures import mnist_cnn\n"
        f"def make():\n    return {expression}\n"
    )
    return f"{file}:make"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(tmp_path: Path, network: nn.Module, value: float) -> None:
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights["3.weight"][0, 0, 0, 0] = value
    with pytest.raises(ModelError, match=r"NaN or Inf, in 3\.weight"):
        load_model(saved(tmp_path / "m", weights), architecture="mnist_cnn")


@pytest.mark.parametrize("make", [Tensor.to_sparse, lambda tensor: tensor.to("meta")], ids=["sparse", "meta"])
def test_tensors_without_plain_values(tmp_path: Path, network: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
    weights = network.state_dict()
    weights["7.weight"] = make(weights["7.weight"])
    with pytest.raises(ModelError, match=r"7\.weight"):
        load_model(saved(tmp_path / "m", weights), architecture="mnist_cnn")


@pytest.mark.parametrize("classes", [10**6, 10**8, 10**12])
def test_a_tensor_that_repeats_one_number_reserves_no_memory(tmp_path: Path, network: nn.Module, classes: int) -> None:
    weights = network.state_dict()
    weights["9.bias"] = torch.zeros(1).expand(classes)  # four bytes in the file
    path = saved(tmp_path / "m", weights)
    with pytest.raises(CheckpointMismatch):
        load_model(path, architecture="mnist_cnn")


# --- the user's own architecture ---


def test_own_code_runs_only_when_allowed(tmp_path: Path, network: nn.Module, pictures: Tensor) -> None:
    marker = tmp_path / "marker"
    spec = _own(tmp_path, f"(__import__('os').mkdir({str(marker)!r}), mnist_cnn(7))[1]")
    path = saved(tmp_path / "m", network.state_dict())
    with pytest.raises(CodeExecutionRefused, match="--allow-code"):
        load_model(path, architecture=spec, input_shape=DIGIT)
    assert not marker.exists()
    loaded = load_model(path, architecture=spec, input_shape=DIGIT, allow_code=True)
    assert agree(loaded, network, pictures)
    assert "your own code" in loaded.origin.trust
    with pytest.raises(ModelError, match="input_shape"):
        marker.rmdir()
        load_model(path, architecture=spec, allow_code=True)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("'text'", "returned a str"),
        ("None", "returned a NoneType"),
        ("__import__('sys').exit(0)", "SystemExit"),
        ("nn.Linear", "returned a type"),
    ],
)
def test_own_functions_that_fail(tmp_path: Path, network: nn.Module, expression: str, message: str) -> None:
    path = saved(tmp_path / "m", network.state_dict())
    with pytest.raises(ModelError, match=message):
        load_model(path, architecture=_own(tmp_path, expression), input_shape=DIGIT, allow_code=True)


@pytest.mark.parametrize("spec", ["own.py", "own.py:", "missing.py:make", "own.txt:make", ":make", "own.py:absent"])
def test_own_files_that_are_named_wrongly(
    tmp_path: Path, network: nn.Module, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _own(tmp_path, "mnist_cnn(7)")
    path = saved(tmp_path / "m", network.state_dict())
    with pytest.raises((SettingsError, ModelError)):
        load_model(path, architecture=spec, input_shape=DIGIT, allow_code=True)


# what `forward` does after `y = self.linear(x.flatten(1))`, and what is said of it
UNUSABLE = {
    "tuple": ("return y, y", "returns a tuple"),
    "random": ("return nn.functional.dropout(y, 0.5, training=True)", "answers differently"),
    "nan": ("return y / 0 * 0", "NaN or Inf"),
    "maps": ("return x", "the number of classes"),
    "assertion": ("assert x.shape[1] == 99, 'wrong colours'", "wrong colours"),
    "key error": ("return {}['head']", "head"),
    "nothing": ("pass", "returns a NoneType"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_networks_whose_answers_cannot_be_scanned(tmp_path: Path, case: str) -> None:
    last, message = UNUSABLE[case]
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "class Own(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(12, 4)\n"
        "    def forward(self, x):\n"
        "        y = self.linear(x.flatten(1))\n"
        f"        {last}\n"
    )
    weights = {"linear." + name: tensor for name, tensor in nn.Linear(12, 4).state_dict().items()}
    path = saved(tmp_path / "m", weights)
    with pytest.raises(UnusableOutputs, match=message):
        load_model(path, architecture=f"{tmp_path / 'own.py'}:Own", input_shape=(3, 2, 2), allow_code=True)


def test_an_input_that_the_network_cannot_take(tmp_path: Path, network: nn.Module) -> None:
    path = saved(tmp_path / "m", network.state_dict())
    with pytest.raises(UnusableOutputs, match=r"3x32x32.*Give images with 1 channel,"):
        load_model(path, architecture=_own(tmp_path, "mnist_cnn(7)"), input_shape=(3, 32, 32), allow_code=True)


# --- what the rows of the output are ---


HEAD = "nn.Flatten(), nn.Linear(12, 4)"


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        ("nn.Softmax(1)", OutputKind.PROBABILITIES),
        ("nn.LogSoftmax(1)", OutputKind.LOG_PROBABILITIES),
        ("nn.Identity()", OutputKind.LOGITS),
        ("nn.ReLU()", OutputKind.LOGITS),
        ("nn.Sigmoid()", OutputKind.SIGMOID),
    ],
)
def test_probabilities_are_recognised_and_logged(tmp_path: Path, last: str, kind: OutputKind) -> None:
    linear = nn.Linear(12, 4)
    path = saved(tmp_path / "m", {"1." + name: tensor for name, tensor in linear.state_dict().items()})
    spec = _own(tmp_path, f"nn.Sequential({HEAD}, {last})")
    loaded = load_model(path, architecture=spec, input_shape=(3, 2, 2), allow_code=True)
    assert loaded.classifier.outputs is kind
    images = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    if kind is not OutputKind.LOGITS:
        expected = linear(images.flatten(1)).softmax(1)
        assert torch.allclose(loaded.classifier(images).softmax(1), expected, atol=1e-6)


def test_saturated_probabilities_keep_a_finite_gradient(tmp_path: Path) -> None:
    linear = nn.Linear(12, 4)
    with torch.no_grad():
        linear.weight.mul_(1000)
    path = saved(tmp_path / "m", {"1." + name: tensor for name, tensor in linear.state_dict().items()})
    spec = _own(tmp_path, f"nn.Sequential({HEAD}, nn.Softmax(1))")
    classifier = load_model(path, architecture=spec, input_shape=(3, 2, 2), allow_code=True).classifier
    assert classifier.outputs is OutputKind.PROBABILITIES
    images = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = classifier(images)
    assert (classifier.module(images) == 0).any(), "some class has underflowed"
    loss = nn.functional.cross_entropy(logits, torch.zeros(6, dtype=torch.long))
    loss.backward()
    assert torch.isfinite(logits).all()
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()
