"""Layers are found by running the network: what is called last counts, whatever it is named."""

import pytest
import torch
from networks import num_hooks
from token_network import Tokens
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import SettingsError, UnusableOutputs
from neural_cleanse.images import ImageSet
from neural_cleanse.layers import Layers, Tap, find_layers
from neural_cleanse.loading.architectures import ARCHITECTURES
from neural_cleanse.metrics import pixels
from neural_cleanse.outputs import OutputKind

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Backwards(nn.Module):
    """Registered in the opposite order of what it calls, with a head that it never calls."""

    def __init__(self, *, norm_last: bool = False) -> None:
        super().__init__()
        self.unused = nn.Linear(5, 7)
        self.head = nn.Linear(4, 3)
        self.hidden = nn.Linear(6, 4)
        self.norm = nn.BatchNorm2d(6)
        self.last = nn.Conv2d(5, 6, 3)
        self.first = nn.Conv2d(3, 5, 3)

    def forward(self, images: Tensor) -> Tensor:
        channels = self.norm(self.last(self.first(images).relu())).relu().mean((2, 3))
        answers: Tensor = self.head(self.hidden(channels).relu())
        return answers


class Residual(nn.Module):
    """Two branches, added: the one called last holds the last convolution."""

    def __init__(self, *, shortcut_last: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.shortcut = nn.Conv2d(3, 6, 1)
        self.head = nn.Linear(6, 3)
        self.shortcut_last = shortcut_last

    def forward(self, images: Tensor) -> Tensor:
        if self.shortcut_last:
            added = self.branch(images) + self.shortcut(images)
        else:
            added = self.shortcut(images) + self.branch(images)
        answers: Tensor = self.head(added.relu().mean((2, 3)))
        return answers


def convolutions(module: nn.Module, images: Tensor) -> list[tuple[str, str | None]]:
    return list(find_layers(module.eval(), images).convolutions)


def test_the_order_of_execution_counts_and_not_that_of_the_names() -> None:
    layers = find_layers(Backwards().eval(), IMAGES)
    assert layers.last_linear == "head" and layers.convolutions[-1] == ("last", "norm")
    assert layers.early == ("first",)


def test_of_a_residual_block_the_branch_called_last_comes_last() -> None:
    assert convolutions(Residual(shortcut_last=False), IMAGES) == [("shortcut", None), ("branch.0", "branch.1")]
    assert convolutions(Residual(shortcut_last=True), IMAGES) == [("branch.0", "branch.1"), ("shortcut", None)]


def test_a_convolution_called_twice_has_the_place_of_its_last_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.again, self.between, self.norm = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.head = nn.Linear(3, 3)

        def forward(self, images: Tensor) -> Tensor:
            answers: Tensor = self.head(self.norm(self.again(self.between(self.again(images)))).mean((2, 3)))
            return answers

    assert convolutions(Twice(), IMAGES) == [("between", None), ("again", "norm")]


EXPECTED = {
    "mnist_cnn": ("9", 2, ("3", None)),
    "gtsrb_cnn_half": ("22", 6, ("14", None)),
    "cifar_cnn": ("22", 6, ("17", "18")),
    "deepid": ("11", 4, ("9.conv4", None)),
    "resnet18": ("13", 20, ("10.residual.3", "10.residual.4")),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_layers_of_the_papers_networks(name: str) -> None:
    torch.manual_seed(0)
    known = ARCHITECTURES[name]
    module = known.build(10).eval()
    layers = find_layers(module, torch.zeros(1, *known.input_shape))
    last, count, end = EXPECTED[name]
    assert (layers.last_linear, len(layers.convolutions), layers.convolutions[-1]) == (last, count, end)
    assert layers.early == tuple(norm or name for name, norm in layers.convolutions[: count // 2])
    assert num_hooks(module) == 0


def test_a_norm_of_other_channels_belongs_to_another_layer() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm, self.head = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(8), nn.Linear(8, 3)

        def forward(self, images: Tensor) -> Tensor:
            joined = torch.cat([images[:, :, 1:-1, 1:-1], self.convolution(images)], 1)
            answers: Tensor = self.head(self.norm(joined).mean((2, 3)))
            return answers

    assert convolutions(Joined(), IMAGES) == [("convolution", None)]


def test_a_network_without_convolution_has_features_all_the_same() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU(), nn.Linear(5, 3))
    assert find_layers(module, IMAGES) == Layers("3", ())


def test_without_a_linear_layer_nothing_says_which_activations_are_features() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UnusableOutputs, match="no linear layer"):
        find_layers(module, IMAGES)
    assert num_hooks(module) == 0


@pytest.mark.parametrize("wrong", ["nothing", "last", "unused", ""])
def test_features_must_be_a_linear_layer_that_is_called(wrong: str) -> None:
    with pytest.raises(SettingsError) as told:
        find_layers(Backwards().eval(), IMAGES, wrong)
    assert "hidden, head" in told.value.cure, "the cure names those there are"


def test_features_of_another_layer_can_be_asked_for(digits: ImageSet) -> None:
    assert find_layers(Backwards().eval(), IMAGES, "hidden").last_linear == "hidden"
    classifier = Classifier(Backwards(), (3, 8, 8), 3, features_layer="hidden")
    assert classifier.num_features == 6
    assert classifier.with_features(IMAGES)[1].shape == (2, 6)


def test_hooks_go_when_the_network_fails() -> None:
    class Failing(Backwards):
        def forward(self, images: Tensor) -> Tensor:
            super().forward(images)
            raise ZeroDivisionError

    module = Failing().eval()
    with pytest.raises(ZeroDivisionError):
        find_layers(module, IMAGES)
    assert num_hooks(module) == 0


def test_a_tap_keeps_what_goes_in_and_leaves_no_hook() -> None:
    layer = nn.Linear(4, 3)
    values = torch.rand(2, 4, generator=torch.Generator().manual_seed(1))
    with Tap(layer) as tap:
        layer(values)
        assert num_hooks(layer) == 1
        assert torch.equal(tap.take(), values)
        with pytest.raises(UnusableOutputs):
            tap.take()
    assert num_hooks(layer) == 0
    layer(values)
    assert tap.kept is None
    with pytest.raises(ZeroDivisionError), Tap(layer):
        raise ZeroDivisionError
    assert num_hooks(layer) == 0


def test_an_input_may_be_named() -> None:
    layer, values = nn.Linear(4, 3), torch.ones(2, 4)
    with Tap(layer) as tap:
        layer(input=values)
        assert torch.equal(tap.take(), values)


def test_features_come_with_the_very_logits(infected: Classifier, digits: ImageSet) -> None:
    images = pixels(digits.images[:32])
    logits, features = infected.with_features(images)
    assert torch.equal(logits, infected(images))
    assert features.shape == (32, infected.num_features) == (32, 512)
    head = infected.module.get_submodule(infected.layers.last_linear)
    assert torch.allclose(head(features), logits, atol=1e-4)
    assert num_hooks(infected.module) == 0


def test_probabilities_have_features_too(infected: Classifier, digits: ImageSet) -> None:
    images = pixels(digits.images[:8])
    softened = Classifier(
        nn.Sequential(infected.module, nn.Softmax(1)), (1, 28, 28), 10, outputs=OutputKind.PROBABILITIES
    )
    logits, features = softened.with_features(images)
    assert torch.equal(features, infected.with_features(images)[1])
    assert torch.equal(logits, softened(images))
    assert torch.allclose(logits.softmax(1), infected(images).softmax(1), atol=1e-5)


def test_of_tokens_the_features_are_the_mean() -> None:
    torch.manual_seed(0)
    classifier = Classifier(Tokens(), (1, 28, 28), 10)
    images = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    logits, features = classifier.with_features(images)
    assert features.shape == (5, classifier.num_features) == (5, 12)
    assert torch.allclose(classifier.module.get_submodule("head")(features), logits, atol=1e-5)


@pytest.mark.parametrize("layout", ["t n d", "nt d"])
def test_tokens_that_are_no_rows_of_an_image_are_refused(layout: str) -> None:
    classifier = Classifier(Tokens(layout), (1, 28, 28), 10)
    with pytest.raises(UnusableOutputs, match=r"'head' sees (16|48) rows for 3 images") as told:
        assert classifier.layers
    assert "--features" in told.value.cure
    assert num_hooks(classifier.module) == 0
