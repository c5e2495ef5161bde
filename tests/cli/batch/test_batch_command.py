"""`scan` of a batch as a script sees it: exit codes, streams, files, and a second run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shell import Ran, files_under, run

from neural_cleanse.cli import recorded
from neural_cleanse.cli.batch.progress import BatchProgress, Note
from neural_cleanse.cli.batch.run import EngineOptions, ScanJob, exit_code
from neural_cleanse.cli.exit_codes import FailOn
from neural_cleanse.cli.inputs import InputOptions
from neural_cleanse.cli.options import EngineName, Inputs
from neural_cleanse.detection.progress import Progress
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.engine_ray import RayEngine
from neural_cleanse.engines import Processes
from neural_cleanse.images import ImageSet
from neural_cleanse.report.batch import BatchRow
from neural_cleanse.results.records import Verdict


@pytest.fixture(scope="module")
def collection(demo_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models of the demo, and a file that is none."""
    directory = tmp_path_factory.mktemp("batch")
    for name in ("infected.safetensors", "clean.safetensors", "clean.card.json"):
        shutil.copy(demo_files / name, directory)
    (directory / "bad.onnx").write_text("no model")
    return directory


@pytest.fixture(scope="module")
def asked(demo_files: Path) -> tuple[object, ...]:
    return ("--data", demo_files / "digits.npz", "--patches-only", "--samples", 300, "--device", "cpu")


@pytest.fixture(scope="module")
def scanned(collection: Path, asked: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Path]:
    output = tmp_path_factory.mktemp("scanned") / "out"
    return run("scan", collection, *asked, "--workers", 2, "--output", output), output


def test_a_batch_has_a_row_a_model_and_the_worst_decides(scanned: tuple[Ran, Path]) -> None:
    ran, output = scanned
    assert ran.code == 1, ran.err
    lines = ran.out.splitlines()
    assert [line.split()[0] for line in lines[3:] if line[:1].strip()][:3] == [
        "infected.safetensors",
        "bad.onnx",
        "clean.safetensors",
    ]
    assert lines[0] == "3 models: 1 infected, 1 error, 1 clean"
    assert ran.err.count(" of 3  ") == 3
    summary: dict[str, Any] = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    assert summary["finished"] is True
    assert {model["name"]: model["verdict"] for model in summary["models"]} == {
        "bad.onnx": "error",
        "clean.safetensors": "clean",
        "infected.safetensors": "infected",
    }
    assert {path.name for path in output.iterdir()} == {
        "index.html", "summary.json", "clean.safetensors", "infected.safetensors"
    }  # fmt: skip


def test_every_result_of_a_batch_keeps_the_options(scanned: tuple[Ran, Path], demo_files: Path) -> None:
    for name in ("clean.safetensors", "infected.safetensors"):
        inputs, data = recorded.completed(Inputs(), None, scanned[1] / name)
        assert (inputs, data) == (Inputs(), demo_files / "digits.npz")


def test_a_model_of_a_batch_gets_the_answer_that_it_gets_alone(
    scanned: tuple[Ran, Path], collection: Path, asked: tuple[object, ...]
) -> None:
    alone = json.loads(run("scan", collection / "infected.safetensors", *asked, "--json").out)
    there = json.loads((scanned[1] / "infected.safetensors" / "scan.json").read_text(encoding="utf-8"))
    assert there["labels"] == alone["labels"]
    assert there["provenance"]["command"].startswith("neural-cleanse scan ")


def test_a_repeated_run_keeps_what_is_finished(
    scanned: tuple[Ran, Path], collection: Path, asked: tuple[object, ...]
) -> None:
    output = scanned[1]
    before = files_under(output / "clean.safetensors")
    ran = run("scan", collection, *asked, "--output", output, "--resume", "--json")
    assert ran.code == 1, ran.err
    rows = json.loads(ran.out)
    assert [(row["name"], row["kept"]) for row in rows] == [
        ("bad.onnx", False), ("clean.safetensors", True), ("infected.safetensors", True)
    ]  # fmt: skip
    assert files_under(output / "clean.safetensors") == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--resume",), "Add --output"),
        (("--address", "host:1"), "Add --engine ray"),
        (("--engine", "ray", "--workers", 2), "Ray knows its own cores"),
    ],
)
def test_options_that_do_not_fit_each_other(
    collection: Path, asked: tuple[object, ...], more: tuple[object, ...], said: str
) -> None:
    ran = run("scan", collection, *asked, *more)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_an_occupied_output_is_refused(scanned: tuple[Ran, Path], collection: Path, asked: tuple[object, ...]) -> None:
    ran = run("scan", collection, *asked, "--output", scanned[1])
    assert ran.code == 2 and "not empty" in ran.err


def test_a_batch_without_a_model_is_an_error(tmp_path: Path, asked: tuple[object, ...]) -> None:
    ran = run("scan", tmp_path, *asked)
    assert ran.code == 2 and "no model in" in ran.err


def row(verdict: Verdict | None) -> BatchRow:
    return BatchRow("x", "x", verdict=verdict, error=None if verdict else "broken")


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ((Verdict.CLEAN, Verdict.INCONCLUSIVE, None, Verdict.INFECTED), 1),
        ((Verdict.CLEAN, Verdict.INCONCLUSIVE, None), 2),
        ((Verdict.CLEAN, Verdict.INCONCLUSIVE), 3),
        ((Verdict.CLEAN,), 0),
    ],
)
def test_infected_over_error_over_inconclusive_over_clean(verdicts: tuple[Verdict | None, ...], code: int) -> None:
    assert exit_code([row(verdict) for verdict in verdicts], FailOn.inconclusive) == code
    calm = exit_code([row(verdict) for verdict in verdicts], FailOn.infected)
    assert calm == (0 if code == 3 else code)


def test_whatever_could_change_an_answer_changes_the_key(digits: ImageSet, tmp_path: Path) -> None:
    code = tmp_path / "net.py"
    code.write_text("v = 1")
    order = ScanJob(
        digits,
        tmp_path,
        InputOptions(f"{code}:make"),
        ScanSettings(patches_only=True),
        "cpu",
        None,
        "neural-cleanse scan",
    )
    keys = {
        order.key(),
        replace(order, settings=ScanSettings(patches_only=True, seed=1)).key(),
        replace(order, form=replace(order.form, allow_code=True)).key(),
        replace(order, images=digits.without_labels()).key(),
    }
    assert replace(order, command="again", device="cuda").key() in keys
    code.write_text("v = 2")
    assert len(keys | {order.key()}) == 5


def test_a_gpu_gets_one_process_and_a_ray_task_asks_for_one() -> None:
    assert EngineOptions().start(8, "cuda") == Processes(1)
    assert EngineOptions(workers=3).start(8, "cpu") == Processes(3)
    assert EngineOptions().start(1, "cpu") == Processes(1)
    assert EngineOptions(engine=EngineName.ray).start(8, "cuda:0") == RayEngine("auto", num_gpus=1.0)
    assert EngineOptions(engine=EngineName.ray, address="head:1").start(8, "cpu") == RayEngine("head:1", num_gpus=0.0)


def test_the_progress_shows_what_the_processes_note_and_forgets_finished_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Note(tmp_path / "x").write(Progress(30, 120, (), 10))
    Note(tmp_path / "y").write(Progress(9, 10, (), 10))
    with BatchProgress(2, tmp_path) as board:
        assert sorted(board._under_way()) == [("x", 0.25), ("y", 0.9)]
        board.finished(row(None))
        assert board._under_way() == [("y", 0.9)]
    assert capsys.readouterr().err.startswith("1 of 2  x: error broken; about ")
