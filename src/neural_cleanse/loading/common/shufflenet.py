"""ShuffleNetV2 (Ma et al. 2018, table 5) under torchvision's names."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Size, Tensor, nn

WIDTHS = {  # of the three stages, and of the last convolution
    "shufflenet_v2_x0_5": (48, 96, 192, 1024), "shufflenet_v2_x1_0": (116, 232, 464, 1024),
    "shufflenet_v2_x1_5": (176, 352, 704, 1024), "shufflenet_v2_x2_0": (244, 488, 976, 2048),
}  # fmt: skip
STEM, REPEATS = 24, (4, 8, 4)


def pointwise(channels_in: int, channels: int) -> list[nn.Module]:
    """1x1 convolution, batch norm, ReLU."""
    return [nn.Conv2d(channels_in, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]


def depthwise(channels: int, stride: int) -> list[nn.Module]:
    """3x3 convolution of each channel by itself, batch norm."""
    return [nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), nn.BatchNorm2d(channels)]


class Unit(nn.Module):
    """Half the channels pass as they are (or narrowed, with stride 2), half through convolutions; then both mix."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        half, self.halves = channels // 2, stride == 1
        first = [] if self.halves else [*depthwise(channels_in, stride), *pointwise(channels_in, half)]
        self.branch1 = nn.Sequential(*first)
        self.branch2 = nn.Sequential(
            *pointwise(half if self.halves else channels_in, half), *depthwise(half, stride), *pointwise(half, half)
        )

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        kept, changed = images.chunk(2, 1) if self.halves else (self.branch1(images), images)
        both = torch.stack([kept, self.branch2(changed)], 2)  # n x half x 2 x h x w: neighbours come from both
        return both.flatten(1, 2)


class ShuffleNetV2(nn.Module):
    """Convolutions `conv1` and `conv5` around `stage2` to `stage4`, one linear layer as `fc`."""

    def __init__(self, name: str, classes: int, *, channels: int = 3) -> None:
        super().__init__()
        *widths, last = WIDTHS[name]
        self.conv1 = nn.Sequential(nn.Conv2d(channels, STEM, 3, 2, 1, bias=False), nn.BatchNorm2d(STEM), nn.ReLU())
        width, stages = STEM, []
        for stage_width, repeats in zip(widths, REPEATS, strict=True):
            units = [Unit(width, stage_width, 2), *(Unit(stage_width, stage_width, 1) for _ in range(repeats - 1))]
            stages.append(nn.Sequential(*units))
            width = stage_width
        self.stage2, self.stage3, self.stage4 = stages
        self.conv5, self.fc = nn.Sequential(*pointwise(width, last)), nn.Linear(last, classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        values = nn.functional.max_pool2d(self.conv1(images), 3, 2, 1)
        logits: Tensor = self.fc(self.conv5(self.stage4(self.stage3(self.stage2(values)))).mean((2, 3)))
        return logits


def from_shapes(shapes: Mapping[str, Size]) -> tuple[str, nn.Module, tuple[str, ...]] | None:
    """The name, the network and what was assumed, for shapes under its own names; None for another network."""
    stem, stage, head = (shapes.get(key) for key in ("conv1.0.weight", "stage2.0.branch1.2.weight", "fc.weight"))
    if stem is None or stage is None or head is None or len(stem) != 4:
        return None
    for name, widths in WIDTHS.items():
        if 2 * stage[0] == widths[0]:
            return name, ShuffleNetV2(name, head[0], channels=stem[1]), ()
    return None
