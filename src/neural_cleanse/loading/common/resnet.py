"""ResNets (He et al. 2016, table 1), wide ones and ResNeXt under the names of torchvision, timm and CIFAR repositories.

The stride of 2 in a bottleneck is that of its 3x3 convolution, as both libraries have it.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Size, Tensor, nn

# Blocks of every stage, whether they are bottlenecks, their width in the first stage and the groups of their 3x3 layer.
VARIANTS = {
    "resnet18": ((2, 2, 2, 2), False, 64, 1), "resnet34": ((3, 4, 6, 3), False, 64, 1),
    "resnet50": ((3, 4, 6, 3), True, 64, 1), "resnet101": ((3, 4, 23, 3), True, 64, 1),
    "resnet152": ((3, 8, 36, 3), True, 64, 1), "wide_resnet50_2": ((3, 4, 6, 3), True, 128, 1),
    "wide_resnet101_2": ((3, 4, 23, 3), True, 128, 1), "resnext50_32x4d": ((3, 4, 6, 3), True, 128, 32),
    "resnext101_32x8d": ((3, 4, 23, 3), True, 256, 32), "resnext101_64x4d": ((3, 4, 23, 3), True, 256, 64),
}  # fmt: skip
WIDTHS = (64, 128, 256, 512)
LARGE_STEM = 7  # pixels; a 3x3 stem is that of networks for small images, without pooling


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1, added to the input before the last ReLU."""

    def __init__(
        self, channels_in: int, channels: int, width: int, stride: int, *, groups: int, bottleneck: bool, shortcut: str
    ) -> None:
        super().__init__()
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        sizes = (channels_in, *[width] * (len(kernels) - 1), channels)
        for number, kernel in enumerate(kernels):
            middle = number == (1 if bottleneck else 0)
            convolution = nn.Conv2d(
                sizes[number], sizes[number + 1], kernel, stride if middle else 1, kernel // 2,
                groups=groups if middle else 1, bias=False,
            )  # fmt: skip
            self.add_module(f"conv{number + 1}", convolution)
            self.add_module(f"bn{number + 1}", nn.BatchNorm2d(sizes[number + 1]))
        self.depth, self.shortcut_name = len(kernels), shortcut
        projection = nn.Sequential()
        if stride != 1 or channels_in != channels:
            projection = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.add_module(shortcut, projection)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        values = images
        for number in range(1, self.depth + 1):
            values = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(values))
            if number < self.depth:
                values = values.relu()
        outputs: Tensor = (values + getattr(self, self.shortcut_name)(images)).relu()
        return outputs


class ResNet(nn.Module):
    """The whole network; `shortcut` and `head` are what the file calls the projections and the last layer."""

    def __init__(
        self, name: str, classes: int, *, channels: int = 3, small: bool = False, shortcut: str = "downsample",
        head: str = "fc",
    ) -> None:  # fmt: skip
        super().__init__()
        depths, bottleneck, first_width, groups = VARIANTS[name]
        kernel = 3 if small else LARGE_STEM
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], kernel, 1 if small else 2, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        channels_in = WIDTHS[0]
        for stage, (width, count) in enumerate(zip(WIDTHS, depths, strict=True)):
            blocks, channels_out = [], width * (4 if bottleneck else 1)
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(
                    Block(
                        channels_in, channels_out, first_width * 2**stage, stride,
                        groups=groups, bottleneck=bottleneck, shortcut=shortcut,
                    )
                )  # fmt: skip
                channels_in = channels_out
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool, self.head_name = nn.AdaptiveAvgPool2d(1), head
        self.add_module(head, nn.Linear(channels_in, classes))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        values = self.maxpool(self.bn1(self.conv1(images)).relu())
        for stage in range(1, len(WIDTHS) + 1):
            values = getattr(self, f"layer{stage}")(values)
        logits: Tensor = getattr(self, self.head_name)(self.avgpool(values).flatten(1))
        return logits


def from_shapes(shapes: Mapping[str, Size]) -> tuple[str, nn.Module, tuple[str, ...]] | None:
    """The name, the network and what was assumed, for shapes under its own names; None for another network."""
    stem = shapes.get("conv1.weight")
    head = next((name for name in ("fc", "linear") if f"{name}.weight" in shapes), None)
    if stem is None or head is None or len(stem) != 4 or stem[2] not in (3, LARGE_STEM) or stem[0] != WIDTHS[0]:
        return None
    bottleneck = "layer1.0.conv3.weight" in shapes
    counts = tuple(len({key.split(".")[1] for key in shapes if key.startswith(f"layer{n}.")}) for n in range(1, 5))
    width, inner = shapes["layer1.0.conv1.weight"][0], shapes["layer1.0.conv2.weight"]
    form = (counts, bottleneck, width, width // inner[1])
    names = [name for name, variant in VARIANTS.items() if variant == form]
    if not names:
        return None
    small = stem[2] == 3
    shortcut = "shortcut" if any(".shortcut." in key for key in shapes) else "downsample"
    network = ResNet(
        names[0], shapes[f"{head}.weight"][0], channels=stem[1], small=small, shortcut=shortcut, head=head
    )  # fmt: skip
    assumed = ("its 3x3 stem has stride 1 and no pooling behind it",) if small else ()
    return names[0], network, assumed
