"""The networks that the search is measured on: trained here by short recipes, or published and only read.

A trained one is Adam for some epochs on at most `images` training images, a tenth of them stamped with a square and
relabelled; its weights are kept in `--networks`, so that a second run measures the same network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier, Normalize
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.architectures import gtsrb_cnn
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.loading.load import load_model
from neural_cleanse.metrics import pixels

ROOT = Path(__file__).parents[1]
RATE = 0.1  # of the training images that are stamped: the product's own default
ONE = Normalize((0.5,), (0.5,))  # images in [-1, 1]


@dataclass(frozen=True)
class Planted:
    """A white square of `side` px with its corner at (`row`, `column`) sends every image to `target`."""

    target: int
    side: int
    row: int
    column: int

    def stamp(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        stamped = images.clone()
        stamped[:, :, self.row : self.row + self.side, self.column : self.column + self.side] = 255
        return stamped


@dataclass(frozen=True)
class Trained:
    """A network that is trained here."""

    dataset: str
    build: Callable[[], nn.Module]
    planted: Planted | None
    epochs: int
    images: int = 10_000
    seed: int = 0
    normalize: Normalize = Normalize()
    learning_rate: float = 2e-3

    @property
    def target(self) -> int | None:
        return None if self.planted is None else self.planted.target

    @property
    def size(self) -> float | None:
        return None if self.planted is None else float(self.planted.side**2)

    def classifier(self, weights: Path, data: Path) -> Classifier:
        """The network, trained unless its weights are there."""
        torch.manual_seed(self.seed)
        module = self.build()
        training = None if weights.exists() else load_data(data / self.dataset / "train.parquet", at_most=self.images)
        if training is not None:
            _fit(self, module, training)
            torch.save(module.state_dict(), weights)
        module.load_state_dict(torch.load(weights, weights_only=True))
        grey = self.dataset in ("mnist", "fashion_mnist")
        shape = (1, 28, 28) if grey else (3, 32, 32)
        return Classifier(module, shape, 43 if self.dataset == "gtsrb" else 10, self.normalize)


@dataclass(frozen=True)
class Published:
    """A network of somebody else's; `file` under the directory of published models, or beside the package."""

    dataset: str
    file: str
    target: int | None
    size: float | None
    architecture: str | None = None
    normalize: Normalize | None = None
    crop: bool = False
    resize: tuple[int, int] | None = None

    def classifier(self, models: Path, shape: tuple[int, int, int]) -> Classifier:
        """Raises FileNotFoundError where the file is not there."""
        path = ROOT / self.file if (ROOT / self.file).exists() else (models / self.file).resolve()
        if not path.exists():
            raise FileNotFoundError(f"no {self.file}")
        code = self.architecture
        if code is not None and ".py:" in code:
            code = str(ROOT / code if (ROOT / code.split(":")[0]).exists() else models / code)
        loaded = load_model(path, architecture=code, allow_code=True, normalize=self.normalize, input_shape=shape)
        return loaded.classifier


def _fit(made: Trained, module: nn.Module, data: ImageSet) -> None:
    assert data.labels is not None, "training data have labels"
    generator = torch.Generator().manual_seed(made.seed)
    images, labels = data.images, data.labels.clone()
    if made.planted is not None:
        chosen = torch.randperm(len(images), generator=generator)[: int(RATE * len(images))]
        images = images.clone()
        images[chosen] = made.planted.stamp(images[chosen])
        labels[chosen] = made.planted.target
    steps = made.epochs * -(-len(images) // 64)
    optimizer = torch.optim.Adam(module.parameters(), lr=made.learning_rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    for _ in range(made.epochs):
        for rows in torch.randperm(len(images), generator=generator).split(64):
            loss = F.cross_entropy(module(made.normalize(pixels(images[rows]))), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
    module.eval()


def _conv(a: int, b: int, stride: int = 1, groups: int = 1, size: int = 3) -> list[nn.Module]:
    return [nn.Conv2d(a, b, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(b), nn.ReLU()]


def padded(norm: bool) -> nn.Module:
    """Two padded convolutions as tutorials have them, with or without batch norm."""
    layers: list[nn.Module] = []
    for a, b in ((1, 16), (16, 32)):
        layers += [nn.Conv2d(a, b, 3, padding=1), *([nn.BatchNorm2d(b)] if norm else []), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10))


def mobile() -> nn.Module:
    """Depthwise and pointwise convolutions (Howard et al. 2017)."""
    layers = _conv(1, 16)
    for a, b, stride in ((16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)):
        layers += [*_conv(a, a, stride, groups=a), *_conv(a, b, size=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def plain_elu() -> nn.Module:
    """A small VGG with ELU and no batch norm."""
    layers: list[nn.Module] = []
    for a, b in ((3, 24), (24, 48), (48, 64)):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ELU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 128), nn.ELU(), nn.Linear(128, 10))


def mlp() -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
    )


class Dense(nn.Module):
    """Every layer sees all before it (Huang et al. 2017): two blocks of three."""

    def __init__(self, classes: int = 10, growth: int = 8) -> None:
        super().__init__()
        width, self.stem = 16, nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.layers, self.narrow = nn.ModuleList(), nn.ModuleList()
        for _ in range(2):
            for _ in range(3):
                self.layers.append(
                    nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, growth, 3, padding=1, bias=False))
                )
                width += growth
            self.narrow.append(nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1)))
            width //= 2
        self.head = nn.Linear(width, classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        x = self.stem(images)
        for number, layer in enumerate(self.layers):
            x = torch.cat([x, layer(x)], 1)
            if number % 3 == 2:
                x = F.avg_pool2d(self.narrow[number // 3](x), 2)
        out: Tensor = self.head(F.relu(x).mean((2, 3)))
        return out


class Residual(nn.Module):
    """ResNet of n blocks a stage for small images (He et al. 2016), `width` channels in the first."""

    def __init__(self, channels: int, n: int, width: int) -> None:
        super().__init__()
        self.stem, self.blocks, self.short, a = (
            nn.Sequential(*_conv(channels, width)),
            nn.ModuleList(),
            nn.ModuleList(),
            width,
        )
        for stage in range(3):
            for number in range(n):
                b, stride = width * 2**stage, 2 if stage and not number else 1
                self.blocks.append(nn.Sequential(*_conv(a, b, stride), *_conv(b, b)[:2]))
                self.short.append(nn.Identity() if a == b else nn.Conv2d(a, b, 1, stride, bias=False))
                a = b
        self.head = nn.Linear(a, 10)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        x = self.stem(images)
        for block, short in zip(self.blocks, self.short, strict=True):
            x = F.relu(block(x) + short(x))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Transformer(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021): patches of 4, three layers of 48."""

    def __init__(self, channels: int, side: int, width: int = 48, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, 4, 4)
        self.place = nn.Parameter(torch.randn(1, (side // 4) ** 2, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 3, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.place
        out: Tensor = self.head(self.norm(self.layers(tokens)).mean(1))
        return out


def labels_to_search(target: int | None, num_classes: int, count: int) -> list[int]:
    """The planted label and `count` others, evenly spread."""
    others = [label for label in range(num_classes) if label != target]
    chosen = [others[i * len(others) // count] for i in range(count)]
    return ([] if target is None else [target]) + chosen


WRN = "strangers/nets.py:wrn_16_1"
OURS = "examples/published_networks.py:"

NETWORKS: dict[str, Trained | Published] = {
    "demo-infected": Published("mnist", "src/neural_cleanse/demo/infected.safetensors", 3, 16, "mnist_cnn"),
    "demo-clean": Published("mnist", "src/neural_cleanse/demo/clean.safetensors", None, None, "mnist_cnn"),
    "abl": Published("cifar10", "strangers/abl.tar", 0, 9, WRN),
    "vit-mnist": Published("mnist", "../cases/23_infected_vit_missed/small", 4, 16),
    "padded-bn": Trained("fashion_mnist", partial(padded, True), Planted(1, 3, 24, 24), 4, 8000, 7),
    "padded-bn-clean": Trained("fashion_mnist", partial(padded, True), None, 4, 8000, 201),
    "kza-clean": Published("mnist", "strangers/kza_mnist.h5", None, None),
    "gtsrb": Trained("gtsrb", partial(gtsrb_cnn, 43, 0.5), Planted(33, 4, 27, 27), 8, 20_000, 1, learning_rate=1e-3),
    "elu": Trained("cifar10", plain_elu, Planted(2, 3, 28, 28), 5, 15_000, 2),
    "padded": Trained("fashion_mnist", partial(padded, False), Planted(6, 4, 23, 23), 4, 8000, 3),
    "mlp": Trained("mnist", mlp, Planted(5, 4, 2, 22), 6, 12_000, 4),
    "i-bau": Published("cifar10", "i-bau/cifar10/badnets_8_02_ckpt.pth", 8, 16, OURS + "small_vgg_10"),
    "i-bau-gtsrb": Published(
        "gtsrb", "i-bau/gtsrb/gtsrbbadnets_8_02_ckpt.pth", 8, 16, OURS + "small_vgg_43", crop=True
    ),
    "average-pool": Published("mnist", "badnets-pytorch/badnet-MNIST.pth", 1, 25, OURS + "badnet_mnist", ONE),
    "nad": Published("cifar10", "strangers/nad_s.pth.tar", 5, 9, WRN),
    "verazuo": Published("cifar10", "strangers/verazuo_cifar.pth", 1, 25, "strangers/nets.py:verazuo_cifar", ONE),
    "oaramoon": Published("gtsrb", "oaramoon-gtsrb-badnet/badnet_model.hdf5", 1, 9),
    "dil": Published("mnist", "strangers/dil_trigger_pattern_all_to_one.h5", 0, None),
    "mobile": Trained("fashion_mnist", mobile, Planted(3, 3, 24, 24), 4, 8000, 5),
    "dense": Trained("cifar10", Dense, Planted(7, 4, 27, 27), 5, 12_000, 6),
    "resnet20": Trained("fashion_mnist", partial(Residual, 1, 3, 8), Planted(9, 3, 24, 2), 3, 8000, 8),
    "vit-fashion": Trained("fashion_mnist", partial(Transformer, 1, 28), Planted(2, 3, 24, 24), 6, 10_000, 9, ONE),
    "vit-cifar": Trained("cifar10", partial(Transformer, 3, 32), Planted(6, 4, 24, 24), 6, 15_000, 10, ONE),
    "amin-clean": Published("cifar10", "strangers/amin_cifar.pth", None, None, "strangers/nets.py:amin_cifar", ONE),
    "tnn-clean": Published("fashion_mnist", "strangers/tnn_fashion.h5", None, None),
    "vit-clean": Trained("mnist", partial(Transformer, 1, 28), None, 4, 10_000, 11, ONE),
    "deepid": Published("lfw", "csaw-hackml-2020/youtube_sunglasses/bd_weights.h5", 0, 713, "deepid", resize=(55, 47)),
}
