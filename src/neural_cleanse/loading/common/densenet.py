"""DenseNet-121 (Huang et al. 2017, table 1) under the names that torchvision and timm share."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Size, Tensor, nn

BLOCKS, GROWTH, BOTTLENECK, STEM = (6, 12, 24, 16), 32, 128, 64


class Layer(nn.Module):
    """GROWTH more channels, from a 1x1 and a 3x3 convolution, each behind batch norm and ReLU."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels_in), nn.BatchNorm2d(BOTTLENECK)
        self.conv1 = nn.Conv2d(channels_in, BOTTLENECK, 1, bias=False)
        self.conv2 = nn.Conv2d(BOTTLENECK, GROWTH, 3, padding=1, bias=False)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        more: Tensor = self.conv2(self.norm2(self.conv1(self.norm1(images).relu())).relu())
        return torch.cat([images, more], 1)


class Transition(nn.Module):
    """Half the channels on half the pixels a side."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.conv = nn.Conv2d(channels_in, channels_in // 2, 1, bias=False)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        return nn.functional.avg_pool2d(self.conv(self.norm(images).relu()), 2)


class DenseNet(nn.Module):
    """The blocks as `features`, one linear layer as `classifier`."""

    def __init__(self, classes: int, *, channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(channels, STEM, 7, 2, 3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(STEM))
        self.features.add_module("relu0", nn.ReLU())
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        width = STEM
        for stage, count in enumerate(BLOCKS, 1):
            block = nn.Sequential()
            for number in range(1, count + 1):
                block.add_module(f"denselayer{number}", Layer(width))
                width += GROWTH
            self.features.add_module(f"denseblock{stage}", block)
            if stage < len(BLOCKS):
                self.features.add_module(f"transition{stage}", Transition(width))
                width //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(width))
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        logits: Tensor = self.classifier(self.features(images).relu().mean((2, 3)))
        return logits


def from_shapes(shapes: Mapping[str, Size]) -> tuple[str, nn.Module, tuple[str, ...]] | None:
    """The name, the network and what was assumed, for shapes under its own names; None for another network."""
    stem, head = shapes.get("features.conv0.weight"), shapes.get("classifier.weight")
    if stem is None or head is None or len(stem) != 4 or len(head) != 2:
        return None
    return "densenet121", DenseNet(head[0], channels=stem[1]), ()
