"""Programs: refused unless allowed, then converted by a child that is trusted with nothing."""

import io
import os
import pickle
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import CodeExecutionRefused, ModelError
from neural_cleanse.loading.network import Network
from neural_cleanse.loading.program import reader as program
from neural_cleanse.outputs import OutputKind
from neural_cleanse.probe import probe

SHAPE = (3, 8, 8)
OWN_CLASS = """
from torch import nn

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, images):
        features = self.conv(images).relu().mean((2, 3))
        return self.fc(features.view(images.shape[0], -1)).softmax(1)
"""


def read(content: bytes, kind: str, **options: Any) -> Network:
    return program.read(
        content, "model.pt", kind, **{"allow_code": True, "no_sandbox": True, "input_shape": SHAPE, **options}
    )


def saved(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def script(network: nn.Module) -> bytes:
    return _torchscript(torch.jit.script, network)


def trace(network: nn.Module) -> bytes:
    return _torchscript(lambda module: torch.jit.trace(module, torch.rand(1, *SHAPE)), network)


def _torchscript(compile: Callable[[nn.Module], Any], network: nn.Module) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and what people still hand out
        torch.jit.save(compile(network), stream)
    return stream.getvalue()


class Payload:
    """Unpickling it makes the directory `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)]
        return nn.Sequential(*layers).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", program.KINDS)
def test_a_program_is_refused_without_leave(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(CodeExecutionRefused, match=r"Nothing of it was run\..*--allow-code"):
        read(saved(Payload(marker)), kind, allow_code=False)
    assert not marker.exists()


def test_the_shape_of_the_images_must_be_said() -> None:
    with pytest.raises(ModelError, match="input_shape"):
        read(b"", "torchscript", input_shape=None)


@pytest.mark.parametrize("compiled", [script, trace])
def test_torchscript_becomes_an_exact_graph(
    network: nn.Sequential, images: Tensor, compiled: Callable[[nn.Module], bytes]
) -> None:
    found = read(compiled(network), "torchscript")
    assert torch.allclose(found.module(images), network(images), atol=1e-6)
    assert [type(layer) for layer in found.module.layers.children()] == [  # type: ignore[union-attr]
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.Linear,
    ]
    assert probe(found.module, images, Normalize()) == (5, OutputKind.LOGITS)
    assert found.container == "TorchScript archive"
    assert found.trust.startswith("program, run ")
    assert found.findings[0].runs_code


def test_a_module_of_a_class_of_ones_own(tmp_path: Path, images: Tensor) -> None:
    source = tmp_path / "own.py"
    source.write_text(OWN_CLASS)
    namespace: dict[str, Any] = {"__name__": "__main__"}  # as a training script pickles it
    exec(OWN_CLASS, namespace)
    own = namespace["Own"]().eval()
    main = __import__("__main__")
    main.Own = namespace["Own"]
    try:
        content = saved({"epoch": 3, "model": own})
    finally:
        del main.Own
    found = read(content, "pickle", code=source)
    assert torch.allclose(found.module(images).softmax(1), own(images), atol=1e-6)
    assert found.container == "pickled module"


def test_without_bubblewrap_it_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: nn.Sequential, images: Tensor
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = read(pickle.dumps(network), "pickle")  # a bare pickle, without torch.save
    assert torch.allclose(found.module(images), network(images), atol=1e-6)
    assert found.trust == "program, run without a sandbox"
    assert any("no sandbox" in note for note in found.assumed)


@pytest.mark.parametrize("installed", [False, True], ids=["missing", "not allowed"])
def test_without_bubblewrap_nothing_is_run_unless_that_is_asked_for_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    tools, marker = tmp_path / "tools", tmp_path / "marker"
    tools.mkdir()
    if installed:
        (tools / "bwrap").write_text("#!/bin/sh\nexit 1\n")
        (tools / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(CodeExecutionRefused, match="Nothing was run") as caught:
        read(saved(Payload(marker)), "pickle", no_sandbox=False)
    assert ("not allowed" if installed else "not installed") in caught.value.message
    assert caught.value.cure is not None and "--no-sandbox" in caught.value.cure
    assert not marker.exists()


def test_a_hostile_pickle_reaches_nothing_outside_the_sandbox(tmp_path: Path) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap (bwrap) is not installed")
    marker = tmp_path / "marker"
    with pytest.raises(ModelError, match="could not be converted"):
        read(saved(Payload(marker)), "pickle")
    assert not marker.exists()
    assert not list(tmp_path.iterdir())


class Asleep:
    """Unpickling it takes an hour."""

    def __reduce__(self) -> tuple[Any, ...]:
        return time.sleep, (3600,)


def test_a_program_that_hangs_is_ended() -> None:
    begun = time.monotonic()
    with pytest.raises(ModelError, match="in time"):
        read(saved(Asleep()), "pickle", seconds=2.0)
    assert time.monotonic() - begun < 60


def test_what_comes_back_is_read_like_a_strangers_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A child that was taken over hands back anything: another pickle, too much, nothing."""
    takeover = tmp_path / "takeover.py"
    monkeypatch.setattr(program.convert_in_child, "__file__", str(takeover))
    marker = tmp_path / "marker"
    for written, message in ((saved(Payload(marker)), "not one of torch.export"), (b"", "could not be converted")):
        takeover.write_text(f"import sys; open(sys.argv[3], 'wb').write({written!r})")
        with pytest.raises(ModelError, match=message):
            read(b"x", "pickle")
    monkeypatch.setattr(program, "ALWAYS_ALLOWED", 1000)
    takeover.write_text("import sys; open(sys.argv[3], 'wb').write(bytes(10**6))")
    with pytest.raises(ModelError, match="could not be converted"):
        read(b"x", "pickle")
    assert not marker.exists()


def test_keras_with_a_lambda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Tensor) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")
        doubled = keras.layers.Lambda(lambda values: values * 2.0)
        layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), doubled, keras.layers.GlobalAveragePooling2D()]
        model = keras.Sequential([*layers, keras.layers.Dense(5, activation="softmax")])
        model.save(tmp_path / "model.keras")
        expected = model(images.permute(0, 2, 3, 1), training=False)
    found = read((tmp_path / "model.keras").read_bytes(), "keras", input_shape=None)
    assert found.input_shape == SHAPE
    assert torch.allclose(found.module(images).softmax(1), expected.detach().cpu(), atol=1e-6)
    assert found.container == "Keras file with code"
