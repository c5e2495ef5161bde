"""The networks by name: their sizes layer by layer, what they answer, and that a file of weights finds its place."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from neural_cleanse.choices import ARCHITECTURE_NAMES
from neural_cleanse.errors import SettingsError
from neural_cleanse.loading.architecture import build as build_for
from neural_cleanse.loading.architectures import (
    ARCHITECTURES,
    architecture,
    cifar_cnn,
    deepid,
    gtsrb_cnn,
    mnist_cnn,
    resnet18,
    vgg16,
)

# name: function, classes of its data set, parameters there
SIZES: dict[str, tuple[Callable[..., nn.Sequential], int, int]] = {
    "cifar_cnn": (cifar_cnn, 10, 307_946),
    "deepid": (deepid, 1283, 601_643),
    "gtsrb_cnn": (gtsrb_cnn, 43, 571_723),
    "gtsrb_cnn_half": (gtsrb_cnn, 43, 148_923),
    "mnist_cnn": (mnist_cnn, 10, 281_034),
    "mnist_cnn_double": (mnist_cnn, 10, 1_111_946),
    "mnist_cnn_half": (mnist_cnn, 10, 71_786),
    "resnet18": (resnet18, 10, 11_173_962),
    "vgg16": (vgg16, 65, 134_526_849),
}
OTHER = 7  # classes that no data set here has
NAMES = pytest.mark.parametrize("name", SIZES)


def on_meta(name: str, num_classes: int) -> nn.Sequential:
    """The network without memory for its weights."""
    with torch.device("meta"):
        network = ARCHITECTURES[name].build(num_classes)
    assert isinstance(network, nn.Sequential)
    return network


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.fixture(scope="module", params=SIZES)
def name(request: pytest.FixtureRequest) -> str:
    """Every name in turn; with `network`, one build serves all tests of a name."""
    return str(request.param)


@pytest.fixture(scope="module")
def network(name: str) -> Iterator[nn.Sequential]:
    """For OTHER classes, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = ARCHITECTURES[name].build(OTHER).eval().requires_grad_(False)
    assert isinstance(built, nn.Sequential)
    yield built


def images(name: str, n: int) -> Tensor:
    return torch.rand(n, *ARCHITECTURES[name].input_shape, generator=torch.Generator().manual_seed(1))


def spread(answers: Tensor) -> float:
    """What differences between logits are measured against."""
    return float(answers.std())


# --- sizes ---


def test_the_names_are_sorted_those_of_the_help_and_each_has_its_count_here() -> None:
    assert list(ARCHITECTURES) == list(ARCHITECTURE_NAMES) == sorted(SIZES)


@NAMES
def test_the_parameter_count_is_exact_and_in_the_docstring(name: str) -> None:
    function, classes, parameters = SIZES[name]
    assert count(on_meta(name, classes)) == parameters
    build = ARCHITECTURES[name].build
    assert (build.func if isinstance(build, partial) else build) is function
    text = " ".join((function.__doc__ or "").split())
    assert f"{parameters:,} parameters" in text
    assert f" at {classes} classes, {'x'.join(map(str, ARCHITECTURES[name].input_shape))} input." in text
    assert name == function.__name__ or f"`{name}`" in text
    assert inspect.signature(function).parameters["num_classes"].default == classes


def conv(channels_in: int, channels: int, kernel: int) -> int:
    return channels * (channels_in * kernel**2 + 1)


def linear(features_in: int, features: int) -> int:
    return features * (features_in + 1)


def conv_norm(channels_in: int, channels: int, kernel: int = 3) -> int:
    """Batch norm's shift stands for the bias; its scale is one more a channel."""
    return channels * (channels_in * kernel**2 + 2)


def test_the_counts_by_hand() -> None:
    by_hand = {
        "mnist_cnn": [conv(1, 16, 5), conv(16, 32, 5), linear(32 * 4 * 4, 512), linear(512, 10)],
        "mnist_cnn_half": [conv(1, 8, 5), conv(8, 16, 5), linear(16 * 4 * 4, 256), linear(256, 10)],
        "mnist_cnn_double": [conv(1, 32, 5), conv(32, 64, 5), linear(64 * 4 * 4, 1024), linear(1024, 10)],
        "gtsrb_cnn": [
            *(conv(3, 32, 3), conv(32, 32, 3), conv(32, 64, 3), conv(64, 64, 3), conv(64, 128, 3), conv(128, 128, 3)),
            *(linear(128 * 2 * 2, 512), linear(512, 43)),
        ],
        "gtsrb_cnn_half": [
            *(conv(3, 16, 3), conv(16, 16, 3), conv(16, 32, 3), conv(32, 32, 3), conv(32, 64, 3), conv(64, 64, 3)),
            *(linear(64 * 2 * 2, 256), linear(256, 43)),
        ],
        "cifar_cnn": [
            *(conv_norm(3, 32), conv_norm(32, 32), conv_norm(32, 64), conv_norm(64, 64)),
            *(conv_norm(64, 128), conv_norm(128, 128), linear(128 * 4 * 4, 10)),
        ],
        "deepid": [
            *(conv(3, 20, 4), conv(20, 40, 3), conv(40, 60, 3), conv(60, 80, 2)),
            *(linear(60 * 5 * 4, 160), linear(80 * 4 * 3, 160), linear(160, 1283)),
        ],
        "resnet18": [
            *(conv_norm(3, 64), 4 * conv_norm(64, 64)),
            *(conv_norm(64, 128), 3 * conv_norm(128, 128), conv_norm(64, 128, 1)),
            *(conv_norm(128, 256), 3 * conv_norm(256, 256), conv_norm(128, 256, 1)),
            *(conv_norm(256, 512), 3 * conv_norm(512, 512), conv_norm(256, 512, 1), linear(512, 10)),
        ],
        "vgg16": [
            *(conv(3, 64, 3), conv(64, 64, 3), conv(64, 128, 3), conv(128, 128, 3)),
            *(conv(128, 256, 3), 2 * conv(256, 256, 3), conv(256, 512, 3), 5 * conv(512, 512, 3)),
            *(linear(512 * 7 * 7, 4096), linear(4096, 4096), linear(4096, 65)),
        ],
    }
    assert {name: sum(layers) for name, layers in by_hand.items()} == {name: size[2] for name, size in SIZES.items()}


@NAMES
def test_the_last_layer_alone_depends_on_the_classes(name: str) -> None:
    few, many = on_meta(name, OTHER), on_meta(name, SIZES[name][1])
    last = many[-1]
    assert isinstance(last, nn.Linear) and last.out_features == SIZES[name][1]
    assert list(many.modules())[-1] is last
    assert count(many[:-1]) == count(few[:-1])
    assert count(last) == linear(last.in_features, SIZES[name][1])


def test_files_written_so_far_still_fit() -> None:
    """The names of the tensors are the file format: they never change."""
    layers = {"mnist_cnn": (0, 3, 7, 9), "gtsrb_cnn": (0, 2, 6, 8, 12, 14, 19, 22)}
    for name, numbers in layers.items():
        keys = [f"{number}.{kind}" for number in numbers for kind in ("weight", "bias")]
        for variant in ("", "_half"):
            assert list(on_meta(name + variant, OTHER).state_dict()) == keys


def test_a_width_scales_every_inner_layer() -> None:
    for function in (mnist_cnn, gtsrb_cnn):
        shapes = [tuple(tensor.shape) for tensor in function(OTHER).state_dict().values()]
        assert [tuple(tensor.shape) for tensor in function(OTHER, width=1.0).state_dict().values()] == shapes
        scaled = [tuple(tensor.shape) for tensor in function(OTHER, width=0.25).state_dict().values()]
        assert all(4 * thin[0] == full[0] for thin, full in zip(scaled[:-2], shapes[:-2], strict=True))
        assert scaled[-1] == shapes[-1] == (OTHER,)


@pytest.mark.parametrize("width", [0, -1, 0.01, float("nan")])
def test_a_width_that_leaves_no_channels_is_refused(width: float) -> None:
    for function in (mnist_cnn, gtsrb_cnn):
        with pytest.raises(SettingsError, match="Width"):
            function(width=width)


# --- answers ---


def test_answers_are_one_row_an_image_and_do_not_depend_on_the_batch(name: str, network: nn.Sequential) -> None:
    with torch.no_grad():
        pair = network(images(name, 2))
        alone = network(images(name, 2)[:1])
    assert pair.shape == (2, OTHER) and alone.shape == (1, OTHER)
    assert pair.isfinite().all()
    assert torch.allclose(alone, pair[:1], atol=1e-4 * spread(pair))


def test_images_are_told_apart_before_any_training(name: str, network: nn.Sequential) -> None:
    """The signal does not fade on its way through the layers: a flat image and noise get other logits."""
    noise = images(name, 1)
    with torch.no_grad():
        rows = network(torch.cat([noise, torch.full_like(noise, 0.1)]))
    assert (rows[0] - rows[1]).abs().max() > 1e-2 * rows.abs().max()
    assert rows.abs().max() > 1e-2


def test_gradients_reach_the_input(name: str, network: nn.Sequential) -> None:
    pixels = images(name, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(network(pixels)[0, 0], pixels)
    assert gradient.isfinite().all()
    assert (gradient != 0).float().mean() > 0.5  # max-pooling passes some pixels by


def test_channels_last_answers_the_same(name: str, network: nn.Sequential) -> None:
    pixels = images(name, 1 if name == "vgg16" else 3)
    strided = pixels.to(memory_format=torch.channels_last)
    assert pixels.shape[1] == 1 or not strided.is_contiguous()
    with torch.no_grad():
        expected = network(pixels)
        answers = [network(strided)]
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        try:
            answers += [network(strided), network(pixels)]
        finally:
            network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for answer in answers:
        assert torch.allclose(answer, expected, atol=1e-4 * spread(expected))


@NAMES
def test_every_parameter_has_a_part_in_the_answer(name: str) -> None:
    network = on_meta(name, OTHER).train()
    network(torch.empty(2, *ARCHITECTURES[name].input_shape, device="meta")).sum().backward()
    assert [key for key, parameter in network.named_parameters() if parameter.grad is None] == []


def test_deepid_adds_two_scales_before_its_last_relu() -> None:
    network = deepid(OTHER).eval()
    pooled = network[:9](images("deepid", 2))
    assert pooled.shape == (2, 60, 5, 4)
    weights = network[9].state_dict()
    convolved = nn.functional.conv2d(pooled, weights["conv4.weight"], weights["conv4.bias"]).relu()
    assert convolved.shape == (2, 80, 4, 3)
    near = pooled.flatten(1) @ weights["fc1.weight"].T + weights["fc1.bias"]
    far = convolved.flatten(1) @ weights["fc2.weight"].T + weights["fc2.bias"]
    assert torch.allclose(network(images("deepid", 2)), network[-1]((near + far).relu()), atol=1e-5)


def test_resnet18_halves_the_image_three_times() -> None:
    network, pixels = on_meta("resnet18", OTHER), torch.empty(1, 3, 32, 32, device="meta")
    shapes = [tuple(network[:depth](pixels).shape[1:]) for depth in range(3, 12)]
    stages = [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    assert shapes == [stages[0], *(stage for stage in stages for _ in range(2))]


def test_a_residual_block_adds_its_input() -> None:
    """With the last scale of the residual at zero, a block that keeps the shape changes nothing but the sign."""
    block = resnet18(OTHER).eval()[3]
    nn.init.zeros_(block.residual[-1].weight)
    signed = torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(signed), signed.relu())


# --- names and files ---


@NAMES
def test_a_file_of_weights_tells_the_number_of_classes(name: str) -> None:
    """Tensors in the order of their names, as safetensors holds them: the last layer must be found among them."""
    weights = on_meta(name, OTHER).to_empty(device="cpu").state_dict()
    blueprint = build_for(name, dict(sorted(weights.items())), None, allow_code=False)
    assert {key: tensor.shape for key, tensor in blueprint.module.state_dict().items()} == {
        key: tensor.shape for key, tensor in weights.items()
    }
    assert blueprint.input_shape == ARCHITECTURES[name].input_shape


def test_an_unknown_name_is_answered_with_the_names() -> None:
    assert architecture("deepid") is ARCHITECTURES["deepid"]
    with pytest.raises(SettingsError) as error:
        architecture("resnet")
    assert "'resnet'" in str(error.value)
    assert all(name in str(error.value) for name in ARCHITECTURES)
    assert "FILE.py" not in str(error.value) and "densenet121" not in str(error.value), "none that cannot be trained"
    with pytest.raises(SettingsError) as error:
        build_for("resnet", {}, 10, allow_code=False)
    assert "densenet121" in error.value.message and "FILE.py:FUNCTION" in error.value.cure
