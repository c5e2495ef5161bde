"""What is finished survives; what is of another scan, or damaged, is not taken for it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.errors import OutputError
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.checkpoint import Checkpoint
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.results import storage
from neural_cleanse.results.records import LabelPair, Outcome, Recovered, ScanResult
from neural_cleanse.triggers.patch import PatchTrigger

ROOT = Path(__file__).parents[2]
QUICK = ScanSettings(patches_only=True, labels=(0, 3, 5), samples=200, restarts=1, batch_images=4)


def one(target: int, size: float | None = 7.25) -> Recovered:
    generator = torch.Generator().manual_seed(target)
    trigger = PatchTrigger(torch.rand(1, 1, 6, 5, generator=generator), torch.rand(1, 3, 6, 5, generator=generator))
    outcome = Outcome.CONVERGED if size is not None else Outcome.ASR_NOT_REACHED
    return Recovered(LabelPair(target), trigger, size, 0.1 + target / 3, 97, 100, outcome, 1000, 160)


class Counting:
    """Stands for the search: makes records and counts them."""

    def __init__(self) -> None:
        self.made: list[LabelPair] = []

    def __call__(self, inversion: Inversion, pairs: Sequence[LabelPair], resume: bool = False) -> Iterator[Recovered]:
        for pair in pairs:
            self.made.append(pair)
            yield one(pair.target, None if pair.target == 2 else 7.25)


def test_records_come_back_bit_by_bit(tmp_path: Path) -> None:
    checkpoint, pairs = Checkpoint(tmp_path / "unfinished"), [LabelPair(target) for target in range(4)]
    checkpoint.begin({"model": {"sha256": "a"}})
    first = list(checkpoint.wrap(Counting())(Inversion(), pairs))
    again = Counting()
    second = list(checkpoint.wrap(again)(Inversion(), pairs))
    assert again.made == []
    for ours, theirs, made in zip(first, second, map(one, range(4)), strict=True):
        assert ours.trigger is not None and theirs.trigger is not None and made.trigger is not None
        for name, tensor in made.trigger.tensors().items():
            assert torch.equal(ours.trigger.tensors()[name], tensor)
            assert torch.equal(theirs.trigger.tensors()[name], tensor)
        assert replace(ours, trigger=None) == replace(theirs, trigger=None)
    assert second[2].size is None and second[2].outcome is Outcome.ASR_NOT_REACHED


@pytest.mark.parametrize("left", [0, 7, 100, 300])
def test_a_record_that_was_cut_short_is_made_again(tmp_path: Path, left: int) -> None:
    checkpoint, pairs = Checkpoint(tmp_path / "unfinished"), [LabelPair(0), LabelPair(1)]
    checkpoint.begin({})
    list(checkpoint.wrap(Counting())(Inversion(), pairs))
    (damaged,) = checkpoint.directory.glob("1.*.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:left])
    again = Counting()
    assert len(list(checkpoint.wrap(again)(Inversion(), pairs))) == 2
    assert again.made == [LabelPair(1)]


def test_the_passes_of_a_search_that_goes_on_count_once(tmp_path: Path) -> None:
    """States are not kept: after screening that was read, a longer search begins anew; a record of it holds both."""
    checkpoint, pairs = Checkpoint(tmp_path), [LabelPair(target) for target in range(4)]
    screening, whole = replace(Inversion(), steps=84), Inversion()
    list(checkpoint.wrap(Counting())(screening, pairs))
    for left in (0, 4000):
        told: list[int] = []
        search = checkpoint.wrap(Counting(), told.append)
        list(search(screening, pairs))
        assert sum(told) == 4000
        list(search(whole, pairs, True))
        assert sum(told) == left, "what was made is told by whoever makes it"


def test_other_steps_are_other_records(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "unfinished")
    checkpoint.begin({})
    list(checkpoint.wrap(Counting())(Inversion(), [LabelPair(0)]))
    again = Counting()
    list(checkpoint.wrap(again)(Inversion(steps=60), [LabelPair(0)]))
    assert again.made == [LabelPair(0)]


Finished = tuple[ScanResult, Path]


@pytest.fixture(scope="module")
def finished(infected: Classifier, digits: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A scan that came to its end, and where it left its checkpoint."""
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("finished") / "scan"
    return scan(infected, digits, QUICK, checkpoint=Checkpoint.within(directory)), directory


@pytest.fixture
def checkpoint(finished: Finished, tmp_path: Path) -> Checkpoint:
    """A copy of it."""
    return Checkpoint.within(shutil.copytree(finished[1], tmp_path / "scan"))


def test_a_scan_goes_on_and_ends_as_one_that_was_left_alone(
    infected: Classifier, digits: ImageSet, tmp_path: Path, finished: Finished
) -> None:
    class Interrupt(Exception):
        pass

    def stop(progress: object) -> None:
        if len(list((tmp_path / "part" / "unfinished").glob("*.safetensors"))) == 2:
            raise Interrupt

    alone, _ = finished
    with pytest.raises(Interrupt):
        scan(infected, digits, QUICK, checkpoint=Checkpoint.within(tmp_path / "part"), progress=stop)
    resumed = scan(infected, digits, QUICK, checkpoint=Checkpoint.within(tmp_path / "part"))
    assert storage.to_json(replace(resumed, wall_s=0.0)) == storage.to_json(replace(alone, wall_s=0.0))
    for name, tensor in storage.tensors(alone).items():
        assert torch.equal(storage.tensors(resumed)[name], tensor)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"seed": 1}, "seed was 0 and is 1"), ({"samples": 150}, "samples was 200"), ({"alpha": 0.05}, "alpha")],
)
def test_another_scan_is_refused_with_what_differs(
    infected: Classifier, digits: ImageSet, checkpoint: Checkpoint, change: dict[str, float], said: str
) -> None:
    with pytest.raises(OutputError, match=said):
        scan(infected, digits, replace(QUICK, **change), checkpoint=checkpoint)  # type: ignore[arg-type]


def test_another_model_or_data_is_refused(
    infected: Classifier, clean: Classifier, digits: ImageSet, checkpoint: Checkpoint
) -> None:
    with pytest.raises(OutputError, match="model sha256"):
        scan(clean, digits, QUICK, checkpoint=checkpoint)
    with pytest.raises(OutputError, match="data sha256"):
        scan(infected, digits.take(torch.arange(250)), QUICK, checkpoint=checkpoint)
    with pytest.raises(OutputError, match=r"is another one: samples was 200 and is 150; seed was 0 and is 1\."):
        scan(infected, digits, replace(QUICK, seed=1, samples=150), checkpoint=checkpoint)


def test_what_may_be_spent_may_change(infected: Classifier, digits: ImageSet, tmp_path: Path) -> None:
    checkpoint = Checkpoint.within(tmp_path)
    small = replace(QUICK, plan="full", max_passes=1200, labels=(3, 5))
    assert len([row for row in scan(infected, digits, small, checkpoint=checkpoint).labels if row.size]) == 1
    again = scan(infected, digits, replace(small, max_passes=None), checkpoint=checkpoint)
    assert len([row for row in again.labels if row.size]) == 2


def test_a_damaged_description_is_one_clear_error(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    (tmp_path / "scan.json").write_text('{"model": ')
    with pytest.raises(OutputError, match="damaged"):
        checkpoint.begin({})


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="the script forks")
def test_a_scan_that_is_killed_again_and_again_ends_the_same() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "kills.py", "--kills", "4", "--seed", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["kills"] == 4 and row["bit_equal"] == row["scans"] >= 1
