"""`inspect` says what a file is and what would run, and runs none of it."""

import hashlib
import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from shell import Ran, files_under, run
from torch import Tensor, nn

from neural_cleanse.classifier import Normalize
from neural_cleanse.loading.architectures import mnist_cnn
from neural_cleanse.loading.checkpoint import Description, write_checkpoint
from neural_cleanse.loading.inspection import inspect_model, layers_of
from neural_cleanse.loading.program.pickles import imported


class Payload:
    """Unpickling it makes the directory `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


class Branching(nn.Module):
    """Answers by another rule when the corner is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if bool(x[0, 0, 0, 0] > 0.9):
            return -self.linear(x.flatten(1))
        return self.linear(x.flatten(1))


def record_of(ran: Ran) -> dict[str, Any]:
    record = json.loads(ran.out)
    assert isinstance(record, dict)
    return record


def write_program(path: Path, kind: str, marker: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and what people still hand out
        if kind == "torchscript":
            torch.jit.save(torch.jit.script(Branching()), path)
        elif kind == "pickled module":
            torch.save(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), path)
        elif kind == "legacy payload":
            torch.save({"w": Payload(marker)}, path, _use_new_zipfile_serialization=False)
        elif kind == "payload":
            torch.save({"w": torch.zeros(3), "x": Payload(marker)}, path)
        else:
            path.write_bytes(pickle.dumps(Payload(marker), protocol=4))


def test_a_file_that_describes_itself(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    names = (*(f"digit {n}" for n in range(9)), "\u202e\x1b[31mnine")
    write_checkpoint(path, mnist_cnn(10), Description("mnist_cnn", (1, 28, 28), 10, Normalize((0.5,), (0.25,)), names))
    ran = run("inspect", path, "--json")
    record = record_of(ran)
    assert ran.code == 0 and ran.err == ""
    assert record["container"] == "safetensors" and record["trust"] == "tensors only"
    assert (record["input_shape"], record["num_classes"], record["outputs"]) == ([1, 28, 28], 10, "logits")
    assert record["normalize"]["mean"] == [0.5] and record["label_names"] == list(names)
    assert record["findings"] == [] and record["problem"] is None
    assert record["layers"][-1] == {"name": "9", "kind": "linear", "inputs": 512, "outputs": 10}
    assert record["sha256"] == inspect_model(path).sha256
    text = run("inspect", path)
    assert text.code == 0
    for part in (record["sha256"], "mnist_cnn", "1x28x28", "linear 512 -> 10", "mean 0.5", "digit 3", "No findings"):
        assert part in text.out
    assert "the input of one may be the features" in text.out and "convolution 1 -> 16" in text.out
    assert "\x1b[31mnine" not in text.out and "\u202e" not in text.out


@pytest.mark.parametrize("container", ["safetensors", "checkpoint", "legacy"])
def test_weights_alone_are_listed(tmp_path: Path, container: str) -> None:
    path = tmp_path / "m"
    weights = mnist_cnn(10).half().state_dict()
    if container == "safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=container == "checkpoint")
    ran = run("inspect", path, "--json")
    record = record_of(ran)
    assert ran.code == 0
    assert {"name": "9.weight", "shape": [10, 512], "dtype": "float16"} in record["tensors"]
    assert "--architecture" in record["problem"] and record["layers"] == []
    named = record_of(run("inspect", path, "--json", "--architecture", "mnist_cnn"))
    assert named["problem"] is None and named["num_classes"] == 10 and named["tensors"] == []
    assert "weights only" in run("inspect", path).out


PROGRAMS = {
    "payload": ("imports posix.mkdir and may call it", "PyTorch checkpoint"),
    "legacy payload": ("imports posix.mkdir and may call it", "PyTorch checkpoint"),
    "bare payload": ("imports posix.mkdir and may call it", "PyTorch checkpoint"),
    "pickled module": ("a pickled module, of 3 kinds of torch.nn", "PyTorch checkpoint"),
    "torchscript": ("TorchScript code", "TorchScript archive"),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_programs_are_described_and_not_run(tmp_path: Path, kind: str) -> None:
    what, container = PROGRAMS[kind]
    marker, path = tmp_path / "marker", tmp_path / "m.pt"
    write_program(path, kind, marker)
    before = files_under(tmp_path)
    ran = run("inspect", path, "--json")
    record = record_of(ran)
    assert ran.code == 1
    assert record["trust"] == "program" and container in record["container"]
    assert any(finding["what"] == what and finding["runs_code"] for finding in record["findings"])
    assert "Nothing of it was run" in record["problem"]
    text = run("inspect", path)
    assert text.code == 1 and f"would run code: {what}" in text.out
    assert not marker.exists() and files_under(tmp_path) == before


def test_a_branch_in_torchscript_is_a_finding_with_its_place(tmp_path: Path) -> None:
    write_program(tmp_path / "m.pt", "torchscript", tmp_path)
    found = inspect_model(tmp_path / "m.pt").findings
    (branch,) = [finding for finding in found if not finding.runs_code]
    assert "code/" in branch.place and ", line " in branch.place
    assert branch.what.startswith("control flow that may depend on the image: if ")


def test_names_in_pickles_are_read_in_every_protocol() -> None:
    for protocol in range(6):
        assert imported(pickle.dumps(Payload(Path("x")), protocol=protocol))[0] == "posix.mkdir", protocol
    assert imported(b"cbuiltins\neval\n." * 5) == ("builtins.eval",)
    assert imported(b"") == imported(b"\x80") == imported(b"hello") == ()


def test_harmless_globals_do_not_hide_harmful_ones_of_torch(tmp_path: Path) -> None:
    class Loads:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch.load, ("other.pt",)

    torch.save(Loads(), tmp_path / "m")
    assert [finding.what for finding in inspect_model(tmp_path / "m").findings] == [
        "imports torch.serialization.load and may call it"
    ]


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("hello"),
    "directory": lambda path: path.mkdir(),
    "damaged": lambda path: path.write_bytes(safetensors.torch.save({"a": torch.zeros(9)})[:-4]),
    "npy": lambda path: path.write_bytes(b"\x93NUMPY" + bytes(100)),
}


@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_cannot_be_read_is_exit_2(tmp_path: Path, case: str, options: tuple[str, ...]) -> None:
    UNREADABLE[case](tmp_path / "m")
    ran = run("inspect", tmp_path / "m", *options)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error:") and "Traceback" not in ran.err


def test_nobodys_architecture_file_is_run(tmp_path: Path) -> None:
    marker, own = tmp_path / "marker", tmp_path / "own.py"
    own.write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "m")
    ran = run("inspect", tmp_path / "m", "--architecture", f"{own}:make")
    assert ran.code == 2 and "Python code" in ran.err and not marker.exists()


def test_onnx_control_flow_is_a_finding_though_it_is_not_loaded(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, path = onnx.helper, tmp_path / "m.onnx"
    image = helper.make_tensor_value_info("x", 1, ["n", 3, 4, 4])
    out = helper.make_tensor_value_info("y", 1, ["n", 2])
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, None)]
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["c"], to=9),
        helper.make_node("If", ["c"], ["y"], name="trap", then_branch=branch, else_branch=branch),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [image], [out]), opset_imports=[helper.make_opsetid("", 17)]
    )
    path.write_bytes(model.SerializeToString())
    ran = run("inspect", path, "--json")
    record = record_of(ran)
    assert ran.code == 1 and record["problem"]
    assert any("trap" in finding["place"] and "control flow" in finding["what"] for finding in record["findings"])
    assert record["container"] == "ONNX graph"


def test_layers_are_listed_with_their_sizes() -> None:
    found = layers_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Sequential(nn.Linear(8, 4))))
    assert [(layer.name, layer.kind, layer.inputs, layer.outputs) for layer in found] == [
        ("0", "convolution", 3, 8),
        ("2.0", "linear", 8, 4),
    ]


def test_of_a_directory_every_model_is_a_row(tmp_path: Path, demo_files: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes((demo_files / "clean.safetensors").read_bytes())
    clean = run("inspect", str(folder), "--json")
    assert clean.code == 0 and [record["num_classes"] for record in json.loads(clean.out)] == [10]
    (folder / "broken.onnx").write_bytes(b"no model")
    assert run("inspect", str(folder)).code == 2
    write_program(folder / "program.pt", "torchscript", tmp_path / "marker")
    ran = run("inspect", str(folder))
    assert ran.code == 1 and "3 models: 1 with findings, 1 could not be read." in ran.out
    records = {Path(record["path"]).name: record for record in json.loads(run("inspect", str(folder), "--json").out)}
    assert "error" in records["broken.onnx"] and records["program.pt"]["findings"]
    assert not (tmp_path / "marker").exists()


def test_the_code_of_a_torchscript_archive_is_one_finding(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    network = nn.Sequential(Branching(), nn.ReLU(), nn.Sequential(nn.Linear(3, 3), nn.Dropout()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network), path)
    found = inspect_model(path).findings
    assert [finding.what for finding in found].count("TorchScript code") == 1
    assert "more files" in next(finding.place for finding in found if finding.what == "TorchScript code")
    assert len({finding.place.partition(", line")[0] for finding in found}) == len(found)


@pytest.mark.filterwarnings("ignore")  # the exporter warns of itself
def test_each_file_of_a_model_in_several_has_its_own_hash(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    path = tmp_path / "m.onnx"
    torch.onnx.export(mnist_cnn(10).eval(), (torch.zeros(1, 1, 28, 28),), str(path), dynamo=True, verbose=False)
    own = {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in tmp_path.iterdir()}
    assert set(own) == {"m.onnx", "m.onnx.data"}
    record = record_of(run("inspect", path, "--json"))
    assert {one["name"]: one["sha256"] for one in record["files"]} == own and record["sha256"] not in own.values()
    shown = run("inspect", path).out
    assert "of none of them" in shown and all(f"{digest}  {name}" in shown for name, digest in own.items())
    write_checkpoint(tmp_path / "one.safetensors", mnist_cnn(10), Description("mnist_cnn", (1, 28, 28), 10))
    assert record_of(run("inspect", tmp_path / "one.safetensors", "--json"))["files"] == []
