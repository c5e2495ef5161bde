"""The networks of the paper and of its benchmarks, by name: what `--architecture NAME` builds.

Layer lists as in Wang et al. 2019 (tables in the appendix) and the authors' injection script, or as each function says;
weights are plain tensors, so a name and a state_dict make a model without running anybody's code. Every network is a
Sequential that ends in its classification layer, so the numbers in the state_dict's names keep the order of the layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from neural_cleanse.errors import SettingsError


@dataclass(frozen=True)
class Architecture:
    """A named network: `build(num_classes)` for images of `input_shape` (channels, height, width)."""

    build: Callable[[int], nn.Module]
    input_shape: tuple[int, int, int]


def cifar_cnn(num_classes: int = 10) -> nn.Sequential:
    """A small VGG with batch norm for CIFAR-10: 307,946 parameters at 10 classes, 3x32x32 input.

    The layer list is ours, not the paper's: two 3x3 convolutions each at 32, 64 and 128 channels, and one linear layer
    on the 128x4x4 that remain. It is small enough to train in some twenty minutes on one core: 50,000 images forward
    and backward take 2.7 of them.
    """
    layers: list[nn.Module] = []
    for channels_in, channels in ((3, 32), (32, 64), (64, 128)):
        layers += [
            nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.MaxPool2d(2),
        ]  # fmt: skip
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, num_classes))


def deepid(num_classes: int = 1283) -> nn.Sequential:
    """DeepID (Sun, Wang & Tang 2014) for YouTube Face: 601,643 parameters at 1283 classes, 3x55x47 input.

    Layer list as in TrojanNet (Tang et al. 2020, table 8). Its stride of 2 leaves no pixels of 55x47; stride 1 without
    padding, as in the network of the CSAW-HackML 2020 contest, ends in 60x5x4.
    """
    return nn.Sequential(
        nn.Conv2d(3, 20, 4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(20, 40, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(40, 60, 3), nn.ReLU(), nn.MaxPool2d(2),
        _TwoScales(), nn.ReLU(),
        nn.Linear(160, num_classes),
    )  # fmt: skip


class _TwoScales(nn.Module):
    """DeepID's merge: 160 features from the third pooling's 60x5x4, and 160 from one more convolution, added."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(60 * 5 * 4, 160)
        self.conv4 = nn.Conv2d(60, 80, 2)
        self.fc2 = nn.Linear(80 * 4 * 3, 160)

    def forward(self, pooled: Float[Tensor, "n 60 5 4"]) -> Float[Tensor, "n 160"]:
        convolved = self.conv4(pooled).relu()
        merged: Tensor = self.fc1(pooled.flatten(1)) + self.fc2(convolved.flatten(1))
        return merged


def gtsrb_cnn(num_classes: int = 43, width: float = 1) -> nn.Sequential:
    """The authors' traffic sign network: 571,723 parameters at 43 classes, 3x32x32 input.

    `width` multiplies the channels and hidden units; `gtsrb_cnn_half` is width 0.5 with 148,923 parameters.
    """
    narrow, middle, wide, hidden = _widened(width, 32, 64, 128, 512)
    layers: list[nn.Module] = []
    for channels_in, channels in ((3, narrow), (narrow, middle), (middle, wide)):
        layers += [
            nn.Conv2d(channels_in, channels, 3, padding=1), nn.ReLU(),
            nn.Conv2d(channels, channels, 3), nn.ReLU(),
            nn.MaxPool2d(2), nn.Dropout(0.2),
        ]  # fmt: skip
    head = [nn.Flatten(), nn.Linear(4 * wide, hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, num_classes)]
    return nn.Sequential(*layers, *head)


def mnist_cnn(num_classes: int = 10, width: float = 1) -> nn.Sequential:
    """The MNIST network of BadNets and Neural Cleanse: 281,034 parameters at 10 classes, 1x28x28 input.

    `width` multiplies the channels and hidden units; `mnist_cnn_half` is width 0.5 with 71,786 parameters,
    `mnist_cnn_double` is width 2 with 1,111,946 parameters.
    """
    first, second, hidden = _widened(width, 16, 32, 512)
    return nn.Sequential(
        nn.Conv2d(1, first, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * second, hidden), nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )  # fmt: skip


def _widened(width: float, *counts: int) -> list[int]:
    """Each count times `width`, to the nearest whole number. Raises SettingsError when nothing is left of one."""
    if not width * min(counts) >= 1:
        raise SettingsError(
            f"Width {width} leaves a layer of {min(counts)} channels without any.", cure="Choose a larger width."
        )
    return [round(width * count) for count in counts]


def resnet18(num_classes: int = 10) -> nn.Sequential:
    """ResNet-18 (He et al. 2016, table 1) for small images: 11,173,962 parameters at 10 classes, 3x32x32 input.

    The stem is the one their section 4.2 has for CIFAR-10, a 3x3 convolution of stride 1 and no pooling, so the stages
    see 32x32, 16x16, 8x8 and 4x4. Shortcuts that change shape are 1x1 convolutions (their option B).
    """
    blocks: list[nn.Module] = []
    for channels_in, channels, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        blocks += [_ResidualBlock(channels_in, channels, stride), _ResidualBlock(channels, channels, 1)]
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(512, num_classes),
    )  # fmt: skip


class _ResidualBlock(nn.Module):
    """He et al. 2016, figure 2: two 3x3 convolutions with batch norm, added to the input before the last ReLU."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.shortcut.append(nn.Conv2d(channels_in, channels, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels))
        self.relu = nn.ReLU()

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        outputs: Tensor = self.relu(self.residual(images) + self.shortcut(images))
        return outputs


def vgg16(num_classes: int = 65) -> nn.Sequential:
    """VGG-16 for PubFig: 134,526,849 parameters at 65 classes, 3x224x224 input.

    Configuration D of Simonyan & Zisserman 2015 (table 1), dropout 0.5 after both hidden layers. Convolutions start as
    in He et al. 2015: without batch norm, torch's own start lets the signal fade over sixteen layers.
    """
    layers: list[nn.Module] = []
    channels_in = 3
    for channels, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            convolution = nn.Conv2d(channels_in, channels, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            layers += [convolution, nn.ReLU()]
            channels_in = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(
        *layers, nn.Flatten(),
        nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4096, num_classes),
    )  # fmt: skip


ARCHITECTURES: dict[str, Architecture] = {
    "cifar_cnn": Architecture(cifar_cnn, (3, 32, 32)),
    "deepid": Architecture(deepid, (3, 55, 47)),
    "gtsrb_cnn": Architecture(gtsrb_cnn, (3, 32, 32)),
    "gtsrb_cnn_half": Architecture(partial(gtsrb_cnn, width=0.5), (3, 32, 32)),
    "mnist_cnn": Architecture(mnist_cnn, (1, 28, 28)),
    "mnist_cnn_double": Architecture(partial(mnist_cnn, width=2), (1, 28, 28)),
    "mnist_cnn_half": Architecture(partial(mnist_cnn, width=0.5), (1, 28, 28)),
    "resnet18": Architecture(resnet18, (3, 32, 32)),
    "vgg16": Architecture(vgg16, (3, 224, 224)),
}


def architecture(name: str) -> Architecture:
    """The architecture of ours of that name, which can be trained. Raises SettingsError with the names there are."""
    if name not in ARCHITECTURES:
        raise SettingsError(
            f"There is no architecture {name!r} to train; the names are {', '.join(ARCHITECTURES)}.",
            cure="Choose one of them.",
        )
    return ARCHITECTURES[name]
