"""A changed network goes back into the container it came in."""

from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch

from neural_cleanse.errors import OutputError
from neural_cleanse.loading.architectures import mnist_cnn
from neural_cleanse.loading.checkpoint import Description, write_checkpoint
from neural_cleanse.loading.load import load_model
from neural_cleanse.loading.save import refuse_suffix, save_like


def changed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor + 0.5 for name, tensor in state.items()}


def test_safetensors_keep_their_description(tmp_path: Path) -> None:
    path, output = tmp_path / "m.safetensors", tmp_path / "out.safetensors"
    write_checkpoint(
        path, mnist_cnn(10).half(), Description("mnist_cnn", (1, 28, 28), 10, label_names=tuple("abcdefghij"))
    )
    loaded = load_model(path)
    state = changed(loaded.classifier.module.state_dict())
    digest = save_like(loaded.origin, state, output)
    again = load_model(output)
    assert again.origin.sha256 == digest
    assert again.origin.label_names == loaded.origin.label_names
    kept = safetensors.torch.load(output.read_bytes())
    assert {tensor.dtype for tensor in kept.values()} == {torch.float16}
    for name, tensor in again.classifier.module.state_dict().items():
        assert torch.equal(tensor, state[name].half().float())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_checkpoint_keeps_nesting_names_and_what_lies_beside(tmp_path: Path, prefix: str) -> None:
    path, output = tmp_path / "m.pth", tmp_path / "out.pth"
    weights = OrderedDict((prefix + name, tensor) for name, tensor in mnist_cnn(10).double().state_dict().items())
    torch.save({"net": weights, "epoch": 7, "acc": 0.5}, path)
    loaded = load_model(path, architecture="mnist_cnn")
    state = changed(loaded.classifier.module.state_dict())
    save_like(loaded.origin, state, output)
    saved = torch.load(output, weights_only=True)
    assert list(saved) == ["net", "epoch", "acc"] and saved["epoch"] == 7
    assert list(saved["net"]) == list(weights)
    for name, tensor in saved["net"].items():
        assert tensor.dtype == torch.float64
        assert torch.equal(tensor.float(), state[name.removeprefix(prefix)])


def test_the_original_is_never_overwritten(tmp_path: Path) -> None:
    path, link, hard_link = tmp_path / "m.pt", tmp_path / "link.pt", tmp_path / "hard.pt"
    torch.save(mnist_cnn(10).state_dict(), path)
    link.symlink_to(path)
    hard_link.hardlink_to(path)
    loaded, before = load_model(path, architecture="mnist_cnn"), path.read_bytes()
    for output in (path, link, hard_link):
        with pytest.raises(OutputError, match="never overwritten"):
            save_like(loaded.origin, loaded.classifier.module.state_dict(), output)
    assert path.read_bytes() == before


def test_a_name_that_ends_like_another_container_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.weights"
    write_checkpoint(path, mnist_cnn(10), Description("mnist_cnn", (1, 28, 28), 10))
    origin = load_model(path).origin
    for name in ("r.safetensors", "r.weights", "r", "r.v2"):
        refuse_suffix(origin, tmp_path / name)
    for name in ("r.onnx", "r.pt", "R.KERAS"):
        with pytest.raises(OutputError, match="would hold a safetensors file") as refused:
            refuse_suffix(origin, tmp_path / name)
        assert refused.value.cure == f"Name it {(tmp_path / name).with_suffix('.safetensors')}."


def test_a_file_that_changed_since_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(mnist_cnn(10).state_dict(), path)
    loaded = load_model(path, architecture="mnist_cnn")
    torch.save(mnist_cnn(10).state_dict(), path)
    with pytest.raises(OutputError, match="changed since"):
        save_like(loaded.origin, loaded.classifier.module.state_dict(), tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.filterwarnings("ignore")  # the exporter warns of itself
def test_weights_beside_an_onnx_file_are_part_of_its_hash(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    path, output = tmp_path / "m.onnx", tmp_path / "out.onnx"
    torch.onnx.export(mnist_cnn(10).eval(), (torch.zeros(1, 1, 28, 28),), str(path), dynamo=False)
    whole = onnx.load(path)
    onnx.save(whole, path, save_as_external_data=True, location="m.data")
    loaded = load_model(path)
    save_like(loaded.origin, loaded.classifier.module.state_dict(), output)
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(load_model(output).classifier(images), loaded.classifier(images), atol=1e-6)
    data = bytearray((tmp_path / "m.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "m.data").write_bytes(data)
    assert load_model(path).origin.sha256 != loaded.origin.sha256
    with pytest.raises(OutputError, match="changed since"):
        save_like(loaded.origin, loaded.classifier.module.state_dict(), tmp_path / "again.onnx")
