"""torchvision's and timm's architectures, told by the names and shapes of their tensors."""

from pathlib import Path

import pytest
import torch
from torch import nn

from neural_cleanse.errors import CheckpointMismatch, UnusableOutputs
from neural_cleanse.loading.common.alexnet import AlexNet
from neural_cleanse.loading.common.densenet import DenseNet
from neural_cleanse.loading.common.googlenet import GoogLeNet
from neural_cleanse.loading.common.mobilenet import MobileNetV2
from neural_cleanse.loading.common.recognise import recognise
from neural_cleanse.loading.common.resnet import ResNet
from neural_cleanse.loading.common.shufflenet import WIDTHS as SHUFFLENETS
from neural_cleanse.loading.common.shufflenet import ShuffleNetV2
from neural_cleanse.loading.common.squeezed import MOBILE, efficientnet_b0, mobilenet_v3
from neural_cleanse.loading.common.squeezenet import PLANS as SQUEEZENETS
from neural_cleanse.loading.common.squeezenet import SqueezeNet
from neural_cleanse.loading.common.vgg import VGG
from neural_cleanse.loading.common.vit import TIMM, TORCHVISION, Naming, ViT
from neural_cleanse.loading.load import load_model

# Parameters at 1000 classes as torchvision's documentation gives them.
COUNTS = {
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "vgg11": 132_863_336,
    "vgg16_bn": 138_365_992, "mobilenet_v2": 3_504_872, "mobilenet_v3_large": 5_483_032,
    "mobilenet_v3_small": 2_542_856, "efficientnet_b0": 5_288_548, "densenet121": 7_978_856, "vit_b_16": 86_567_656,
    "alexnet": 61_100_840, "squeezenet1_0": 1_248_424, "squeezenet1_1": 1_235_496, "googlenet": 6_624_904,
    "shufflenet_v2_x0_5": 1_366_792, "shufflenet_v2_x1_0": 2_278_604, "shufflenet_v2_x1_5": 3_503_624,
    "shufflenet_v2_x2_0": 7_393_996,
}  # fmt: skip


def made(name: str, classes: int) -> nn.Module:
    if name.startswith("resnet"):
        return ResNet(name, classes)
    if name.startswith("vgg"):
        return VGG(name.removesuffix("_bn"), classes, batch_norm=name.endswith("_bn"))
    if name in MOBILE:
        return mobilenet_v3(name, classes)
    if name == "efficientnet_b0":
        return efficientnet_b0(classes)
    if name == "densenet121":
        return DenseNet(classes)
    if name == "alexnet":
        return AlexNet(classes)
    if name.startswith("squeezenet"):
        return SqueezeNet(name, classes)
    if name.startswith("shufflenet"):
        return ShuffleNetV2(name, classes)
    if name == "googlenet":
        return GoogLeNet(classes)
    if name == "vit_b_16":
        return ViT(768, 16, classes, 224)
    return MobileNetV2(classes)


@pytest.mark.parametrize("name", COUNTS)
def test_the_networks_have_as_many_parameters_as_torchvision_documents(name: str) -> None:
    with torch.device("meta"):
        network = made(name, 1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == COUNTS[name]


CONVOLUTIONAL = [name for name in COUNTS if not name.startswith(("vgg", "vit", "resnet34", "alexnet"))]


@pytest.mark.parametrize(
    ("name", "prefix"), [("resnet18", ""), ("resnet18", "backbone."), *((name, "module.") for name in CONVOLUTIONAL)]
)
def test_a_state_dict_is_recognised_by_its_names(tmp_path: Path, name: str, prefix: str) -> None:
    torch.manual_seed(0)
    network = made(name, 6).eval()
    if name in SQUEEZENETS:  # untrained its answers are as small as those of a sigmoid
        nn.init.normal_(network.get_submodule("classifier.1").weight, std=5)
    torch.save({prefix + key: tensor for key, tensor in network.state_dict().items()}, tmp_path / "m")
    pictures = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    for architecture in (None, name):
        loaded = load_model(tmp_path / "m", architecture=architecture, input_shape=(3, 40, 40))
        assert torch.allclose(loaded.classifier(pictures), network(pictures), atol=1e-4)
        assert name in loaded.origin.architecture
        assert any(name in note for note in loaded.origin.assumed) is (architecture is None), "what is said is no guess"


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
        without = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}  # heads for training
        with torch.device("meta"):
            theirs, ours = getattr(models, name)(**without).state_dict(), made(name, 1000).state_dict()
        assert {key: tensor.shape for key, tensor in theirs.items()} == {k: t.shape for k, t in ours.items()}


@pytest.mark.parametrize("name", [*SQUEEZENETS, *SHUFFLENETS, "googlenet", "alexnet"])
def test_the_networks_answer_as_torchvisions_do(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    theirs = getattr(models, name)(num_classes=5, **({"init_weights": False} if name == "googlenet" else {})).eval()
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    found = recognise(theirs.state_dict())
    assert found is not None and found.name == name
    missing, more = found.module.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing and all(key.startswith("aux") for key in more)
    pictures = torch.rand(2, 3, 96, 80)
    assert torch.equal(found.module.eval()(pictures), theirs(pictures))


def timm_names(name: str) -> str:
    """torchvision's name of a transformer's tensor as timm has it."""
    name = name.replace("encoder.layers.encoder_layer_", "blocks.").replace("encoder.ln.", "norm.")
    for theirs, ours in (
        ("class_token", "cls_token"), ("encoder.pos_embedding", "pos_embed"), ("conv_proj.", "patch_embed.proj."),
        ("heads.head.", "head."), (".ln_1.", ".norm1."), (".ln_2.", ".norm2."), (".mlp.0.", ".mlp.fc1."),
        (".self_attention.in_proj_", ".attn.qkv."), (".self_attention.out_proj.", ".attn.proj."),
        (".mlp.3.", ".mlp.fc2."),
    ):  # fmt: skip
        name = name.replace(theirs, ours)
    return name


def transformer() -> ViT:
    """A tiny one for 32x32 images, with nothing left at zero."""
    torch.manual_seed(0)
    network = ViT(192, 16, 5, 32).eval().requires_grad_(False)
    for parameter in network.parameters():
        if parameter.abs().max() == 0:
            parameter.copy_(0.1 * torch.randn(parameter.shape))
    return network


@pytest.mark.parametrize("naming", [TORCHVISION, TIMM], ids=["torchvision", "timm"])
def test_a_transformer_is_recognised_by_the_names_of_either_library(tmp_path: Path, naming: Naming) -> None:
    network = transformer()
    rename = timm_names if naming is TIMM else str
    torch.save({"model": {rename(key): tensor for key, tensor in network.state_dict().items()}}, tmp_path / "m")
    loaded = load_model(tmp_path / "m", input_shape=(3, 32, 32))
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(loaded.classifier(pictures), network(pictures), atol=1e-5)
    assert loaded.origin.architecture.startswith("vit_ti_16")
    with pytest.raises(UnusableOutputs, match="takes images of 32x32"):
        load_model(tmp_path / "m", input_shape=(3, 48, 48))


def test_a_transformer_computes_what_torchs_own_layers_do() -> None:
    """The encoder layer of torch has the same formula, pre-norm, under other names."""
    network = transformer()
    state = network.state_dict()
    values = torch.rand(2, 5, 192)
    theirs = nn.TransformerEncoderLayer(192, 3, 768, 0.0, nn.functional.gelu, 1e-6, batch_first=True, norm_first=True)
    block = "encoder.layers.encoder_layer_0."
    parts = {
        "self_attn.in_proj_": "self_attention.in_proj_", "self_attn.out_proj.": "self_attention.out_proj.",
        "linear1.": "mlp.0.", "linear2.": "mlp.3.", "norm1.": "ln_1.", "norm2.": "ln_2.",
    }  # fmt: skip
    names = {name + kind: ours + kind for name, ours in parts.items() for kind in ("weight", "bias")}
    theirs.load_state_dict({name: state[block + ours] for name, ours in names.items()})
    network.depth = 1
    images = torch.rand(2, 3, 32, 32)
    patches = nn.functional.conv2d(images, state["conv_proj.weight"], state["conv_proj.bias"], 16).flatten(2).mT
    values = torch.cat([state["class_token"].expand(2, -1, -1), patches], 1) + state["encoder.pos_embedding"]
    after = nn.functional.layer_norm(
        theirs.train()(values), (192,), state["encoder.ln.weight"], state["encoder.ln.bias"], 1e-6
    )
    expected = nn.functional.linear(after[:, 0], state["heads.head.weight"], state["heads.head.bias"])
    assert torch.allclose(network(images), expected, atol=1e-5)


@pytest.mark.parametrize("extra", ["blocks.0.ls1.gamma", "reg_token", "dist_token"])
def test_a_variant_of_a_transformer_that_computes_something_else_is_not_taken_for_it(extra: str) -> None:
    state = {timm_names(key): tensor for key, tensor in transformer().state_dict().items()}
    assert recognise(state) is not None
    assert recognise({**state, extra: torch.zeros(192)}) is None


def test_an_efficientnet_with_more_blocks_is_not_taken_for_the_smallest() -> None:
    state = efficientnet_b0(4).state_dict()
    assert recognise(state) is not None
    again = {key.replace("features.2.1.", "features.2.2."): one for key, one in state.items() if "features.2.1." in key}
    assert recognise({**state, **again}) is None
