"""The networks of the paper, by name: what `--architecture NAME` builds.

Layer lists as in Wang et al. 2019 (tables in the appendix) and the authors' injection script; weights
are plain tensors, so a name and a state_dict make a model without running anybody's code.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from neural_cleanse.errors import SettingsError


@dataclass(frozen=True)
class Architecture:
    """A named network: `build(num_classes)` for images of `input_shape` (channels, height, width)."""

    build: Callable[[int], nn.Module]
    input_shape: tuple[int, int, int]


def mnist_cnn(num_classes: int = 10) -> nn.Sequential:
    """The MNIST network of BadNets and Neural Cleanse: 281,034 parameters at 10 classes, 1x28x28 input."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 512), nn.ReLU(),
        nn.Linear(512, num_classes),
    )  # fmt: skip


def gtsrb_cnn(num_classes: int = 43) -> nn.Sequential:
    """The authors' traffic sign network: 571,723 parameters at 43 classes, 3x32x32 input."""
    layers: list[nn.Module] = []
    for channels_in, channels in ((3, 32), (32, 64), (64, 128)):
        layers += [
            nn.Conv2d(channels_in, channels, 3, padding=1), nn.ReLU(),
            nn.Conv2d(channels, channels, 3), nn.ReLU(),
            nn.MaxPool2d(2), nn.Dropout(0.2),
        ]  # fmt: skip
    head = [nn.Flatten(), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, num_classes)]
    return nn.Sequential(*layers, *head)


ARCHITECTURES: dict[str, Architecture] = {
    "gtsrb_cnn": Architecture(gtsrb_cnn, (3, 32, 32)),
    "mnist_cnn": Architecture(mnist_cnn, (1, 28, 28)),
}


def architecture(name: str) -> Architecture:
    """The architecture of that name. Raises SettingsError with the names there are."""
    if name not in ARCHITECTURES:
        raise SettingsError(
            f"There is no architecture {name!r}; the names are {', '.join(sorted(ARCHITECTURES))}.",
            cure="For a network of your own pass FILE.py:FUNCTION and --allow-code.",
        )
    return ARCHITECTURES[name]
