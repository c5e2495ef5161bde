"""Networks of infected models that other people published, as a user's own architecture file.

    neural-cleanse scan badnets_8_02_ckpt.pth --data cifar10/ \\
        --architecture published_networks.py:small_vgg_10 --allow-code

A checkpoint of weights does not say which network they belong to. A function without arguments that returns the
empty network is all that `--architecture FILE.py:FUNCTION` asks for; the names of its layers must be those in the file.
"""

from torch import Tensor, nn


class SmallVGG(nn.Module):
    """The network of I-BAU (Zeng et al. 2022, github YiZeng623/I-BAU): 6 convolutions with ELU, one linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels, dropout in ((3, 32, 0.3), (32, 64, 0.4), (64, 128, 0.4)):
            for first in (channels_in, channels):
                layers += [nn.Conv2d(first, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ELU()]
            layers += [nn.MaxPool2d(2), nn.Dropout(dropout)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(2048, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


class BadNetMnist(nn.Module):
    """The MNIST network of github verazuo/badnets-pytorch: average pooling, images normalised to [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.AvgPool2d(2))
        self.conv2 = nn.Sequential(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.AvgPool2d(2))
        self.fc1 = nn.Sequential(nn.Linear(512, 512), nn.ReLU())
        self.fc2 = nn.Sequential(nn.Linear(512, 10))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc2(self.fc1(self.conv2(self.conv1(images)).flatten(1)))
        return logits


def small_vgg_10() -> nn.Module:
    """I-BAU's CIFAR-10 models."""
    return SmallVGG(10)


def small_vgg_43() -> nn.Module:
    """I-BAU's GTSRB models."""
    return SmallVGG(43)


def badnet_mnist() -> nn.Module:
    """badnet-MNIST.pth."""
    return BadNetMnist()
