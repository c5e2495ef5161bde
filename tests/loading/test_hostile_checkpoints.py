"""Checkpoints that attack whoever opens them: one clear message, no code run, little memory, nothing written."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shell import files_under, run
from torch import nn

from neural_cleanse.errors import CodeExecutionRefused, ModelError, NeuralCleanseError
from neural_cleanse.loading import memory_limit as memory
from neural_cleanse.loading.checkpoint import MAX_CLASSES, Description, write_checkpoint
from neural_cleanse.loading.formats import open_file
from neural_cleanse.loading.load import load_model
from neural_cleanse.loading.network import Network, Trust

GIGABYTE = 1024**3


class Payload:
    """Unpickling it makes the directory `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def _array(marker: Path) -> np.ndarray:
    return np.array([Payload(marker)], dtype=object)


def _torch_zip(path: Path, marker: Path) -> None:
    torch.save({"state_dict": Payload(marker)}, path)


def _torch_legacy(path: Path, marker: Path) -> None:
    torch.save(Payload(marker), path, _use_new_zipfile_serialization=False)


def _npy(path: Path, marker: Path) -> None:
    with path.open("wb") as file:
        np.save(file, _array(marker), allow_pickle=True)


def _npz(path: Path, marker: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=_array(marker))


def _tar(path: Path, marker: Path) -> None:
    """PyTorch's format of before 2017: four pickles in a tar archive."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            content = pickle.dumps(Payload(marker), protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def _bare(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(marker), protocol=2))


WRITERS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "pt": ("m.pt", _torch_zip),
    "pth": ("m.pth", _torch_legacy),
    "bin": ("pytorch_model.bin", _torch_zip),
    "tar": ("m.tar", _tar),
    "tar that is a zip": ("m.tar", _torch_zip),
    "pkl": ("m.pkl", _bare),
    "npy": ("m.npy", _npy),
    "npz": ("m.npz", _npz),
}


@pytest.mark.parametrize("case", WRITERS)
@pytest.mark.parametrize("allowed", [(), ("--allow-code",)], ids=["", "allow code"])
def test_payloads_end_in_exit_2_and_nothing_is_written(
    tmp_path: Path, demo_files: Path, case: str, allowed: tuple[str, ...]
) -> None:
    """Also with --allow-code, which was given for the architecture file and not for what the suspect brings."""
    name, write = WRITERS[case]
    (tmp_path / "models").mkdir()
    marker, path, output = tmp_path / "marker", tmp_path / "models" / name, tmp_path / "out"
    write(path, marker)
    own = tmp_path / "own.py"
    own.write_text("from torch import nn\ndef make():\n    return nn.Linear(3, 2)\n")
    architecture = f"{own}:make" if allowed else "mnist_cnn"
    before = files_under(tmp_path / "models")
    ran = run(
        "scan",
        "--patches-only",
        path,
        "--data",
        demo_files / "digits.npz",
        "--output",
        output,
        "--architecture",
        architecture,
        *allowed,
    )
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("error:") == 1 and "Traceback" not in ran.err
    assert not marker.exists() and files_under(tmp_path / "models") == before
    assert not list(output.glob("*")) if output.exists() else True


@pytest.mark.parametrize(("architecture", "runs"), [(None, True), ("own.py", True), ("own.py:make", False)])
def test_only_code_for_the_file_itself_opens_a_program(
    monkeypatch: pytest.MonkeyPatch, architecture: str | None, runs: bool
) -> None:
    """FILE.py holds the classes that a pickle names; FILE.py:FUNCTION is a network for weights, and allows no more."""
    from neural_cleanse.loading.program import reader as program

    called: dict[str, Any] = {}

    def read(content: bytes, name: str, kind: str, **options: Any) -> Network:
        called.update(kind=kind, **options)
        return Network(nn.Identity(), "pickled module", Trust.PROGRAM, "x")

    monkeypatch.setattr(program, "read", read)
    stream = io.BytesIO()
    torch.save({"module": nn.Linear(3, 2), "hook": print}, stream)
    if runs:
        open_file(stream.getvalue(), Path("m"), architecture, allow_code=True)
        assert (called["kind"], called["allow_code"]) == ("pickle", True)
        assert called["code"] == (None if architecture is None else Path(architecture))
    else:
        with pytest.raises(CodeExecutionRefused, match="leave --architecture out"):
            open_file(stream.getvalue(), Path("m"), architecture, allow_code=True)
        assert not called


@pytest.mark.parametrize("architecture", [None, "own.py"])
def test_pickled_weights_in_an_exported_archive_are_refused_whatever_is_allowed(
    monkeypatch: pytest.MonkeyPatch, architecture: str | None
) -> None:
    from neural_cleanse.loading import formats as containers

    def read(*_: object, **__: object) -> Network:
        raise CodeExecutionRefused("It holds pickled weights.")

    monkeypatch.setattr(containers, "_read", read)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("m/archive_format", "pt2")
    with pytest.raises(CodeExecutionRefused, match="pickled weights"):
        open_file(stream.getvalue(), Path("m"), architecture, allow_code=True)


def test_the_payloads_are_real_ones(tmp_path: Path) -> None:
    """Each would have run, had it been unpickled."""
    marker = tmp_path / "marker"
    for case, (name, write) in WRITERS.items():
        write(tmp_path / name, marker)
        if case in ("npy", "npz"):
            loaded = np.load(tmp_path / name, allow_pickle=True)
            assert case == "npy" or loaded["a"] is not None
        elif case == "tar":
            with tarfile.open(tmp_path / name) as archive:
                pickle.load(archive.extractfile("pickle"))  # type: ignore[arg-type]
        elif case == "pkl":
            pickle.loads((tmp_path / name).read_bytes())
        else:
            torch.load(tmp_path / name, weights_only=False)
        assert marker.exists(), case
        marker.rmdir()


# --- memory ---


def checkpoint(pickled: bytes, storages: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A PyTorch zip with a pickle of our own."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/version", "3\n")
        for name, content in storages.items():
            archive.writestr(f"a/data/{name}", content)
    return stream.getvalue()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value) if value < 2**31 else b"\x8a\x08" + struct.pack("<q", value)


def tensor(numel: int, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """The pickle of a float tensor over storage 0."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpu" + number(numel) + b"tQ"
    sizes = b"(" + b"".join(map(number, shape)) + b"t(" + b"".join(map(number, stride)) + b"t"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + number(offset)
        + sizes
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def named(value: bytes) -> bytes:
    return b"\x80\x02}X\x06\0\0\0weight" + value + b"s."


def hex_of_hex(times: int) -> bytes:
    """Bytes that are written out in hexadecimal again and again: twice as many each time."""
    encode = b"c_codecs\nencode\n"
    value = encode + b"(X\x04\0\0\0aaaaX\x06\0\0\0latin1tR"
    for _ in range(times):
        value = encode + b"(" + value + b"X\x03\0\0\0hextR"
    return value


def copies(size: int, times: int) -> bytes:
    """One long tuple, copied by a constructor again and again at five bytes a copy."""
    long = b"(" + b"K\x01" * size + b"tq\x00"
    return b"]q\x01(" + long + b"ctorch\nSize\nq\x02" + b"h\x02h\x00\x85R" * times + b"e"


FLOATS = {"0": bytes(16)}
TOO_LARGE: dict[str, Callable[[], bytes]] = {
    "bytearray": lambda: checkpoint(named(b"cbuiltins\nbytearray\n" + number(2**36) + b"\x85R"), {}),
    "typed tensor": lambda: checkpoint(named(b"ctorch\nFloatTensor\n" + number(2**36) + b"\x85R"), {}),
    "reserved, never filled": lambda: checkpoint(named(b"ctorch\nFloatTensor\n" + number(2**27) + b"\x85R"), {}),
    "hexadecimal": lambda: checkpoint(named(hex_of_hex(40)), {}),
    "copies": lambda: checkpoint(named(copies(100_000, 20_000)), {}),
    "storage": lambda: checkpoint(named(tensor(2**34, (2**34,), (1,))), FLOATS),
    "beyond the storage": lambda: checkpoint(named(tensor(4, (10**6,), (1,))), FLOATS),
    "far offset": lambda: checkpoint(named(tensor(4, (4,), (1,), offset=2**40)), FLOATS),
    "negative": lambda: checkpoint(named(tensor(4, (-4,), (1,))), FLOATS),
    "one number, a million million times": lambda: checkpoint(named(tensor(4, (10**6, 10**6), (0, 0))), FLOATS),
    "zip bomb": lambda: checkpoint(named(tensor(2**24, (2**24,), (1,))), {"0": bytes(2**26)}, zipfile.ZIP_DEFLATED),
    "lists in lists": lambda: checkpoint(named(b"]" * 300_000 + b"a" * 299_999), {}),
}


@pytest.fixture
def peak() -> Callable[[], int]:
    """Bytes of memory at most in use since now."""
    status = Path("/proc/self/status")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    except OSError:
        pytest.skip("this system does not tell a process its own peak")

    def bytes_of(key: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key)) * 1024

    before = bytes_of("VmRSS:")
    return lambda: bytes_of("VmHWM:") - before


@pytest.mark.parametrize("case", TOO_LARGE)
def test_a_few_bytes_cannot_take_the_memory(tmp_path: Path, case: str, peak: Callable[[], int]) -> None:
    content = TOO_LARGE[case]()
    assert len(content) < 3_000_000
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "BASE", GIGABYTE // 2)
        with pytest.raises(ModelError) as caught:
            load_model(tmp_path / "m.pt", architecture="mnist_cnn")
    assert len(str(caught.value)) < 1000
    assert peak() < 2 * GIGABYTE  # the bound, and what earlier tests have left to the process


def test_the_bound_holds_and_is_lifted_afterwards() -> None:
    code = f"""
from neural_cleanse.loading.memory_limit import at_most
with at_most({GIGABYTE // 4}):
    try:
        print(len(bytearray({GIGABYTE // 2})))
    except MemoryError:
        print("bounded")
print(len(bytearray({GIGABYTE // 2})))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.split() == ["bounded", str(GIGABYTE // 2)]


def test_an_honest_zip_in_mild_compression_is_read(tmp_path: Path) -> None:
    values = torch.randn(2000).repeat(2).half().float()
    content = checkpoint(named(tensor(4000, (4000,), (1,))), {"0": values.numpy().tobytes()}, zipfile.ZIP_DEFLATED)
    assert len(content) < 16_000
    path = tmp_path / "own.py"
    path.write_text(
        "import torch\nfrom torch import nn\n"
        "class Own(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.weight = nn.Parameter(torch.zeros(4000))\n"
        "    def forward(self, x):\n"
        "        return x.flatten(1) @ self.weight.view(1000, 4)\n"
    )
    network = open_file(content, Path("m.pt"), f"{path}:Own", allow_code=True)
    assert torch.equal(network.module.state_dict()["weight"], values)


# --- what the values say ---


def own(tmp_path: Path, expression: str) -> str:
    (tmp_path / "own.py").write_text(f"from torch import nn\ndef make():\n    return {expression}\n")
    return f"{tmp_path / 'own.py'}:make"


def test_a_million_classes(tmp_path: Path, peak: Callable[[], int]) -> None:
    classes = 10**6
    safetensors.torch.save_file({"1.weight": torch.zeros(classes, 1), "1.bias": torch.ones(classes)}, tmp_path / "m")
    spec = own(tmp_path, f"nn.Sequential(nn.Flatten(), nn.Linear(1, {classes}))")
    with pytest.raises(ModelError, match=f"1,000,000 classes: at most {MAX_CLASSES:,}"):
        load_model(tmp_path / "m", architecture=spec, allow_code=True, input_shape=(1, 1, 1))
    assert peak() < GIGABYTE


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_buffers_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    network[2].running_mean[1] = value  # type: ignore[index, operator, union-attr]
    torch.save(network.state_dict(), tmp_path / "m")
    spec = own(tmp_path, "nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))")
    with pytest.raises(ModelError, match=r"NaN or Inf, in 2\.running_mean"):
        load_model(tmp_path / "m", architecture=spec, allow_code=True, input_shape=(1, 2, 2))


def header_and(data: bytes, header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_a_million_tensors_over_the_same_bytes(tmp_path: Path, peak: Callable[[], int]) -> None:
    header = {f"t{n}": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for n in range(100_000)}
    (tmp_path / "m").write_bytes(header_and(bytes(16), header))
    with pytest.raises(ModelError, match="damaged"):
        load_model(tmp_path / "m", architecture="mnist_cnn")
    assert peak() < GIGABYTE


def test_names_of_tensors_do_not_flood_the_message(tmp_path: Path) -> None:
    torch.save({"x" * 10**6: torch.zeros(2), "weight": torch.zeros(3)}, tmp_path / "m")
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path / "m", architecture="mnist_cnn")
    assert len(str(caught.value)) < 2000


# --- where the bytes come from ---


def test_pipes_devices_and_sockets_are_no_files(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(ModelError, match="no regular file"):
            load_model(path, architecture="mnist_cnn")


def test_a_file_larger_than_memory_is_not_read(tmp_path: Path, peak: Callable[[], int]) -> None:
    path = tmp_path / "m"
    with path.open("wb") as file:
        file.truncate(memory.physical_memory())  # a hole: it takes no disk
    with pytest.raises(ModelError, match="too large"):
        load_model(path, architecture="mnist_cnn")
    assert peak() < GIGABYTE // 4


def test_a_link_to_nothing_and_a_file_without_content(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty").touch()
    with pytest.raises(ModelError, match="no model file"):
        load_model(tmp_path / "link")
    with pytest.raises(ModelError, match="empty"):
        load_model(tmp_path / "empty")


# --- anything at all ---


def _seeds() -> dict[str, bytes]:
    weights = nn.Linear(3, 2).state_dict()
    zipped, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": weights, "epoch": 3}, zipped)
    torch.save({"state_dict": weights, "epoch": 3}, legacy, _use_new_zipfile_serialization=False)
    return {"zip": zipped.getvalue(), "legacy": legacy.getvalue(), "safetensors": safetensors.torch.save(weights)}


SEEDS = _seeds()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutated_checkpoints_raise_our_errors_only(data: st.DataObject) -> None:
    content = bytearray(SEEDS[data.draw(st.sampled_from(sorted(SEEDS)))])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with pytest.raises(NeuralCleanseError):  # nn.Linear never fits mnist_cnn
        open_file(bytes(content), Path("m"), "mnist_cnn")


def test_what_we_write_ourselves_is_read(tmp_path: Path) -> None:
    """The guards stop nothing honest."""
    from neural_cleanse.loading.architectures import mnist_cnn

    write_checkpoint(tmp_path / "m", mnist_cnn(10), Description("mnist_cnn", (1, 28, 28), 10))
    assert load_model(tmp_path / "m").classifier.num_classes == 10
    assert issubclass(CodeExecutionRefused, ModelError)
