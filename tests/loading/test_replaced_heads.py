"""Usual networks with another last layer, or one beside a backbone, wider ResNets, and weights in bare pickles."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neural_cleanse.errors import CheckpointMismatch, CodeExecutionRefused
from neural_cleanse.loading.architectures import mnist_cnn
from neural_cleanse.loading.checkpoint import Checkpoint, read_state_dict
from neural_cleanse.loading.common.densenet import DenseNet
from neural_cleanse.loading.common.mobilenet import MobileNetV2
from neural_cleanse.loading.common.preact import PreActResNet
from neural_cleanse.loading.common.recognise import recognise
from neural_cleanse.loading.common.resnet import ResNet
from neural_cleanse.loading.load import load_model
from neural_cleanse.loading.network import Network
from neural_cleanse.loading.weights import assemble


@pytest.fixture(scope="module")
def resnet() -> ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ResNet("resnet18", 5, small=True).eval()


IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def read(tensors: dict[str, Tensor]) -> Network:
    return assemble(Checkpoint({"": tensors}, "PyTorch checkpoint"), "m.pth", None, allow_code=False)


def renamed(state: dict[str, Tensor], head: str, trunk: str = "") -> dict[str, Tensor]:
    return {
        head + key.removeprefix("fc") if key.startswith("fc.") else trunk + key: tensor for key, tensor in state.items()
    }


@pytest.mark.parametrize(
    ("head", "trunk"),
    [
        ("fc.1", ""), ("fc.0", ""), ("fc.drop.linear", ""), ("head", ""), ("classifier", ""), ("classifier.1", ""),
        ("head.fc", "backbone."), ("classifier", "encoder."), ("model.fc", "model.backbone."),
    ],
)  # fmt: skip
def test_a_resnet_with_another_last_layer_computes_the_same(resnet: ResNet, head: str, trunk: str) -> None:
    network = read(renamed(resnet.state_dict(), head, trunk))
    assert torch.allclose(network.module.eval()(IMAGES), resnet(IMAGES), atol=1e-6)
    assert any("last layer" in said for said in network.assumed)
    state = network.module.state_dict()
    assert all(key in state or key.removeprefix("model.") in state for key in renamed(resnet.state_dict(), head, trunk))


@pytest.mark.parametrize(("head", "trunk"), [("fc", ""), ("fc.1", ""), ("classifier", ""), ("head.fc", "backbone.")])
def test_a_last_layer_without_a_bias_is_read(resnet: ResNet, head: str, trunk: str) -> None:
    tensors = renamed(resnet.state_dict(), head, trunk)
    bias = tensors.pop(f"{head}.bias")
    network = read(tensors)
    assert torch.allclose(network.module.eval()(IMAGES) + bias, resnet(IMAGES), atol=1e-6)
    assert any("without a bias" in said for said in network.assumed)
    assert set(network.module.state_dict()) - set(tensors) == set()


@pytest.mark.parametrize("network", [MobileNetV2(4), DenseNet(4)], ids=["mobilenet", "densenet"])
def test_other_usual_networks_may_lack_that_bias_too(network: nn.Module) -> None:
    tensors = {key: tensor.clone() for key, tensor in network.eval().state_dict().items()}
    (bias,) = [key for key in tensors if key.startswith("classifier") and key.endswith("bias")]
    held = tensors.pop(bias)
    images = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(read(tensors).module.eval()(images) + held, network(images), atol=1e-5)


def test_normalisation_beside_a_backbone_is_used(resnet: ResNet) -> None:
    tensors = renamed(resnet.state_dict(), "head.fc", "backbone.")
    tensors |= {"data_preprocessor.mean": torch.tensor([120.0, 110.0, 100.0]).view(3, 1, 1)}
    tensors |= {"data_preprocessor.std": torch.tensor([60.0, 50.0, 40.0]).view(3, 1, 1)}
    normalize = read(tensors).normalize
    assert normalize is not None and normalize.mean == (120.0, 110.0, 100.0) and normalize.scale == 255


def test_the_normaliser_of_robustness_libraries_is_used(resnet: ResNet) -> None:
    tensors = {f"model.{key}": tensor for key, tensor in resnet.state_dict().items()}
    tensors |= {f"normalizer.new_{what}": torch.full((3, 1, 1), value) for what, value in (("mean", 0.5), ("std", 0.2))}
    normalize = read(tensors).normalize
    assert (
        normalize is not None and normalize.mean == pytest.approx((0.5,) * 3) and normalize.std[0] == pytest.approx(0.2)
    )


def test_a_head_of_two_layers_is_not_guessed(resnet: ResNet) -> None:
    tensors = {key: tensor for key, tensor in resnet.state_dict().items() if not key.startswith("fc.")}
    for number, layer in ((0, nn.Linear(512, 8)), (2, nn.Linear(8, 5))):
        tensors |= {f"fc.{number}.{key}": tensor for key, tensor in layer.state_dict().items()}
    with pytest.raises(CheckpointMismatch):
        read(tensors)


def test_a_block_that_resnets_do_not_have_is_not_left_out(resnet: ResNet) -> None:
    tensors = renamed(resnet.state_dict(), "fc.1") | {"attention.weight": torch.zeros(4)}
    with pytest.raises(CheckpointMismatch, match=r"unexpected: attention\.weight"):
        read(tensors)


# Parameters with 1000 classes, in torchvision's table of weights.
PARAMETERS = {
    "resnet101": 44_549_160, "resnet152": 60_192_808, "wide_resnet50_2": 68_883_240, "wide_resnet101_2": 126_886_696,
    "resnext50_32x4d": 25_028_904, "resnext101_32x8d": 88_791_336, "resnext101_64x4d": 83_455_272,
}  # fmt: skip


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_deeper_and_wider_resnets_have_as_many_parameters_as_torchvision_documents(name: str, count: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in ResNet(name, 1000).parameters()) == count


def test_a_preactivation_resnet_is_recognised_and_computes_as_its_parts_say() -> None:
    network = PreActResNet("preact_resnet18", 5).eval()
    read_again = read({f"module.{key}": tensor for key, tensor in network.state_dict().items()})
    assert read_again.architecture.startswith("preact_resnet18")
    assert torch.equal(read_again.module.eval()(IMAGES), network(IMAGES))
    block = network.get_submodule("layer2.0")
    values = torch.rand(1, 64, 4, 4)
    first = block.bn1(values).relu()
    inner = block.conv2(block.bn2(block.conv1(first)).relu())
    assert torch.allclose(block(values), inner + block.shortcut(first))
    with_norm = network.state_dict() | {"bn.weight": torch.ones(512)}
    with pytest.raises(CheckpointMismatch, match=r"unexpected: bn\.weight"):
        read(with_norm)
    assert recognise(ResNet("resnet18", 5, small=True, head="linear", shortcut="shortcut").state_dict()) is not None


# --- bare pickles ---


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", ["arrays", "tensors", "parameters", "nested"])
def test_weights_pickled_without_torch_are_read(tmp_path: Path, form: str, protocol: int) -> None:
    state = mnist_cnn(7).state_dict()
    held: Any = {
        "arrays": {key: tensor.numpy() for key, tensor in state.items()}, "tensors": dict(state),
        "parameters": {key: nn.Parameter(tensor) for key, tensor in state.items()},
        "nested": {"model": {key: tensor.numpy() for key, tensor in state.items()}, "__author__": "x", "epoch": 3},
    }[form]  # fmt: skip
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(held, protocol))
    read_again = load_model(tmp_path / "m.pkl", architecture="mnist_cnn").classifier.module.state_dict()
    assert all(torch.equal(read_again[key], tensor) for key, tensor in state.items())


class Payload:
    """Unpickling it makes a directory."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_bare_pickle_or_inside_a_tensor_of_it_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save(Payload(marker), tmp_path / "inner")

    class Storage:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch.storage._load_from_bytes, ((tmp_path / "inner").read_bytes(),)

    for held in ({"a.weight": Payload(marker)}, {"a.weight": Storage()}):
        with pytest.raises(CodeExecutionRefused):
            read_state_dict(pickle.dumps(held), "m.pkl")
        assert not marker.exists()
