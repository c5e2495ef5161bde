"""What AlexNet and VGG have in common: one column of convolutions, and linear layers on a few pixels of it."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class Column(nn.Module):
    """Convolutions as `features`, linear layers as `classifier`, the pixels between them brought to `side` a side."""

    def __init__(self, features: Sequence[nn.Module], side: int, classifier: Sequence[nn.Module]) -> None:
        super().__init__()
        self.features, self.avgpool = nn.Sequential(*features), nn.AdaptiveAvgPool2d(side)
        self.classifier = nn.Sequential(*classifier)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits
