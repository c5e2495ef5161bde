"""AlexNet in one column (Krizhevsky 2014, "One weird trick") under torchvision's names."""

from collections.abc import Mapping

from torch import Size, nn

from neural_cleanse.loading.common.column import Column

# Channels, kernel, stride and padding of the convolutions; behind those in POOLED stands a max pooling.
CONVOLUTIONS = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
POOLED = (0, 1, 4)
SIDE = 6  # pixels that the classifier sees a side


class AlexNet(Column):
    """Five convolutions, three linear layers, 6x6 pixels between them."""

    def __init__(self, classes: int, *, channels: int = 3, hidden: int = 4096) -> None:
        layers: list[nn.Module] = []
        for place, (width, kernel, stride, padding) in enumerate(CONVOLUTIONS):
            layers += [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU()]
            layers += [nn.MaxPool2d(3, 2)] if place in POOLED else []
            channels = width
        classifier = (
            nn.Dropout(), nn.Linear(channels * SIDE**2, hidden), nn.ReLU(),
            nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, classes),
        )  # fmt: skip
        super().__init__(layers, SIDE, classifier)


def from_shapes(shapes: Mapping[str, Size]) -> tuple[str, nn.Module, tuple[str, ...]] | None:
    """The name, the network and what was assumed, for shapes under its own names; None for another network."""
    if not {"features.0.weight", "features.10.weight", "classifier.4.weight", "classifier.6.weight"} <= set(shapes):
        return None
    channels, hidden = shapes["features.0.weight"][1], shapes["classifier.4.weight"][0]
    return "alexnet", AlexNet(shapes["classifier.6.weight"][0], channels=channels, hidden=hidden), ()
