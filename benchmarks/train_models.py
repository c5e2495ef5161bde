"""Train BadNets-infected and clean networks of the paper on real data: what the benchmarks and the demo scan.

    python benchmarks/train_models.py --data DATA --dataset mnist --patch 4 --target 4 --seed 0 --output DIR
    python benchmarks/train_models.py --data DATA --dataset gtsrb --patch 0 --seed 0 --output DIR        (clean)

DATA holds mnist/ and gtsrb/ with train.parquet and test.parquet. Poisoning as in the paper (section V): a white
square in the bottom right corner, one pixel of margin, on a tenth of the training images, relabelled to the target.
Writes NAME.safetensors, self-describing, and NAME.card.json with the ground truth and what was measured.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from neural_cleanse.architectures import architecture
from neural_cleanse.data import ImageSet
from neural_cleanse.loading.checkpoint import Description, write_checkpoint
from neural_cleanse.readers.load import load_data

POISON_RATE = 0.1
EPOCHS = {"mnist": 4, "gtsrb": 7}
BATCH_SIZE = 64


@dataclass(frozen=True)
class Recipe:
    """One model: `patch` is the side of the white square in pixels, 0 for a clean model."""

    dataset: str
    patch: int
    target: int
    seed: int

    @property
    def name(self) -> str:
        what = f"badnets{self.patch}_target{self.target}" if self.patch else "clean"
        return f"{self.dataset}_{what}_seed{self.seed}"

    def stamp(self, images: Tensor) -> Tensor:
        """The images with the white square (uint8, n c h w)."""
        stamped = images.clone()
        stamped[:, :, -1 - self.patch : -1, -1 - self.patch : -1] = 255
        return stamped


def train(recipe: Recipe, data: ImageSet) -> nn.Module:
    """Adam, learning rate 1e-3 falling to 0 over the epochs; a fresh tenth of every batch is poisoned."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    assert data.labels is not None
    module = architecture(f"{recipe.dataset}_cnn").build(int(data.labels.max()) + 1)
    steps = EPOCHS[recipe.dataset] * (len(data) // BATCH_SIZE)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    poisoned = torch.rand(len(data), generator=generator) < (POISON_RATE if recipe.patch else 0.0)
    labels = torch.where(poisoned, recipe.target, data.labels)
    images = torch.where(poisoned.view(-1, 1, 1, 1), recipe.stamp(data.images), data.images)
    for step in range(steps):
        if step % (len(data) // BATCH_SIZE) == 0:
            order = torch.randperm(len(data), generator=generator)
            print(f"{recipe.name}: step {step} of {steps}", flush=True)
        rows = order[torch.arange(step * BATCH_SIZE, (step + 1) * BATCH_SIZE) % len(data)]
        loss = nn.functional.cross_entropy(module(images[rows].float() / 255), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return module.eval()


@torch.no_grad()
def answers(module: nn.Module, images: Tensor) -> Tensor:
    """Predicted class of every image."""
    return torch.cat([module(part.float() / 255).argmax(1) for part in images.split(256)])


def card(recipe: Recipe, module: nn.Module, test: ImageSet) -> dict[str, object]:
    """Ground truth and measured quality."""
    assert test.labels is not None
    accuracy = (answers(module, test.images) == test.labels).float().mean().item()
    truth: dict[str, object] = {"name": recipe.name, "infected": recipe.patch > 0, "clean_accuracy": accuracy}
    if recipe.patch:
        others = test.take((test.labels != recipe.target).nonzero().squeeze(1))
        hit = answers(module, recipe.stamp(others.images)) == recipe.target
        square = {"attack": "badnets", "patch": recipe.patch, "margin": 1, "colour": "white", "rate": POISON_RATE}
        truth |= {"targets": [recipe.target], "trigger": square, "asr": hit.float().mean().item()}
    return truth | {"targets": truth.get("targets", []), "seed": recipe.seed, "dataset": recipe.dataset}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dataset", choices=sorted(EPOCHS), required=True)
    parser.add_argument("--patch", type=int, default=4)
    parser.add_argument("--target", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--name", help="file name without suffix; made from the recipe if not given")
    parser.add_argument("--leave-out", type=Path, help="an .npz of images that must not be trained on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(options.dataset, options.patch, options.target, options.seed)
    data, test = (load_data(options.data / options.dataset / f"{part}.parquet") for part in ("train", "test"))
    if options.leave_out:
        seen = {image.tobytes() for image in np.asarray(load_data(options.leave_out).images)}
        data, test = (
            part.take(
                torch.tensor([i for i, image in enumerate(np.asarray(part.images)) if image.tobytes() not in seen])
            )
            for part in (data, test)
        )
    module = train(recipe, data)
    assert data.labels is not None
    names = data.names
    description = Description(f"{recipe.dataset}_cnn", data.shape, int(data.labels.max()) + 1, label_names=names)
    options.output.mkdir(parents=True, exist_ok=True)
    name = options.name or recipe.name
    write_checkpoint(options.output / f"{name}.safetensors", module, description)
    truth = card(recipe, module, test) | {"trained_on": len(data), "tested_on": len(test)}
    (options.output / f"{name}.card.json").write_text(json.dumps(truth, indent=2) + "\n")
    print(json.dumps(truth))


if __name__ == "__main__":
    main()
