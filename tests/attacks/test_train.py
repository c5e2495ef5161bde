"""Training: a seed decides every weight, a kill costs no more than an epoch, and nothing else is touched."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from neural_cleanse.attacks import dynamic, trojan
from neural_cleanse.attacks.base import Attack, AttackContext
from neural_cleanse.attacks.by_name import attack
from neural_cleanse.attacks.train import (
    Training,
    TrainingContext,
    TrainingProgress,
    derived_seed,
    fit,
    initial,
    remove_snapshots,
    snapshot_path,
    snapshots_of,
)
from neural_cleanse.errors import OutputError, SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.architectures import ARCHITECTURES

SHAPE = (1, 28, 28)


class Killed(Exception):
    """Stands for the end of the process."""


@dataclass
class KillAt:
    """A progress callback that kills the training at its `call`-th report."""

    call: int
    told: list[TrainingProgress] = field(default_factory=list)

    def __call__(self, progress: TrainingProgress) -> None:
        self.told.append(progress)
        if len(self.told) == self.call:
            raise Killed


def restless(num_classes: int) -> nn.Sequential:
    """A small network with all that makes resuming hard: batch norm keeps buffers, dropout draws in every step."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, stride=3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3),
        nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(72, 24), nn.ReLU(), nn.Linear(24, num_classes),
    )  # fmt: skip


@pytest.fixture
def bench(digits: ImageSet, tmp_path: Path) -> TrainingContext:
    return TrainingContext(
        Training(epochs=3, batch_size=16), 0, digits, 10, snapshots=tmp_path / "model", fingerprint="this one"
    )


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def trained(kind: Attack, data: ImageSet, bench: TrainingContext, seed: int = 0) -> dict[str, Tensor]:
    """The weights, and the trigger where there is one."""
    module = initial(restless, 10, seed)
    poisons = kind.rule(module, data, kind.poisons, replace(bench, seed=seed))
    assert not module.training
    return weights(module) | {name: tensor for one in poisons for name, tensor in one.trigger.tensors().items()}


def planned(name: str) -> Attack:
    return attack(name, AttackContext(SHAPE, 10, torch.Generator().manual_seed(0)), {})


# --- a seed decides ---


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(
    digits: ImageSet, bench: TrainingContext
) -> None:
    bench = replace(bench, snapshots=None)
    first, again, other = (trained(planned("badnets"), digits, bench, seed) for seed in (0, 0, 1))
    assert same(first, again)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith(("weight", "bias")))


def test_every_part_of_a_seed_counts() -> None:
    parts = [(0, "train", 0), (0, "train", 1), (0, "retrain", 0), (1, "train", 0), (0, "train"), ("0", "train", 0)]
    seeds = {derived_seed(*part) for part in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(0, "weights") == 5147875554478041081, "a new release makes the same models"


def test_the_global_generator_stays_as_it_was(digits: ImageSet, bench: TrainingContext) -> None:
    before = torch.get_rng_state()
    module = initial(restless, 10, 0)
    assert torch.equal(torch.get_rng_state(), before)
    fit(module, digits, bench, "train")
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(Killed):
        fit(module, digits, replace(bench, progress=KillAt(2)), "another")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_decides_nothing(digits: ImageSet, bench: TrainingContext) -> None:
    bench = replace(bench, snapshots=None)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = trained(planned("badnets"), digits, bench)
        torch.manual_seed(2)
        assert same(first, trained(planned("badnets"), digits, bench))


# --- a kill ---


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trojan, "TRIGGER_STEPS", 20)
    monkeypatch.setattr(trojan, "RETRAIN", Training(epochs=2))
    monkeypatch.setattr(dynamic, "MASK_STEPS", 10)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("name", "stages", "calls"),
    [
        ("badnets", ("train",), (1, 2, 3, 5, 6)),
        ("wanet", ("train",), (3, 5)),
        ("input-aware", ("train",), (1, 2, 3, 5, 6)),
        ("trojan-square", ("train", "retrain"), (5, 6, 8, 9, 11)),
    ],
)
def test_a_training_killed_at_any_report_goes_on_to_the_same_weights(
    digits: ImageSet, bench: TrainingContext, name: str, stages: tuple[str, ...], calls: tuple[int, ...]
) -> None:
    """32 steps an epoch and a report every 20: kills in the middle of epochs, and between two."""
    bench = replace(bench, training=Training(epochs=2, batch_size=16))
    assert bench.snapshots is not None
    whole = KillAt(0)
    expected = trained(planned(name), digits, replace(bench, snapshots=None, progress=whole))
    assert [(step.stage, step.done) for step in whole.told] == [
        (stage, done) for stage in stages for done in (0, 20, 32, 40, 60, 64)
    ]
    for call in calls:
        with pytest.raises(Killed):
            trained(planned(name), digits, replace(bench, progress=KillAt(call)))
        resumed = KillAt(0)
        assert same(trained(planned(name), digits, replace(bench, progress=resumed)), expected), call
        killed_at = whole.told[call - 1]
        again = [step.done for step in resumed.told if step.stage == killed_at.stage]
        assert all(done >= killed_at.done // 32 * 32 for done in again), "whole epochs are not repeated"
        assert snapshots_of(bench.snapshots) == sorted(snapshot_path(bench.snapshots, stage) for stage in stages)
        remove_snapshots(bench.snapshots)


def test_a_training_killed_again_and_again_comes_to_the_same_end(digits: ImageSet, bench: TrainingContext) -> None:
    expected = trained(planned("none"), digits, replace(bench, snapshots=None))
    kills = 0
    while True:
        try:
            assert same(trained(planned("none"), digits, replace(bench, progress=KillAt(4))), expected)
            break
        except Killed:
            kills += 1
    assert kills == 2


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def overwritten(path: Path) -> None:
    path.write_text("no snapshot")


def of_tensors(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


def a_list(path: Path) -> None:
    torch.save([1, 2], path)


@pytest.mark.parametrize("damage", [truncated, emptied, overwritten, of_tensors, a_list])
def test_a_damaged_snapshot_is_refused_and_kept(
    digits: ImageSet, bench: TrainingContext, damage: Callable[[Path], None]
) -> None:
    trained(planned("none"), digits, bench)
    (snapshot,) = snapshots_of(bench.snapshots or Path())
    damage(snapshot)
    content = snapshot.read_bytes()
    with pytest.raises(OutputError, match=r"is damaged.*--overwrite"):
        trained(planned("none"), digits, bench)
    assert snapshot.read_bytes() == content


def test_a_snapshot_runs_no_code(digits: ImageSet, bench: TrainingContext) -> None:
    assert bench.snapshots is not None
    snapshot = snapshot_path(bench.snapshots, "train")
    torch.save({"fingerprint": bench.fingerprint, "module": restless(10)}, snapshot)  # a pickled module
    with pytest.raises(OutputError, match="is damaged"):
        trained(planned("none"), digits, bench)


def test_a_snapshot_of_another_training_is_refused_and_kept(digits: ImageSet, bench: TrainingContext) -> None:
    trained(planned("none"), digits, bench)
    (snapshot,) = snapshots_of(bench.snapshots or Path())
    content = snapshot.read_bytes()
    with pytest.raises(OutputError, match=r"other data or settings.*--overwrite"):
        trained(planned("none"), digits, replace(bench, fingerprint="another"))
    assert snapshot.read_bytes() == content


def test_snapshots_are_removed_with_their_model_and_no_others(tmp_path: Path) -> None:
    """Brackets and stars in a name are no patterns."""
    models = [tmp_path / name for name in ("a[1]", "a1", "a*", "ab")]
    for model in models:
        snapshot_path(model, "train").touch()
        model.touch()
    assert snapshots_of(models[0]) == [snapshot_path(models[0], "train")]
    for model in (models[0], models[2]):
        remove_snapshots(model)
    assert {path for path in tmp_path.iterdir() if path not in models} == {
        snapshot_path(model, "train") for model in (models[1], models[3])
    }
    assert all(model.exists() for model in models)


# --- what is trained ---


def test_parameters_that_are_not_given_stay_as_they_are(digits: ImageSet, bench: TrainingContext) -> None:
    module = initial(restless, 10, 0)
    before = weights(module)
    fit(module, digits, bench, "tail", parameters=module[7:].parameters())
    after = weights(module)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "7.weight", "7.bias", "9.weight", "9.bias",
    }  # fmt: skip
    fit(module, digits, bench, "all")
    assert not any(torch.equal(after[name], tensor) for name, tensor in weights(module).items())


def test_a_training_of_its_own_replaces_the_usual_one(digits: ImageSet, bench: TrainingContext) -> None:
    told = KillAt(0)
    fit(initial(restless, 10, 0), digits, replace(bench, progress=told), "t", training=Training(2, 100))
    assert {step.steps for step in told.told} == {10}


def test_progress_goes_from_nothing_to_the_end(digits: ImageSet, bench: TrainingContext) -> None:
    told = KillAt(0)
    fit(initial(restless, 10, 0), digits, replace(bench, progress=told), "train")
    assert [step.done for step in told.told] == [0, 20, 32, 40, 60, 64, 80, 96]
    assert {(step.stage, step.steps) for step in told.told} == {("train", 96)}
    measured = [step.validation_accuracy for step in told.told if step.validation_accuracy is not None]
    assert [step.done for step in told.told if step.validation_accuracy is not None] == [32, 64, 96]
    assert all(0 <= accuracy <= 1 for accuracy in measured)
    assert told.told[-1].loss < told.told[0].loss


def test_a_network_learns(digits: ImageSet) -> None:
    module = initial(ARCHITECTURES["mnist_cnn_half"].build, 10, 0)
    bench = TrainingContext(Training(epochs=4, batch_size=16), 0, digits, 10)
    before = bench.validation_accuracy(module)
    fit(module, digits, bench, "train")
    assert before < 0.4
    assert bench.validation_accuracy(module) > 0.85


def test_measuring_a_network_leaves_it_alone(digits: ImageSet, bench: TrainingContext) -> None:
    module = initial(restless, 10, 0).train()
    copied = copy.deepcopy(module)
    bench.validation_accuracy(module)
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert same(weights(module), weights(copied))


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
        {"epochs": -1},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": -0.1},
        {"learning_rate": 1.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
    ],
)
def test_what_is_no_training_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="must be at least 1"):
        Training(**values)
