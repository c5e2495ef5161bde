"""ResNet-18, 34 and 50 (He et al. 2016, table 1) under the names of torchvision and timm, and of CIFAR repositories.

The stride of 2 in a bottleneck is that of its 3x3 convolution, as both libraries have it.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Size, Tensor, nn

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)
LARGE_STEM = 7  # pixels; a 3x3 stem is that of networks for small images, without pooling


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1, added to the input before the last ReLU."""

    def __init__(self, channels_in: int, width: int, stride: int, *, bottleneck: bool, shortcut: str) -> None:
        super().__init__()
        channels = 4 * width if bottleneck else width
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        sizes = (channels_in, *[width] * (len(kernels) - 1), channels)
        for number, kernel in enumerate(kernels):
            step = stride if number == (1 if bottleneck else 0) else 1
            convolution = nn.Conv2d(sizes[number], sizes[number + 1], kernel, step, kernel // 2, bias=False)
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
        bottleneck, kernel = name == "resnet50", 3 if small else LARGE_STEM
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], kernel, 1 if small else 2, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        channels_in = WIDTHS[0]
        for stage, (width, count) in enumerate(zip(WIDTHS, BLOCKS[name], strict=True)):
            blocks = []
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(Block(channels_in, width, stride, bottleneck=bottleneck, shortcut=shortcut))
                channels_in = width * (4 if bottleneck else 1)
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
    names = [name for name, blocks in BLOCKS.items() if blocks == counts and (name == "resnet50") == bottleneck]
    if not names:
        return None
    small = stem[2] == 3
    shortcut = "shortcut" if any(".shortcut." in key for key in shapes) else "downsample"
    network = ResNet(
        names[0], shapes[f"{head}.weight"][0], channels=stem[1], small=small, shortcut=shortcut, head=head
    )  # fmt: skip
    assumed = ("its 3x3 stem has stride 1 and no pooling behind it",) if small else ()
    return names[0], network, assumed
