"""Scan, repair and guard a model of your own: replace `my_model` and `my_images` by what you have.

python examples/scan_my_model.py out/
"""

import sys
from importlib.resources import as_file, files
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

import neural_cleanse as nc


def my_model() -> torch.nn.Module:
    """Any module: here the demo's infected digit classifier."""
    with as_file(files("neural_cleanse.demo")) as demo:
        return nc.load(demo / "infected.safetensors").classifier.module


def my_images() -> DataLoader[tuple[torch.Tensor, ...]]:
    """Any loader of clean images: here the demo's digits, as floats in [0, 1]."""
    with as_file(files("neural_cleanse.demo")) as demo:
        digits = nc.load_data(demo / "digits.npz")
    assert digits.labels is not None
    return DataLoader(TensorDataset(digits.images / 255, digits.labels), batch_size=64, shuffle=True)


def main(output: Path) -> None:
    model, loader = my_model(), my_images()
    result = nc.scan(model, loader, progress=True)
    print(result)
    result.save(output / "scan")
    if not result.flagged:
        return
    repaired = nc.repair(model, result, loader)
    print(repaired)
    if repaired.repaired:
        repaired.save(output / "fixed.safetensors")
    guard = nc.fit_guard(model, result, loader)
    print(guard)
    guard.save(output / "guard")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
