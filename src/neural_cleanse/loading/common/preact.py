"""PreActResNet-18 and 34 (He et al. 2016b) for small images, as CIFAR repositories and BackdoorBench name their parts.

Each block begins with its normalisation, and there is none before the last layer.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Size, Tensor, nn

BLOCKS = {"preact_resnet18": (2, 2, 2, 2), "preact_resnet34": (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """Norm, ReLU and convolution, twice; a shortcut begins behind the first ReLU."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels_in), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.projected = stride != 1 or channels_in != channels
        if self.projected:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        first = self.bn1(images).relu()
        kept = self.shortcut(first) if self.projected else images
        outputs: Tensor = self.conv2(self.bn2(self.conv1(first)).relu()) + kept
        return outputs


class PreActResNet(nn.Module):
    """The whole network."""

    def __init__(self, name: str, classes: int, *, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, 1, 1, bias=False)
        channels_in = WIDTHS[0]
        for stage, (width, count) in enumerate(zip(WIDTHS, BLOCKS[name], strict=True)):
            blocks = [Block(channels_in, width, 2 if stage > 0 else 1)]
            blocks += [Block(width, width, 1) for _ in range(count - 1)]
            channels_in = width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(channels_in, classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        values = self.conv1(images)
        for stage in range(1, len(WIDTHS) + 1):
            values = getattr(self, f"layer{stage}")(values)
        logits: Tensor = self.linear(values.mean((2, 3)))
        return logits


def from_shapes(shapes: Mapping[str, Size]) -> tuple[str, nn.Module, tuple[str, ...]] | None:
    """The name, the network and what was assumed; None for another network."""
    if "linear.weight" not in shapes or "bn1.weight" in shapes or "layer1.0.bn1.weight" not in shapes:
        return None
    counts = tuple(len({key.split(".")[1] for key in shapes if key.startswith(f"layer{n}.")}) for n in range(1, 5))
    name = next((name for name, blocks in BLOCKS.items() if blocks == counts), None)
    if name is None:
        return None
    network = PreActResNet(name, shapes["linear.weight"][0], channels=shapes["conv1.weight"][1])
    return (
        name,
        network,
        ("its blocks begin with norm and ReLU, and no norm follows the last block",),
    )
