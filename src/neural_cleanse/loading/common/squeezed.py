"""MobileNetV3 (Howard et al. 2019, tables 1 and 2) and EfficientNet-B0 (Tan & Le 2019, table 1): torchvision's."""

from collections.abc import Mapping
from functools import partial

from jaxtyping import Float
from torch import Size, Tensor, nn

# Kernel, widened to, channels, squeeze and excitation, hard swish (else ReLU), stride.
LARGE = (
    (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
)  # fmt: skip
SMALL = (
    (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1), (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
)  # fmt: skip
MOBILE = {"mobilenet_v3_large": (LARGE, 1280), "mobilenet_v3_small": (SMALL, 1024)}  # blocks, hidden units of the head
MOBILE_NORM = partial(nn.BatchNorm2d, eps=1e-3)
# Expansion, kernel, stride, channels, blocks of every stage.
STAGES = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)  # fmt: skip
STEM = {"mobilenet": 16, "efficientnet": 32}
LAST = 1280
MAX_CHANNELS = 1024


def convolution(
    channels_in: int, channels: int, kernel: int, stride: int, groups: int, *parts: nn.Module
) -> nn.Sequential:
    """A convolution and what follows it: norm, activation."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False), *parts
    )


class Squeeze(nn.Module):
    """Squeeze and excitation (Hu et al. 2018): channels scaled by what two 1x1 convolutions make of their means."""

    def __init__(self, channels: int, squeezed: int, activation: nn.Module, scale: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.activation, self.scale = activation, scale

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        means = images.mean((2, 3), keepdim=True)
        factors: Tensor = self.scale(self.fc2(self.activation(self.fc1(means))))
        return images * factors


class Block(nn.Module):
    """The layers as `block`, added to the input where shapes agree."""

    def __init__(self, layers: list[nn.Module], *, added: bool) -> None:
        super().__init__()
        self.block, self.added = nn.Sequential(*layers), added

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        values: Tensor = self.block(images)
        return values + images if self.added else values


def mobile_block(channels_in: int, row: tuple[int, int, int, bool, bool, int]) -> Block:
    """One row of the tables of MobileNetV3."""
    kernel, hidden, channels, squeezed, hard, stride = row
    activation = nn.Hardswish if hard else nn.ReLU
    layers: list[nn.Module] = []
    if hidden != channels_in:
        layers.append(convolution(channels_in, hidden, 1, 1, 1, MOBILE_NORM(hidden), activation()))
    layers.append(convolution(hidden, hidden, kernel, stride, hidden, MOBILE_NORM(hidden), activation()))
    if squeezed:
        layers.append(Squeeze(hidden, _to_eighths(hidden // 4), nn.ReLU(), nn.Hardsigmoid()))
    layers.append(convolution(hidden, channels, 1, 1, 1, MOBILE_NORM(channels)))
    return Block(layers, added=stride == 1 and channels_in == channels)


def _to_eighths(value: int) -> int:
    """The nearest multiple of 8, never under 0.9 of the value."""
    rounded = max(8, (value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def efficient_block(channels_in: int, channels: int, kernel: int, stride: int, expansion: int) -> Block:
    """One block of EfficientNet."""
    hidden = channels_in * expansion
    layers: list[nn.Module] = []
    if expansion != 1:
        layers.append(convolution(channels_in, hidden, 1, 1, 1, nn.BatchNorm2d(hidden), nn.SiLU()))
    layers += [
        convolution(hidden, hidden, kernel, stride, hidden, nn.BatchNorm2d(hidden), nn.SiLU()),
        Squeeze(hidden, max(1, channels_in // 4), nn.SiLU(), nn.Sigmoid()),
        convolution(hidden, channels, 1, 1, 1, nn.BatchNorm2d(channels)),
    ]
    return Block(layers, added=stride == 1 and channels_in == channels)


class Features(nn.Module):
    """Convolutions as `features`, their means to `classifier`."""

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


def mobilenet_v3(name: str, classes: int, *, channels: int = 3) -> Features:
    """mobilenet_v3_large or mobilenet_v3_small."""
    rows, hidden = MOBILE[name]
    width = STEM["mobilenet"]
    layers: list[nn.Module] = [convolution(channels, width, 3, 2, 1, MOBILE_NORM(width), nn.Hardswish())]
    for row in rows:
        layers.append(mobile_block(width, row))
        width = row[2]
    layers.append(convolution(width, 6 * width, 1, 1, 1, MOBILE_NORM(6 * width), nn.Hardswish()))
    head = nn.Sequential(nn.Linear(6 * width, hidden), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(hidden, classes))
    return Features(nn.Sequential(*layers), head)


def efficientnet_b0(classes: int, *, channels: int = 3) -> Features:
    """The smallest EfficientNet."""
    width = STEM["efficientnet"]
    layers = [convolution(channels, width, 3, 2, 1, nn.BatchNorm2d(width), nn.SiLU())]
    for expansion, kernel, stride, stage_width, count in STAGES:
        blocks = []
        for number in range(count):
            blocks.append(efficient_block(width, stage_width, kernel, stride if number == 0 else 1, expansion))
            width = stage_width
        layers.append(nn.Sequential(*blocks))
    layers.append(convolution(width, LAST, 1, 1, 1, nn.BatchNorm2d(LAST), nn.SiLU()))
    return Features(nn.Sequential(*layers), nn.Sequential(nn.Dropout(0.2), nn.Linear(LAST, classes)))


def from_shapes(shapes: Mapping[str, Size]) -> tuple[str, nn.Module, tuple[str, ...]] | None:
    """The name, the network and what was assumed, for shapes under its own names; None for another network.

    EfficientNet-B1 has every tensor of B0, and more.
    """
    found = _named(shapes)
    if found is None:
        return None
    name, network = found
    more = {key for key in shapes if key.startswith("features.")} - set(network.state_dict())
    return None if more else (name, network, ())


def _named(shapes: Mapping[str, Size]) -> tuple[str, nn.Module] | None:
    stem = shapes.get("features.0.0.weight")
    if stem is None or not 1 <= stem[1] <= MAX_CHANNELS:
        return None
    if "features.1.0.block.0.0.weight" in shapes and "classifier.1.weight" in shapes:
        return "efficientnet_b0", efficientnet_b0(shapes["classifier.1.weight"][0], channels=stem[1])
    if "features.1.block.0.0.weight" not in shapes or "classifier.3.weight" not in shapes:
        return None
    name = "mobilenet_v3_large" if "features.16.0.weight" in shapes else "mobilenet_v3_small"
    return name, mobilenet_v3(name, shapes["classifier.3.weight"][0], channels=stem[1])
