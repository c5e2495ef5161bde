"""torchvision's and timm's architectures, told by the names and shapes of their tensors."""

from pathlib import Path

import pytest
import torch
from torch import nn

from neural_cleanse.errors import CheckpointMismatch
from neural_cleanse.loading.common.mobilenet import MobileNetV2
from neural_cleanse.loading.common.recognise import recognise
from neural_cleanse.loading.common.resnet import ResNet
from neural_cleanse.loading.common.vgg import VGG
from neural_cleanse.loading.load import load_model

# Parameters at 1000 classes as torchvision's documentation gives them.
COUNTS = {
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "vgg11": 132_863_336,
    "vgg16_bn": 138_365_992, "mobilenet_v2": 3_504_872,
}  # fmt: skip


def made(name: str, classes: int) -> nn.Module:
    if name.startswith("resnet"):
        return ResNet(name, classes)
    if name.startswith("vgg"):
        return VGG(name.removesuffix("_bn"), classes, batch_norm=name.endswith("_bn"))
    return MobileNetV2(classes)


@pytest.mark.parametrize("name", COUNTS)
def test_the_networks_have_as_many_parameters_as_torchvision_documents(name: str) -> None:
    with torch.device("meta"):
        network = made(name, 1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_a_state_dict_is_recognised_by_its_names(tmp_path: Path, name: str, prefix: str) -> None:
    torch.manual_seed(0)
    network = made(name, 6).eval()
    torch.save({prefix + key: tensor for key, tensor in network.state_dict().items()}, tmp_path / "m")
    pictures = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    for architecture in (None, name):
        loaded = load_model(tmp_path / "m", architecture=architecture, input_shape=(3, 40, 40))
        assert torch.allclose(loaded.classifier(pictures), network(pictures), atol=1e-4)
        assert name in loaded.origin.architecture
    assert any(name in note for note in loaded.origin.assumed)


def test_a_stem_for_small_images_and_names_of_cifar_repositories_are_known() -> None:
    network = ResNet("resnet18", 10, small=True, shortcut="shortcut", head="linear").eval()
    found = recognise(network.state_dict())
    assert found is not None and found.name == "resnet18" and found.assumed
    found.module.load_state_dict(network.state_dict())
    images = torch.rand(1, 3, 32, 32)
    assert torch.allclose(found.module.eval()(images), network(images), atol=1e-5)


def test_a_name_that_the_tensors_contradict_is_refused_with_what_they_are(tmp_path: Path) -> None:
    torch.save(ResNet("resnet34", 4).state_dict(), tmp_path / "m")
    with pytest.raises(CheckpointMismatch, match="resnet34"):
        load_model(tmp_path / "m", architecture="resnet18")


def test_a_network_with_one_layer_more_is_not_recognised() -> None:
    weights = ResNet("resnet18", 4).state_dict()
    assert recognise({**weights, "layer1.0.conv1.weight": torch.zeros(64, 64, 5, 5)}) is None
    assert recognise({key: tensor for key, tensor in weights.items() if key != "layer4.1.bn2.bias"}) is None


def test_the_names_and_shapes_are_those_of_torchvision_itself() -> None:
    models = pytest.importorskip("torchvision.models")
    for name in COUNTS:
        with torch.device("meta"):
            theirs, ours = getattr(models, name)().state_dict(), made(name, 1000).state_dict()
        assert {key: tensor.shape for key, tensor in theirs.items()} == {k: t.shape for k, t in ours.items()}
