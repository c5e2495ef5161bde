"""GoogLeNet (Szegedy et al. 2015, table 1), with batch norm and without its training heads, under torchvision's names.

torchvision's third branch has a 3x3 convolution where the paper has 5x5, and so have the published weights.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Size, Tensor, nn

# Each module: channels of 1x1; of 3x3 and before it; of the second 3x3 and before it; behind the pooling.
MODULES: dict[str, tuple[int, int, int, int, int, int]] = {
    "inception3a": (64, 96, 128, 16, 32, 32), "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64), "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64), "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128), "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
POOLED_BEHIND = {"inception3b": 3, "inception4e": 2}  # and by a window of that size
EPSILON = 0.001  # of the batch norms
ASSUMED = (
    "no normalisation of its own: torchvision's pretrained GoogLeNet (transform_input) brings images that were "
    "normalised for ImageNet to mean 0.5 and std 0.5 itself, so give those"
)


class Convolution(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=EPSILON)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        values: Tensor = self.bn(self.conv(images)).relu()
        return values


class Inception(nn.Module):
    """Four branches beside each other."""

    def __init__(self, channels_in: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, before, three, before_second, second, pooled = widths
        self.branch1 = Convolution(channels_in, one, 1)
        self.branch2 = nn.Sequential(Convolution(channels_in, before, 1), Convolution(before, three, 3))
        self.branch3 = nn.Sequential(Convolution(channels_in, before_second, 1), Convolution(before_second, second, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), Convolution(channels_in, pooled, 1))
        self.channels = one + three + second + pooled

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        return torch.cat([branch(images) for branch in (self.branch1, self.branch2, self.branch3, self.branch4)], 1)


class GoogLeNet(nn.Module):
    """Three convolutions, nine modules, one linear layer as `fc`."""

    def __init__(self, classes: int, *, channels: int = 3) -> None:
        super().__init__()
        self.conv1, self.conv2 = Convolution(channels, 64, 7, 2), Convolution(64, 64, 1)
        self.conv3 = Convolution(64, 192, 3)
        width = 192
        for name, widths in MODULES.items():
            module = Inception(width, widths)
            self.add_module(name, module)
            width = module.channels
        self.fc = nn.Linear(width, classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        values = nn.functional.max_pool2d(self.conv1(images), 3, 2, ceil_mode=True)
        values = nn.functional.max_pool2d(self.conv3(self.conv2(values)), 3, 2, ceil_mode=True)
        for name in MODULES:
            values = self.get_submodule(name)(values)
            if name in POOLED_BEHIND:
                values = nn.functional.max_pool2d(values, POOLED_BEHIND[name], 2, ceil_mode=True)
        logits: Tensor = self.fc(values.mean((2, 3)))
        return logits


def from_shapes(shapes: Mapping[str, Size]) -> tuple[str, nn.Module, tuple[str, ...]] | None:
    """The name, the network and what was assumed, for shapes under its own names; None for another network."""
    stem, head = shapes.get("conv1.conv.weight"), shapes.get("fc.weight")
    if stem is None or head is None or len(stem) != 4 or "inception3a.branch1.conv.weight" not in shapes:
        return None
    return "googlenet", GoogLeNet(head[0], channels=stem[1]), (ASSUMED,)
