"""The table of docs/formats.md: every cell is what this version does with a small model in that container."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from neural_cleanse.errors import CodeExecutionRefused, OutputError
from neural_cleanse.loading.inspection import layers_of
from neural_cleanse.loading.load import load_model
from neural_cleanse.loading.save import refuse_suffix, save_like

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
SHAPE = (3, 8, 8)
TRUST = {"tensors": "tensors only", "graph": "graph of known operators", "program": "program"}
# What loading needs besides the file, where it needs anything.
OWN = "import torch\nfrom torch import nn\ndef make():\n    return nn.Sequential({})\n"
LAYERS = "nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    container: str
    trust: str
    load: str
    gradient: str
    features: str
    prune: str
    save_back: str
    extra: str


def rows() -> list[Row]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    start = next(number for number, line in enumerate(lines) if line.startswith("| container | trust | load"))
    found = []
    for line in lines[start + 1 :]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 8:
            break
        found.append(Row(*cells))
    return found


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


def own_file(directory: Path) -> dict[str, Any]:
    path = directory / "own.py"
    path.write_text(OWN.format(LAYERS))
    return {"architecture": f"{path}:make", "allow_code": True, "input_shape": SHAPE}


def as_safetensors(directory: Path) -> tuple[Path, dict[str, Any]]:
    safetensors.torch.save_file(network().state_dict(), directory / "m")
    return directory / "m", own_file(directory)


def as_state_dict(directory: Path) -> tuple[Path, dict[str, Any]]:
    torch.save({"state_dict": network().state_dict()}, directory / "m")
    return directory / "m", own_file(directory)


def as_numpy_archive(directory: Path) -> tuple[Path, dict[str, Any]]:
    np.savez(directory / "m.npz", **{key: tensor.numpy() for key, tensor in network().state_dict().items()})
    return directory / "m.npz", own_file(directory)


def as_hugging_face(directory: Path) -> tuple[Path, dict[str, Any]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=5)
    transformers.AutoModelForImageClassification.from_config(config).eval().save_pretrained(directory / "m")
    return directory / "m", {"input_shape": SHAPE}


def as_onnx(directory: Path) -> tuple[Path, dict[str, Any]]:
    pytest.importorskip("onnx")
    torch.onnx.export(network(), (torch.zeros(1, *SHAPE),), str(directory / "m"), dynamo=False)
    return directory / "m", {}


def as_exported(directory: Path) -> tuple[Path, dict[str, Any]]:
    with (directory / "m").open("wb") as file:
        torch.export.save(torch.export.export(network(), (torch.zeros(2, *SHAPE),)), file)
    return directory / "m", {}


def keras_network(directory: Path, *, code: bool = False) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(directory))
        keras = pytest.importorskip("keras")
    pytest.importorskip("h5py")
    layers = keras.layers
    own = [layers.Lambda(lambda x: x * 2)] if code else []
    return keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu"), *own, layers.Flatten(), layers.Dense(5)]
    )


def as_keras(name: str, *, code: bool = False, weights: bool = False) -> Callable[[Path], tuple[Path, dict[str, Any]]]:
    def make(directory: Path) -> tuple[Path, dict[str, Any]]:
        keras_model = keras_network(directory, code=code)
        if weights:
            keras_model.save_weights(directory / name)
            return directory / name, own_file(directory)
        keras_model.save(directory / name)
        return directory / name, {"allow_code": True, "no_sandbox": True} if code else {}

    return make


def as_torchscript(directory: Path) -> tuple[Path, dict[str, Any]]:
    torch.jit.save(torch.jit.script(network()), directory / "m")
    return directory / "m", {"allow_code": True, "no_sandbox": True, "input_shape": SHAPE}


def as_pickled_module(directory: Path) -> tuple[Path, dict[str, Any]]:
    torch.save(network(), directory / "m")
    return directory / "m", {"allow_code": True, "no_sandbox": True, "input_shape": SHAPE}


WRITERS: dict[str, Callable[[Path], tuple[Path, dict[str, Any]]]] = {
    "safetensors": as_safetensors,
    "PyTorch state_dict (zip or legacy pickle)": as_state_dict,
    "NumPy `.npz` of named arrays": as_numpy_archive,
    "Hugging Face directory with safetensors": as_hugging_face,
    "ONNX": as_onnx,
    "torch.export `.pt2`": as_exported,
    "Keras `.h5`, `.hdf5`": as_keras("m.h5"),
    "Keras `.keras`": as_keras("m.keras"),
    "Keras weights alone": as_keras("m.weights.h5", weights=True),
    "TorchScript": as_torchscript,
    "pickled module": as_pickled_module,
    "Keras with Lambda or custom classes": as_keras("m.keras", code=True),
}


def test_the_table_has_every_container() -> None:
    assert [row.container for row in rows()] == list(WRITERS)


def test_the_extras_are_those_of_the_package() -> None:
    text = (PAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    for row in rows():
        for extra in re.findall(r"`\[(\w+)\]`", row.extra):
            assert re.search(rf"^{extra} = \[", text, re.MULTILINE), extra


@pytest.mark.filterwarnings("ignore")  # the writers' own
@pytest.mark.parametrize("row", rows(), ids=lambda row: row.container)
def test_a_row_is_what_happens(tmp_path: Path, row: Row) -> None:
    path, options = WRITERS[row.container](tmp_path)
    if row.load == "`--allow-code`":
        with pytest.raises(CodeExecutionRefused):
            load_model(path, **(options | {"allow_code": False}))
    loaded = load_model(path, **options)
    module, images = loaded.classifier.module, torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    assert loaded.origin.trust.startswith(TRUST[row.trust])

    images.requires_grad_()
    (gradient,) = torch.autograd.grad(loaded.classifier(images)[:, 0].sum(), images)
    assert row.gradient == "yes" and gradient.abs().sum() > 0

    layers = layers_of(module)
    last = [layer for layer in layers if layer.kind == "linear"][-1]
    seen: dict[str, Tensor] = {}
    module.get_submodule(last.name).register_forward_pre_hook(lambda _, given: seen.update(features=given[0]))
    convolution = module.get_submodule(next(layer for layer in layers if layer.kind == "convolution").name)
    convolution.register_forward_hook(lambda _, given, made: seen.update(maps=made))
    before = loaded.classifier(images)
    assert row.features == "yes" and seen["features"].shape == (3, last.inputs)

    channel = int(seen["maps"].relu().sum((0, 2, 3)).argmax())  # not one that is dead anyway
    with torch.no_grad():
        for tensor in (convolution.weight, convolution.bias):
            if isinstance(tensor, Tensor):
                tensor[channel] = 0
    pruned = loaded.classifier(images)
    assert row.prune == "yes" and not seen["maps"][:, channel].any() and not torch.allclose(pruned, before)

    output = tmp_path / "saved"
    if row.save_back == "no":
        with pytest.raises(OutputError):
            save_like(loaded.origin, module.state_dict(), output)
        return
    assert row.save_back == "yes"
    wrong = "r.safetensors" if row.container == "ONNX" else "r.onnx"
    with pytest.raises(OutputError, match="written back"):
        refuse_suffix(loaded.origin, tmp_path / wrong)
    refuse_suffix(loaded.origin, tmp_path / f"r{path.suffix}")
    digest = save_like(loaded.origin, module.state_dict(), output)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load_model(output, **options)
    assert again.origin.sha256 == digest
    assert (again.origin.container, again.origin.trust) == (loaded.origin.container, loaded.origin.trust)
    assert torch.allclose(again.classifier(images), pruned, atol=1e-5)
