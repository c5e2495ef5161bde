"""A suspect network behind its own glass: pixels in, logits out, and the caller's module untouched."""

import pytest
import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier, Normalize, device_named
from neural_cleanse.errors import SettingsError, UnusableOutputs
from neural_cleanse.outputs import OutputKind
from neural_cleanse.probe import probe


def images(channels: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(4, channels, 6, 6, generator=torch.Generator().manual_seed(seed))


class Recorder(nn.Module):
    """Answers with the sum of each channel, and remembers the modes it ran in."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.trained: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.trained.append(self.training)
        return x.sum((2, 3)) * self.weight


# --- normalisation ---


def test_the_default_normalisation_is_the_identity() -> None:
    pixels = images()
    assert torch.equal(Normalize()(pixels), pixels)
    assert "as they are" in str(Normalize())


def test_scale_comes_before_mean_and_std() -> None:
    pixels = images()
    expected = (pixels * 255 - 128) / 64
    assert torch.allclose(Normalize((128.0,), (64.0,), 255.0)(pixels), expected)
    assert torch.allclose(Normalize(scale=255.0)(pixels), pixels * 255)


def test_one_value_a_channel() -> None:
    pixels, mean, std = images(), (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    both = Normalize(mean, std)(pixels)
    for channel in range(3):
        assert torch.allclose(both[:, channel], (pixels[:, channel] - mean[channel]) / std[channel], atol=1e-6)
    assert torch.allclose(Normalize(mean)(pixels)[:, 2], pixels[:, 2] - 0.6)
    assert torch.allclose(Normalize(std=std)(pixels)[:, 2], pixels[:, 2] / 0.3)
    assert torch.allclose(Normalize((0.5,), std)(pixels), Normalize((0.5,) * 3, std)(pixels))


@pytest.mark.parametrize(
    "values",
    [
        {"std": (0.0,)},
        {"std": (1.0, -1.0, 1.0)},
        {"std": (float("nan"),)},
        {"std": (float("inf"),)},
        {"mean": (float("nan"),)},
        {"mean": (float("inf"),)},
        {"mean": ()},
        {"std": ()},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"mean": (0.1, 0.2), "std": (1.0, 1.0, 1.0)},
    ],
    ids=str,
)
def test_normalisations_that_make_no_sense(values: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(SettingsError):
        Normalize(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("normalize", [Normalize((0.5, 0.5)), Normalize(std=(0.5, 0.5)), Normalize((0.1,) * 3)])
def test_channels_must_agree(normalize: Normalize) -> None:
    with pytest.raises(SettingsError, match="channels"):
        normalize(images(channels=1))


def test_the_gradient_reaches_the_pixels_through_the_normalisation() -> None:
    classifier = Classifier(Recorder(), (3, 6, 6), 3, Normalize((0.5,), (0.25,), 2.0))
    pixels = images().requires_grad_()
    classifier(pixels).sum().backward()
    assert pixels.grad is not None
    assert torch.allclose(pixels.grad, torch.full_like(pixels, 8.0))


# --- the frozen copy ---


def test_the_callers_module_stays_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 5))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    classifier = Classifier(module, (3, 6, 6), 5)
    classifier(images())
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module[0].weight.is_contiguous()
    with torch.no_grad():
        answer = classifier(images())
        module[4].weight.zero_()
        assert torch.equal(classifier(images()), answer), "later changes do not reach the copy"


def test_the_copy_is_in_eval_mode_and_its_weights_get_no_gradient() -> None:
    module = Recorder()
    classifier = Classifier(module, (3, 6, 6), 3)
    classifier(images().requires_grad_()).sum().backward()
    assert module.trained == []
    assert isinstance(classifier.module, Recorder)
    assert not any(classifier.module.trained)
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in classifier.module.parameters())


def test_another_normalisation_runs_and_copies_nothing() -> None:
    ran = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            ran.append(len(x))
            answers: Tensor = self.last(x.mean((2, 3)))
            return answers

    classifier = Classifier(Counting(), (3, 6, 6), 4)
    features = classifier.layers
    ran.clear()
    changed = classifier.changed(normalize=Normalize((0.5,)), features_layer="last")
    assert ran == []
    assert changed.module is classifier.module
    assert torch.equal(changed(images()), classifier(images() - 0.5))
    assert classifier.normalize == Normalize()
    assert changed.layers == features and changed.layers is not features


def test_moving_keeps_everything() -> None:
    classifier = Classifier(Recorder(), (3, 6, 6), 3, Normalize((0.5,)), OutputKind.LOG_PROBABILITIES)
    moved = classifier.to(torch.device("cpu"))
    assert torch.equal(moved(images()), classifier(images()))
    assert (moved.normalize, moved.outputs) == (classifier.normalize, classifier.outputs)
    assert moved.module is not classifier.module
    assert Classifier(nn.Flatten(), (3, 6, 6), 108).device == torch.device("cpu"), "a network without weights"


class Viewing(nn.Module):
    """Views the convolution's output as rows, which channels-last activations do not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return self.head(y.view(y.shape[0], -1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("normalize", [Normalize(), Normalize((0.5,), (0.3,))])
def test_networks_that_need_contiguous_activations(normalize: Normalize) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        viewing = Viewing()
    classifier = Classifier(viewing, (3, 6, 6), 5, normalize)
    assert classifier.memory_format is torch.contiguous_format
    assert torch.allclose(classifier(images()), viewing(normalize(images())), atol=1e-6)
    strided = images().contiguous(memory_format=torch.channels_last)
    assert torch.allclose(classifier(strided), viewing(normalize(images())), atol=1e-6)


def test_channels_last_changes_no_answer() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    classifier = Classifier(module, (3, 6, 6), 5)
    assert classifier.memory_format is torch.channels_last
    assert torch.allclose(classifier(images()), module(images()), atol=1e-6)


# --- the first look ---


def test_the_probe_runs_a_copy_in_eval_mode() -> None:
    module = Recorder()
    assert probe(module, images(), Normalize()) == (3, OutputKind.LOGITS)
    assert module.trained == []
    assert module.training


def test_a_network_that_changes_its_input_is_still_probed_fairly() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2).sum((2, 3))

    assert probe(InPlace(), images(), Normalize()) == (3, OutputKind.LOGITS)


def test_a_wrong_normalisation_is_no_fault_of_the_network() -> None:
    with pytest.raises(SettingsError, match="2 channels"):
        probe(Recorder(), images(), Normalize((0.5, 0.5)))


def test_a_network_with_a_memory_is_refused() -> None:
    class Counting(nn.Module):
        calls = 0.0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x.sum((2, 3)) + self.calls

    with pytest.raises(UnusableOutputs, match="answers differently"):
        probe(Counting(), images(), Normalize())


# --- devices ---


def test_devices_by_name() -> None:
    assert device_named("cpu") == torch.device("cpu")
    assert device_named("auto").type in ("cpu", "cuda", "mps")
    for name in ("nonsense", "", "cpu:x", "meta", "cuda:99"):
        with pytest.raises(SettingsError, match="Use --device auto or cpu"):
            device_named(name)


class WritesIntoItsInput(nn.Module):
    """Halves its images in place, as some networks normalise."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.mul_(0.5).flatten(1))


def test_a_network_that_writes_into_its_input_gets_a_copy() -> None:
    classifier = Classifier(WritesIntoItsInput(), (1, 4, 4), 3)
    images = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    answers = classifier(images)
    assert torch.equal(images, before) and torch.equal(classifier(images), answers)
    values = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(values.sigmoid()).sum(), values)
    assert classifier.changes_input and bool(gradient.any())


class AmongOthers(nn.Module):
    """Answers an image by how it differs from those beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    def forward(self, images: Tensor) -> Tensor:
        answers: Tensor = self.inner(images)
        return answers - answers.mean(0)


class OfOneSize(nn.Module):
    """Takes no more than eight images."""

    def forward(self, images: Tensor) -> Tensor:
        return images.reshape(len(images), -1)[:, :3].reshape(min(len(images), 8), 3)


class QuietTrain(nn.Flatten):
    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        self.training = mode


def test_an_answer_that_hangs_on_other_images_is_refused() -> None:
    torch.manual_seed(0)
    images = torch.rand(8, 1, 4, 4)
    with pytest.raises(UnusableOutputs, match="otherwise beside other images"):
        probe(AmongOthers(), images, Normalize())
    norm = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, track_running_stats=False), nn.Linear(16, 3))
    with pytest.raises(UnusableOutputs, match="otherwise beside other images"):
        probe(norm, images, Normalize())
    assert probe(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3)), images, Normalize())[0] == 3


def test_a_network_that_fails_later_is_told_in_its_own_words() -> None:
    classifier = Classifier(OfOneSize(), (1, 4, 4), 3)
    classifier(torch.rand(8, 1, 4, 4))
    with pytest.raises(UnusableOutputs, match=r"fails on 9 images of shape 1x4x4.*shape '.8, 3.' is invalid"):
        classifier(torch.rand(9, 1, 4, 4))


def test_a_train_that_returns_nothing_is_no_fault() -> None:
    network = nn.Sequential(QuietTrain(), nn.Linear(16, 3))
    assert Classifier(network, (1, 4, 4), 3)(torch.rand(2, 1, 4, 4)).shape == (2, 3)
    assert probe(QuietTrain(), torch.rand(8, 1, 4, 4), Normalize())[0] == 16
