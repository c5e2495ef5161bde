"""Networks cut in two: the tail on the features answers as the network does, wherever the cut lies."""

import pytest
import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.cut import Cut, Shifted, Tail, features_at, find_cut, work

IMAGES = torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """Two paths behind the stem, added without a module: no output of either is a cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU())
        self.body, self.skip = nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 1)
        self.relu, self.head = nn.ReLU(), nn.Linear(4 * 36, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = self.relu(self.body(x) + self.skip(x))
        answers: Tensor = self.head(self.relu(x).flatten(1))
        return answers


class Tokens(nn.Module):
    """Patches of 4 as tokens, mixed by two layers of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, 4)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        answers: Tensor = self.head(self.layers(tokens).mean(1))
        return answers


class CountsImages(nn.Module):
    """Uses the number of images after the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU()), nn.Linear(4 * 36, 3)

    def forward(self, images: Tensor) -> Tensor:
        answers: Tensor = self.head(self.first(images).reshape(len(images), -1))
        return answers


def made(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return network.eval()


NETWORKS = {
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 3)),
        Cut("2", 0, (4, 6, 6)),
    ),
    "layers": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 20), nn.ReLU(), nn.Linear(20, 3)),
        Cut("2", 0, (20,)),
    ),
    "residual": (Residual, Cut("stem.1", 0, (4, 6, 6))),
    "tokens": (Tokens, Cut("layers.layers.0.norm1", 0, (9, 8))),
    "counts its images": (CountsImages, Cut("first.1", 0, (4, 6, 6))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_tail_on_the_features_answers_as_the_network_does(name: str) -> None:
    build, expected = NETWORKS[name]
    network = made(build())
    found = find_cut(network, IMAGES[:2])
    assert found is not None
    cut, whole = found
    assert cut == expected and whole is (name == "counts its images")
    features = features_at(network, cut, IMAGES)
    assert features.shape[1:] == cut.image_shape
    tail = Tail(network, cut, torch.zeros_like(IMAGES[:1]), float(features.min()), whole)
    assert torch.allclose(tail(features), network(IMAGES), atol=1e-5)
    assert work(tail, features) <= work(network, IMAGES) or name == "tokens", "norms first: they count for nothing"


def test_features_below_what_images_bring_about_are_raised_to_it() -> None:
    network = made(NETWORKS["convolutions"][0]())
    tail = Tail(network, Cut("2", 0, (4, 6, 6)), torch.zeros_like(IMAGES[:1]), 0.0)
    below = torch.full((2, 4, 6, 6), -3.0)
    assert torch.equal(tail(below), tail(torch.zeros_like(below)))


def test_an_affine_network_and_one_layer_have_no_cut() -> None:
    affine = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3))
    assert find_cut(made(affine), IMAGES[:2]) is None
    assert find_cut(made(nn.Sequential(nn.Flatten(), nn.Linear(144, 3))), IMAGES[:2]) is None


def test_a_relu_that_is_called_twice_is_cut_at_the_right_call() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.relu = nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU()
            self.head = nn.Linear(4 * 36, 3)

        def forward(self, images: Tensor) -> Tensor:
            x = self.relu(self.two(self.relu(self.one(images))))
            answers: Tensor = self.head(x.flatten(1))
            return answers

    network = made(Shared())
    found = find_cut(network, IMAGES[:2])
    assert found is not None and found[0].layer == "two", "its output is halved and no affine function any more"
    second = Cut("relu", 1, (4, 6, 6))
    features = features_at(network, second, IMAGES)
    tail = Tail(network, second, torch.zeros_like(IMAGES[:1]), 0.0)
    assert torch.allclose(tail(features), network(IMAGES), atol=1e-5)


def test_the_cut_of_a_loaded_network_leaves_it_as_it_was(clean: Classifier) -> None:
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    before = clean(images)
    found = find_cut(clean.module, images[:2])
    assert found is not None and found[0].shape == (16, 12, 12)
    assert torch.equal(clean(images), before), "no hook is left behind"


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "none"])
def test_a_shifted_network_answers_as_its_tail_on_shifted_features(name: str) -> None:
    network = made(NETWORKS[name][0]())
    found = find_cut(network, IMAGES[:2])
    if found is None:
        pytest.skip("this network has no cut")
    cut, whole = found
    features = features_at(network, cut, IMAGES)
    least = float(features.min())
    shift = torch.randn(1, *cut.image_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = Tail(network, cut, IMAGES[:1] * 0, least, whole)(features + shift)
        assert torch.allclose(Shifted(network, cut, shift, least)(IMAGES), expected, atol=1e-5)
        assert torch.allclose(network(IMAGES), Shifted(network, cut, 0 * shift, least)(IMAGES)), "nothing stays shifted"


def test_rows_have_shifts_of_their_own_and_one_of_zero_changes_nothing_even_under_the_least() -> None:
    network = made(nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)))
    cut = Cut("1", 0, (4, 6, 6))
    shift = torch.zeros(5, 4, 6, 6)
    shift[2] = -1.0
    with torch.no_grad():
        before, after = network(IMAGES), Shifted(network, cut, shift, 0.5)(IMAGES)
    assert torch.equal(before[[0, 1, 3, 4]], after[[0, 1, 3, 4]])
    high = Shifted(network, cut, shift.abs(), 0.5)(IMAGES)
    assert ((before - high).abs().amax(1) > 1e-6).tolist() == [False, False, True, False, False]
