"""MobileNetV2 (Sandler et al. 2018, table 2) under torchvision's names."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Size, Tensor, nn

# Expansion, channels, blocks and first stride of every stage; widths are those of multiplier 1.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM, LAST = 32, 1280


def convolution(channels_in: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """Widened by a 1x1 convolution, a depthwise 3x3 one, narrowed without activation; added where shapes agree."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        layers = [convolution(channels_in, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *layers,
            convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.added = stride == 1 and channels_in == channels

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        values: Tensor = self.conv(images)
        return values + images if self.added else values


class MobileNetV2(nn.Module):
    """The stages as `features`, one linear layer as `classifier.1`."""

    def __init__(self, classes: int, *, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [convolution(channels, STEM, 3, 2)]
        width = STEM
        for expansion, stage_width, count, stride in STAGES:
            for number in range(count):
                layers.append(InvertedResidual(width, stage_width, stride if number == 0 else 1, expansion))
                width = stage_width
        self.features = nn.Sequential(*layers, convolution(width, LAST, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(LAST, classes))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


def from_shapes(shapes: Mapping[str, Size]) -> tuple[str, nn.Module, tuple[str, ...]] | None:
    """The name, the network and what was assumed, for shapes under its own names; None for another network."""
    if "features.1.conv.0.0.weight" not in shapes or "classifier.1.weight" not in shapes:
        return None
    channels = shapes["features.0.0.weight"][1] if "features.0.0.weight" in shapes else 0
    if channels < 1:
        return None
    return "mobilenet_v2", MobileNetV2(shapes["classifier.1.weight"][0], channels=channels), ()
