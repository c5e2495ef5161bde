"""Jobs over a Ray cluster: two nodes on this machine, one of them killed in mid-work. Alone: pytest -m ray."""

import functools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shell import run

from neural_cleanse import engine_ray
from neural_cleanse.classifier import Classifier
from neural_cleanse.engine_ray import RayEngine
from neural_cleanse.engines import InProcess
from neural_cleanse.errors import SettingsError, WorkerLost
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.batching import BatchScheduler
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.memory import BatchLimit
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.results import storage
from neural_cleanse.results.records import LabelPair, Recovered, ScanResult

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with one core each, which find this checkout."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # not 15: on a busy machine a worker would take a minute to start
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        started.add_node(num_cpus=1)
        yield started
        started.shutdown()


@pytest.fixture
def engine(cluster: Any) -> RayEngine:
    return RayEngine(cluster.address)


class Telling:
    """An argument that counts how often it is pickled."""

    pickled = 0

    def __reduce__(self) -> tuple[type["Telling"], tuple[()]]:
        Telling.pickled += 1
        return Telling, ()


def square(_: Telling, number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    raise SettingsError(f"no {number}", cure="Ask for less.")


def fail(_: int) -> int:
    raise ValueError("a fault of ours")


def die(_: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def sleep(started: Path) -> None:
    started.write_text(str(os.getpid()))
    time.sleep(600)


def invert(
    inversion: Inversion, classifier: Classifier, images: ScanImages, notes: Path | None, pairs: tuple[LabelPair, ...]
) -> tuple[Recovered, ...]:
    """What a scan does with some of its labels; with `notes`, it says there which node began and ended it."""
    if notes is not None:
        import ray

        node = ray.get_runtime_context().get_node_id()
        note = notes / f"{node}.{pairs[0].target}"
        note.with_suffix(f"{note.suffix}.began").touch()
    found = tuple(BatchScheduler(classifier, images, BatchLimit(128))(inversion, pairs))
    if notes is not None:
        note.with_suffix(f"{note.suffix}.ended").touch()
    return found


def by_pair(results: list[tuple[Recovered, ...]]) -> dict[LabelPair, tuple[Any, ...]]:
    """Everything that was found, comparable to the last bit."""
    return {
        found.pair: (
            *(found.size, found.hits, found.trials, found.outcome, found.image_passes),
            *(tensor.numpy().tobytes() for tensor in (found.trigger.tensors().values() if found.trigger else ())),
        )
        for result in results
        for found in result
    }


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_without_ray_the_error_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'neural-cleanse\[ray\]'"):
        list(RayEngine().map(refuse, [1]))


@pytest.mark.ray
@pytest.mark.parametrize(
    ("address", "said"),
    [("ray://head:10001", "no address"), ("head", "no address"), ("127.0.0.1:9", "Cannot connect to")],
)
def test_an_address_where_no_cluster_is_fails_at_once(address: str, said: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(SettingsError, match=said):
        list(RayEngine(address).map(refuse, [1]))


@pytest.mark.ray
def test_every_job_has_its_result_and_the_shared_argument_travels_once(engine: RayEngine) -> None:
    Telling.pickled = 0
    assert sorted(engine.map(functools.partial(square, Telling()), range(6))) == [0, 1, 4, 9, 16, 25]
    assert Telling.pickled == 1


@pytest.mark.ray
def test_an_error_of_a_job_reaches_the_caller(engine: RayEngine) -> None:
    with pytest.raises(SettingsError, match="no 3") as truncated:
        list(engine.map(refuse, [3]))
    assert truncated.value.cure == "Ask for less."
    with pytest.raises(ValueError, match="a fault of ours"):
        list(engine.map(fail, [0]))


@pytest.mark.ray
def test_a_job_that_loses_every_process_is_one_clear_error(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_ray, "RETRIES", 0)
    with pytest.raises(WorkerLost, match="lost 1 times"):
        list(engine.map(die, [0]))


@pytest.mark.ray
def test_a_node_with_another_version_is_told_apart(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_ray, "_versions", lambda: ("0.0.0", "1.0"))
    with pytest.raises(SettingsError, match=r"here they are 0\.0\.0 and 1\.0"):
        list(engine.map(refuse, [0]))


@pytest.mark.ray
def test_a_gpu_that_no_node_has_is_not_waited_for(cluster: Any) -> None:
    with pytest.raises(SettingsError, match="no node"):
        list(RayEngine(cluster.address, num_gpus=1).map(refuse, [0]))


@pytest.mark.ray
def test_an_interrupted_caller_leaves_nothing_running(engine: RayEngine, tmp_path: Path) -> None:
    results = engine.map(sleep_or_square, [tmp_path / "a", None, tmp_path / "b", tmp_path / "c"])
    next(results)
    started = [tmp_path / "a", tmp_path / "b"]
    wait_until(lambda: all(path.exists() and path.read_text() for path in started))
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt)
    for path in started:
        wait_until(lambda path=path: not Path(f"/proc/{path.read_text()}/cwd").exists())  # type: ignore[misc]


def sleep_or_square(started: Path | None) -> None:
    if started is not None:
        sleep(started)


@pytest.mark.ray
def test_a_node_killed_in_mid_scan_changes_no_bit_of_the_result(
    cluster: Any, infected: Classifier, digits: ImageSet, tmp_path: Path
) -> None:
    lost = cluster.add_node(num_cpus=1)
    images = ScanImages.of(infected, digits, 0)
    jobs = [(LabelPair(target),) for target in range(6)]
    work = functools.partial(invert, Inversion(restarts=1, steps=60), infected, images)
    here = by_pair(list(InProcess().map(functools.partial(work, None), jobs)))

    def begun_not_ended() -> bool:
        began = {path.stem for path in tmp_path.glob(f"{lost.node_id}*.began")}
        return bool(began - {path.stem for path in tmp_path.glob(f"{lost.node_id}*.ended")})

    results = RayEngine(cluster.address).map(functools.partial(work, tmp_path), jobs)
    found = [next(results)]
    wait_until(begun_not_ended)
    cluster.remove_node(lost, allow_graceful=False)
    found += results

    assert by_pair(found) == here
    assert len(list(tmp_path.glob("*.began"))) > len(jobs), "no job ran twice: the node was killed too late"


@pytest.mark.ray
def test_a_model_scanned_on_a_node_gets_the_answer_that_it_gets_here(
    cluster: Any, demo_files: Path, found: ScanResult, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    shutil.copy(demo_files / "infected.safetensors", tmp_path / "models")
    (tmp_path / "models" / "bad.onnx").write_text("no model")
    data = ("--data", demo_files / "digits.npz", "--samples", 400, "--restarts", 1)
    there = ("--engine", "ray", "--address", cluster.address, "--output", tmp_path / "out", "--json")
    ran = run("scan", "--patches-only", tmp_path / "models", *data, *there)
    assert ran.code == 1, ran.err
    assert [(row["name"], row["verdict"]) for row in json.loads(ran.out)] == [
        ("bad.onnx", "error"), ("infected.safetensors", "infected"),
    ]  # fmt: skip
    result = storage.load_result(tmp_path / "out" / "infected.safetensors")
    assert storage.to_json(result)["labels"] == storage.to_json(found)["labels"]
