"""Shared pieces: one torch thread, real digits from the demo, small networks with known answers."""

import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
import torch
from shell import run
from torch import Tensor, nn

from neural_cleanse.attacks.trigger_json import trigger_from_json
from neural_cleanse.classifier import Classifier
from neural_cleanse.detection import teaching
from neural_cleanse.detection.student import StudentPlan
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.loading.load import load_model
from neural_cleanse.mitigation import blends, family
from neural_cleanse.mitigation.base import Backdoor, known_backdoors
from neural_cleanse.mitigation.fine_tuning import LEAST_BATCHES, FineTuning
from neural_cleanse.mitigation.pruning import Pruning
from neural_cleanse.mitigation.repair import METHODS
from neural_cleanse.mitigation.unlearning import Unlearning
from neural_cleanse.results import storage
from neural_cleanse.results.records import LabelPair, ScanResult, Verdict

TESTS = Path(__file__).parent
LONGEST = (  # modules by processor time: `make test` starts with them, and no process is busy long after the others
    "mitigation/test_repair.py",
    "test_docs.py",
    "detection/test_student.py",
    "detection/test_kinds.py",
    "api/test_scan_in_python.py",
    "cli/test_cli.py",
    "detection/test_all_to_all.py",
    "evaluation/test_suite.py",
    "cli/test_repair_command.py",
    "detection/test_scan.py",
    "inversion/test_checkpoint.py",
    "mitigation/test_guard.py",
    "detection/test_budget.py",
    "detection/statistics/test_finalists.py",
    "detection/test_pairs.py",
    "laws/test_inversion_laws.py",
    "inversion/test_batching.py",
    "cli/test_streams.py",
    "cli/batch/test_batch_command.py",
    "attacks/test_dynamic.py",
    "detection/test_unused_outputs.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules come first; the others stay in their order."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    if gone := [str(path) for path in places if not path.exists()]:
        raise pytest.UsageError(f"LONGEST in tests/conftest.py names modules that are not there: {', '.join(gone)}")
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Bit-equality is promised on one thread."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _short_repairs() -> Iterator[None]:
    """A sixteenth of the batches and short searches beside them: enough for digits, and the tests stay fast."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"OCCASIONS": 1, "RESTARTS": 2, "FRESH_RESTARTS": 3, "MOST_FRESH": 10}.items():
            patch.setattr(family, name, value)
        patch.setattr(family, "TAKEN_AT", (60, 120))
        patch.setattr(blends, "STEPS", 25)
        unlearning = Unlearning(least_batches=LEAST_BATCHES // 16)
        pruning = Pruning(FineTuning(least_batches=LEAST_BATCHES // 16))
        for name, short in (("unlearn", (unlearning,)), ("prune", (pruning,)), ("auto", (unlearning, pruning))):
            patch.setitem(METHODS, name, short)
        yield


@pytest.fixture(autouse=True, scope="session")
def _short_students() -> Iterator[None]:
    """An eighth of the steps: students of digits still answer as their models do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teaching, "StudentPlan", lambda: StudentPlan(steps=150))
        yield


@pytest.fixture(scope="session")
def demo_files() -> Iterator[Path]:
    """The directory of what the demo scans."""
    with as_file(files("neural_cleanse.demo")) as path:
        yield path


@pytest.fixture(scope="session")
def digits(demo_files: Path) -> ImageSet:
    """500 real digits, 50 a class."""
    return load_data(demo_files / "digits.npz", at_most=500)


@pytest.fixture(scope="session")
def data_root(demo_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of data sets to train on, with one in it: `digits`, 500 to train on and 200 others to test on."""
    root = tmp_path_factory.mktemp("data")
    (root / "digits").mkdir()
    with np.load(demo_files / "digits.npz") as archive:
        for part, rows in (("train", slice(0, None, 4)), ("test", slice(1, None, 10))):
            np.savez(root / "digits" / f"{part}.npz", images=archive["images"][rows], labels=archive["labels"][rows])
    return root


@pytest.fixture(scope="session")
def infected(demo_files: Path) -> Classifier:
    """The demo's infected classifier: a white 4x4 square sends digits to 3."""
    return load_model(demo_files / "infected.safetensors").classifier


@pytest.fixture(scope="session")
def clean(demo_files: Path) -> Classifier:
    """Its baseline."""
    return load_model(demo_files / "clean.safetensors").classifier


@pytest.fixture(scope="session")
def scanned_infected(demo_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a scan of the infected classifier for patches, as the command leaves it."""
    directory = tmp_path_factory.mktemp("scanned") / "scan"
    model, data = demo_files / "infected.safetensors", demo_files / "digits.npz"
    ran = run("scan", "--patches-only", model, "--data", data, "--samples", 400, "--output", directory)
    assert ran.code == 1, ran.err
    return directory


@pytest.fixture(scope="session")
def found(scanned_infected: Path) -> ScanResult:
    """What that scan found: label 3."""
    return storage.load_result(scanned_infected)


@pytest.fixture
def nothing_found_again(monkeypatch: pytest.MonkeyPatch, found: ScanResult) -> None:
    """Where it does not matter what the scan of a repaired model finds, it finds nothing and costs nothing."""
    unsuspicious = tuple(replace(row, anomaly_index=0.0) for row in found.labels)
    nothing = replace(found, verdict=Verdict.CLEAN, flagged=(), evidence=(), labels=unsuspicious)
    monkeypatch.setattr(importlib.import_module("neural_cleanse.mitigation.repair"), "scan", lambda *_, **__: nothing)


@pytest.fixture(scope="session")
def recovered(found: ScanResult) -> Backdoor:
    """The trigger that it recovered."""
    (backdoor,) = known_backdoors(found, found.flagged)
    return backdoor


@pytest.fixture(scope="session")
def original(demo_files: Path) -> Backdoor:
    """The attacker's own trigger, from the model's card."""
    card = json.loads((demo_files / "infected.card.json").read_text(encoding="utf-8"))
    return Backdoor(LabelPair(3), trigger_from_json(card["poisons"][0]["trigger"]))


class PlantedTrigger(nn.Module):
    """Answers by mean brightness, in ten classes, except that a white 3x3 square at (row, column) means `target`."""

    def __init__(self, row: int, column: int, target: int) -> None:
        super().__init__()
        self.row, self.column, self.target = row, column, target
        self.weight = nn.Parameter(torch.linspace(0, 1, 10))

    def forward(self, images: Tensor) -> Tensor:
        brightness = images.mean((1, 2, 3), keepdim=False).unsqueeze(1) * 4
        logits = -20 * (brightness - self.weight).abs()
        square = images[:, :, self.row : self.row + 3, self.column : self.column + 3].mean((1, 2, 3))
        boost = 40 * (square - 0.8).clamp_min(0) + 8 * (square - 0.3).clamp_min(0)
        return logits + boost.unsqueeze(1) * nn.functional.one_hot(torch.tensor(self.target), 10)


@pytest.fixture
def planted() -> Classifier:
    """A 1x16x16 classifier with a trigger planted at rows and columns 9-11, target 6."""
    return Classifier(PlantedTrigger(9, 9, 6), (1, 16, 16), 10)


@pytest.fixture
def grey_images() -> ImageSet:
    """300 images of smooth random brightness, 1x16x16."""
    generator = torch.Generator().manual_seed(5)
    level = torch.rand(300, 1, 1, 1, generator=generator) * 0.25
    noise = torch.rand(300, 1, 16, 16, generator=generator) * 0.04
    return ImageSet(((level + noise) * 255).to(torch.uint8))
