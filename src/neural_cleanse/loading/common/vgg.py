"""VGG-11 to 19 (Simonyan & Zisserman 2015, table 1), with and without batch norm, under torchvision's names."""

from collections.abc import Mapping

from torch import Size, nn

from neural_cleanse.loading.common.column import Column

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
POOLED = 7  # pixels that the classifier sees a side


class VGG(Column):
    """Convolutions of 3x3, three linear layers, 7x7 pixels between them."""

    def __init__(self, name: str, classes: int, *, batch_norm: bool, channels: int = 3, hidden: int = 4096) -> None:
        layers: list[nn.Module] = []
        for width, depth in zip(WIDTHS, DEPTHS[name], strict=True):
            for _ in range(depth):
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                layers += [nn.BatchNorm2d(width), nn.ReLU()] if batch_norm else [nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        classifier = (
            nn.Linear(channels * POOLED**2, hidden), nn.ReLU(), nn.Dropout(),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(),
            nn.Linear(hidden, classes),
        )  # fmt: skip
        super().__init__(layers, POOLED, classifier)


def from_shapes(shapes: Mapping[str, Size]) -> tuple[str, nn.Module, tuple[str, ...]] | None:
    """The name, the network and what was assumed, for shapes under its own names; None for another network."""
    if "features.0.weight" not in shapes or "classifier.6.weight" not in shapes or "classifier.0.weight" not in shapes:
        return None
    batch_norm = "features.1.running_mean" in shapes
    convolutions = [key for key, shape in shapes.items() if key.startswith("features.") and len(shape) == 4]
    names = [name for name, depths in DEPTHS.items() if sum(depths) == len(convolutions)]
    if not names:
        return None
    network = VGG(
        names[0], shapes["classifier.6.weight"][0], batch_norm=batch_norm, channels=shapes["features.0.weight"][1],
        hidden=shapes["classifier.0.weight"][0],
    )  # fmt: skip
    return names[0] + ("_bn" if batch_norm else ""), network, ()
