"""SqueezeNet 1.0 (Iandola et al. 2016, table 1) and 1.1 (its authors' later release) under torchvision's names."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Size, Tensor, nn


@dataclass(frozen=True)
class Plan:
    """Channels and kernel of the first convolution, how far the fire modules squeeze, and before which is pooled."""

    stem: int
    kernel: int
    squeezed: tuple[int, ...]
    pooled_before: tuple[int, ...]


PLANS = {
    "squeezenet1_0": Plan(96, 7, (16, 16, 32, 32, 48, 48, 64, 64), (0, 3, 7)),
    "squeezenet1_1": Plan(64, 3, (16, 16, 32, 32, 48, 48, 64, 64), (0, 2, 4)),
}
EXPANSION = 4  # each half of a fire module's channels to those that it squeezes to


class Fire(nn.Module):
    """Squeezed by a 1x1 convolution, expanded by a 1x1 and a 3x3 one beside each other."""

    def __init__(self, channels_in: int, squeezed: int) -> None:
        super().__init__()
        half = squeezed * EXPANSION
        self.squeeze = nn.Conv2d(channels_in, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, half, 1)
        self.expand3x3 = nn.Conv2d(squeezed, half, 3, padding=1)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        values: Tensor = self.squeeze(images).relu()
        return torch.cat([self.expand1x1(values).relu(), self.expand3x3(values).relu()], 1)


class SqueezeNet(nn.Module):
    """Fire modules as `features`, a 1x1 convolution to the classes as `classifier.1`."""

    def __init__(self, name: str, classes: int, *, channels: int = 3) -> None:
        super().__init__()
        plan = PLANS[name]
        layers: list[nn.Module] = [nn.Conv2d(channels, plan.stem, plan.kernel, 2), nn.ReLU()]
        width = plan.stem
        for place, squeezed in enumerate(plan.squeezed):
            layers += [nn.MaxPool2d(3, 2, ceil_mode=True)] if place in plan.pooled_before else []
            layers.append(Fire(width, squeezed))
            width = 2 * squeezed * EXPANSION
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(width, classes, 1), nn.ReLU())

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        logits: Tensor = self.classifier(self.features(images)).mean((2, 3))
        return logits


def from_shapes(shapes: Mapping[str, Size]) -> tuple[str, nn.Module, tuple[str, ...]] | None:
    """The name, the network and what was assumed, for shapes under its own names; None for another network."""
    stem, head = shapes.get("features.0.weight"), shapes.get("classifier.1.weight")
    if stem is None or head is None or len(stem) != 4 or "features.3.squeeze.weight" not in shapes:
        return None
    for name, plan in PLANS.items():
        if stem[0] == plan.stem and stem[2] == plan.kernel:
            return name, SqueezeNet(name, head[0], channels=stem[1]), ()
    return None
