"""The command line as a script sees it: exit codes, streams, and what lies on the disk afterwards."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from shell import Ran, files_under, one_message, refused, run, strict
from torch import nn

from neural_cleanse.cli import main
from neural_cleanse.errors import OutputError
from neural_cleanse.inversion.checkpoint import Checkpoint
from neural_cleanse.loading.architectures import mnist_cnn
from neural_cleanse.results.records import SCHEMA_VERSION

SCAN_KEYS = {
    "schema_version", "verdict", "reason", "flagged", "p_value", "alpha", "level", "detection_limit", "image_passes",
    "forward_passes", "cut_off", "wall_s", "image_shape", "labels", "paper_rule", "evidence", "provenance", "tests",
    "student_test", "below_limit",
}  # fmt: skip
LABEL_KEYS = {
    "target", "source", "name", "size", "log_size_sd", "anomaly_index", "p_value", "asr", "asr_interval", "outcome",
    "image_passes", "refined",
}  # fmt: skip


@dataclass(frozen=True)
class Scanned:
    """One scan of the infected demo model, with --json and --output."""

    ran: Ran
    directory: Path


@pytest.fixture(scope="module")
def shipped(demo_files: Path) -> tuple[Path, ...]:
    """MODEL --data DATA, for the infected model."""
    return demo_files / "infected.safetensors", Path("--data"), demo_files / "digits.npz"


@pytest.fixture(scope="module")
def scanned(shipped: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Scanned:
    directory = tmp_path_factory.mktemp("scanned") / "made" / "on the way"
    return Scanned(
        run("scan", "--patches-only", *shipped, "--restarts", 1, "--samples", 400, "--json", "--output", directory),
        directory,
    )


# --- answers ---


def test_infected_is_exit_code_1_and_pure_json(scanned: Scanned) -> None:
    assert scanned.ran.code == 1, scanned.ran.err
    answer = strict(scanned.ran.out)
    assert set(answer) == SCAN_KEYS
    assert all(set(label) == LABEL_KEYS for label in answer["labels"])
    assert [label["target"] for label in answer["labels"]] == list(range(10))
    assert (answer["schema_version"], answer["verdict"], answer["flagged"], answer["alpha"]) == (
        SCHEMA_VERSION,
        "infected",
        [3],
        0.01,
    )
    assert answer["image_passes"] == sum(label["image_passes"] for label in answer["labels"]) > 0
    assert answer["provenance"]["command"].startswith("neural-cleanse scan ")
    assert "Traceback" not in scanned.ran.err


def test_output_holds_the_result_and_its_evidence(scanned: Scanned) -> None:
    written = files_under(scanned.directory)
    assert {"scan.json", "triggers.safetensors", "report.html"} < set(written)
    assert written["scan.json"].decode() == scanned.ran.out
    pictures = [name for name in written if name.endswith(".png")]
    assert {"label_3/mask.png", "label_3/pattern.png", "label_3/trigger.png", "label_3/example_0_after.png"} <= set(
        pictures
    )
    assert all(name.startswith("label_3/") and written[name].startswith(b"\x89PNG") for name in pictures)
    assert set(written) == {"scan.json", "triggers.safetensors", "report.html", "report.md", "options.json", *pictures}
    tensors = safetensors.torch.load(written["triggers.safetensors"])
    assert tensors["trigger.3.mask"].shape == (1, 1, 28, 28)


def test_clean_is_exit_code_0_and_a_table(demo_files: Path, tmp_path: Path) -> None:
    ran = run(
        "scan", "--patches-only", demo_files / "clean.safetensors", "--data", demo_files / "digits.npz", "--restarts", 1
    )
    assert ran.code == 0, ran.out
    assert "No patch-like backdoor found" in ran.out
    assert "pixels in [0, 1] as they are" in " ".join(ran.out.split()), "the form of the input is reported"


def test_too_few_labels_are_exit_code_3(shipped: tuple[Path, ...]) -> None:
    ran = run("scan", "--patches-only", *shipped, "--restarts", 1, "--samples", 100, "--labels", "3,7-8", "--json")
    assert ran.code == 3
    answer = strict(ran.out)
    assert (answer["verdict"], answer["flagged"]) == ("inconclusive", [])
    assert [label["target"] for label in answer["labels"]] == [3, 7, 8]


def test_the_seed_decides(shipped: tuple[Path, ...]) -> None:
    sizes = [
        [label["size"] for label in strict(run("scan", "--patches-only", *shipped, *options, "--json").out)["labels"]]
        for options in (("--seed", 5), ("--seed", 5), ("--seed", 6))
        for options in [(*options, "--restarts", 1, "--samples", 200, "--labels", "0-1")]
    ]
    assert sizes[0] == sizes[1] != sizes[2]


# --- what cannot be scanned ---

BAD_OPTIONS = {
    "labels the model lacks": ("--labels", "0-99"),
    "labels that are none": ("--labels", "x"),
    "labels backwards": ("--labels", "5-1"),
    "no labels": ("--labels", ""),
    "alpha above 1": ("--alpha", "2"),
    "alpha 0": ("--alpha", "0"),
    "alpha no number": ("--alpha", "nan"),
    "negative seed": ("--seed", "-1"),
    "no samples": ("--samples", "0"),
    "no restarts": ("--restarts", "0"),
    "resize": ("--resize", "foo"),
    "resize to nothing": ("--resize", "0x28"),
    "resize pixel arrays": ("--resize", "32x32"),
    "mean": ("--mean", "abc"),
    "mean of two channels": ("--mean", "0.5,0.5"),
    "std 0": ("--std", "0"),
    "std nan": ("--std", "nan"),
    "scale 0": ("--scale", "0"),
    "scale negative": ("--scale", "-1"),
    "device": ("--device", "nonsense"),
    "device without values": ("--device", "meta"),
    "preset": ("--preset", "best"),
    "loss": ("--loss", "best"),
    "crop": ("--crop", "roi"),
    "architecture": ("--architecture", "resnet"),
    "architecture file": ("--architecture", "missing.py:make"),
    "no such option": ("--best",),
    "the wrong network": ("--architecture", "gtsrb_cnn"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_end_in_one_message_and_leave_nothing(shipped: tuple[Path, ...], tmp_path: Path, case: str) -> None:
    (tmp_path / "work").mkdir()
    ran = run(
        "scan", "--patches-only", *shipped, *BAD_OPTIONS[case], "--json", "--output", tmp_path / "work" / "new" / "out"
    )
    assert ran.code == 2
    assert ran.out == ""
    assert one_message(ran), ran.err
    assert list(tmp_path.rglob("*")) == [tmp_path / "work"]


def write_text_model(path: Path) -> None:
    path.write_text("no model")


def write_hostile_names(path: Path) -> None:
    weights = {f"\x1b[2J\x1b]0;owned\x07\u202e{index}": torch.zeros(2) for index in range(3)}
    safetensors.torch.save_file(weights, path)


@pytest.mark.parametrize("write", [None, write_text_model, write_hostile_names])
def test_a_model_that_cannot_be_read(demo_files: Path, tmp_path: Path, write: Callable[[Path], None] | None) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    if write:
        write(model)
    ran = run(
        "scan",
        "--patches-only",
        model,
        "--data",
        demo_files / "digits.npz",
        "--architecture",
        "mnist_cnn",
        "--output",
        out,
        "--json",
    )
    assert (ran.code, ran.out) == (2, "")
    assert not out.exists()
    assert str(model) in ran.err
    assert not set(ran.err) & set("\x1b\x07\u202e"), "a file's names must not steer the terminal"


def test_data_that_cannot_be_read(demo_files: Path, tmp_path: Path) -> None:
    for data in (tmp_path / "absent", tmp_path):
        ran = run(
            "scan",
            "--patches-only",
            demo_files / "clean.safetensors",
            "--data",
            data,
            "--output",
            tmp_path / "out",
            "--json",
        )
        assert (ran.code, ran.out) == (2, "")
        assert str(data) in ran.err
        assert list(tmp_path.iterdir()) == []
    assert run("scan", "--patches-only", demo_files / "clean.safetensors").code == 2, "--data is required"


def test_a_model_that_cannot_read_the_images(shipped: tuple[Path, ...], tmp_path: Path) -> None:
    """Exit code 2 without --force; inconclusive, not infected, with it."""
    network = mnist_cnn(10)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    torch.save(network.state_dict(), tmp_path / "m")
    arguments = (
        "scan",
        "--patches-only",
        tmp_path / "m",
        *shipped[1:],
        "--architecture",
        "mnist_cnn",
        "--samples",
        60,
        "--restarts",
        1,
    )
    truncated = run(*arguments)
    assert truncated.code == 2
    assert "no better than" in truncated.err
    forced = run(*arguments, "--force", "--json")
    assert forced.code == 3
    assert strict(forced.out)["verdict"] == "inconclusive"


def test_a_crash_is_not_taken_for_a_backdoor(shipped: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own exit code for a crash is 1, which means infected here."""

    def crash(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("neural_cleanse.cli.inputs.load_model", crash)
    ran = run("scan", "--patches-only", *shipped)
    assert ran.code == 2
    assert "ZeroDivisionError: of ours" in ran.err
    assert "fault of neural-cleanse" in ran.err


def test_a_reader_that_goes_away_is_not_taken_for_a_backdoor(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("neural_cleanse.report.terminal.show", closed)
    assert run("report", copied).code == 2


def test_a_reader_that_goes_away_does_not_swallow_the_files(
    shipped: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("neural_cleanse.report.terminal.show", closed)
    options = ("--restarts", 1, "--samples", 300, "--labels", "3-4", "--output", tmp_path / "out")
    assert run("scan", "--patches-only", *shipped, *options).code == 2
    found = json.loads((tmp_path / "out" / "scan.json").read_text())
    assert [label["target"] for label in found["labels"] if label["size"]] == [3, 4]
    assert not (tmp_path / "out" / "unfinished").exists()
    again = run("scan", "--patches-only", *shipped, *options, "--resume")
    assert again.code == 2 and "finished scan" in again.err


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_scan_leaves_nothing(
    sent: signal.Signals, shipped: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(sent)

    monkeypatch.setattr("neural_cleanse.detection.scan.scan", interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        ran = run("scan", "--patches-only", *shipped, "--output", tmp_path / "out")
    finally:
        signal.signal(signal.SIGINT, before)
    assert ran.code == 130 and "interrupted: nothing was kept (no label was finished)" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_says_that_finished_labels_are_kept(
    shipped: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, checkpoint: Checkpoint, **__: object) -> None:
        checkpoint.begin({"settings": 1})
        (checkpoint.directory / "0.safetensors").touch()
        raise OutputError("out cannot be written: No space left.", cure="Free some space.")

    monkeypatch.setattr("neural_cleanse.detection.scan.scan", full)
    ran = run("scan", "--patches-only", *shipped, "--output", tmp_path / "out")
    assert ran.code == 2 and "Finished labels are kept: the same command goes on with --resume." in ran.err
    assert (tmp_path / "out" / "unfinished" / "0.safetensors").exists()


# --- the output directory ---


def test_a_scan_that_its_budget_ended_can_go_on(shipped: tuple[Path, ...], tmp_path: Path) -> None:
    """To the same result as one without a budget; the command that does it is said."""
    options = ("--restarts", 1, "--samples", 300, "--seed", 3, "--labels", "0-3")
    bounds = ("--max-passes", 1500, "--batch-images", 4)  # a label at a time: one is finished
    cut = run("scan", "--patches-only", *shipped, *options, *bounds, "--output", tmp_path / "out", "--json")
    assert cut.code == 3 and strict(cut.out)["cut_off"] is True
    said = cut.err.splitlines()[-1]
    assert said.endswith("--resume") and "--max-passes" not in said and "1500" not in said
    assert "--resume" in run("scan", "--patches-only", *shipped, *options, "--output", tmp_path / "out").err
    went_on = run("scan", "--patches-only", *shipped, *options, "--output", tmp_path / "out", "--json", "--resume")
    whole = strict(run("scan", "--patches-only", *shipped, *options, "--json").out)
    ours = strict(went_on.out)
    assert went_on.code == 3 and ours["cut_off"] is False and ours["labels"] == whole["labels"]
    assert all(label["size"] for label in ours["labels"]) and not strict(cut.out)["labels"][-1]["size"]
    assert not (tmp_path / "out" / "unfinished").exists()


def test_where_a_budget_left_nothing_the_scan_begins_again(shipped: tuple[Path, ...], tmp_path: Path) -> None:
    options = (*shipped, "--restarts", 1, "--samples", 300, "--labels", "3-4", "--output", tmp_path / "out")
    cut = run("scan", "--patches-only", *options, "--max-passes", 200, "--json")
    assert cut.code == 3 and "begin again" in cut.err and cut.err.splitlines()[-1].endswith("--resume")
    cut = run("scan", "--patches-only", *options, "--max-passes", 200, "--overwrite")
    assert cut.out.count("--resume") == 1 and "--resume" not in cut.err, "said once"
    assert run("scan", "--patches-only", *options, "--resume", "--seed", 1).code == 2, "of another scan"
    assert run("scan", "--patches-only", *options, "--resume", "--json").code == 3
    assert all(label["size"] for label in json.loads((tmp_path / "out" / "scan.json").read_text())["labels"])
    assert not (tmp_path / "out" / "unfinished").exists()


def test_workers_that_a_budget_ends_say_nothing(shipped: tuple[Path, ...]) -> None:
    command = [
        sys.executable,
        "-m",
        "neural_cleanse",
        "scan",
        "--patches-only",
        *map(str, shipped),
        "--samples",
        "200",
        "--quiet",
    ]
    ran = subprocess.run([*command, "--max-passes", "400", "--workers", "2"], capture_output=True, text=True)
    assert ran.returncode == 3 and ran.stderr == ""


def test_a_scan_does_not_write_over_its_baseline(shipped: tuple[Path, ...], scanned_infected: Path) -> None:
    before = files_under(scanned_infected)
    refused(
        run("scan", *shipped, "--baseline", scanned_infected, "--output", scanned_infected, "--overwrite"),
        "write over its baseline",
    )
    assert files_under(scanned_infected) == before


def test_a_model_is_no_baseline_of_itself(demo_files: Path, tmp_path: Path) -> None:
    clean = (demo_files / "clean.safetensors", "--data", demo_files / "digits.npz", "--restarts", 1, "--samples", 200)
    assert (
        run(
            "scan", "--patches-only", *clean, "--plan", "full", "--labels", "0-1", "--output", tmp_path / "baseline"
        ).code
        == 3
    )
    truncated = run("scan", "--patches-only", *clean, "--baseline", tmp_path / "baseline")
    assert truncated.code == 2 and "must be a different model" in truncated.err


def test_a_used_directory_is_refused_before_any_work(
    shipped: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr("neural_cleanse.cli.inputs.load_data", lambda *_, **__: pytest.fail("work began"))
    ran = run("scan", "--patches-only", *shipped, "--output", tmp_path)
    assert ran.code == 2
    assert "--overwrite" in ran.err
    assert files_under(tmp_path) == {"notes.txt": b"mine"}
    for output in (tmp_path / "notes.txt", tmp_path / "notes.txt" / "below", tmp_path / ("x" * 300)):
        ran = run("scan", "--patches-only", *shipped, "--output", output)
        assert ran.code == 2
        assert "cannot be used" in ran.err
        assert "Traceback" not in ran.err
    assert files_under(tmp_path) == {"notes.txt": b"mine"}


def test_overwriting_replaces_a_scan_and_touches_nothing_else(shipped: tuple[Path, ...], tmp_path: Path) -> None:
    own = {"notes.txt": b"mine", "label_data/cat.txt": b"mine", "label_names.txt": b"mine"}
    old = {"scan.json": b"old", "label_8/mask.png": b"old", "report.html": b"old"}
    for name, content in {**own, **old}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    ran = run(
        "scan", "--patches-only", *shipped, "--restarts", 1, "--samples", 400, "--output", tmp_path, "--overwrite"
    )
    assert ran.code == 1, ran.err
    assert str(tmp_path / "report.html") in ran.out
    written = files_under(tmp_path)
    assert {name: written[name] for name in own} == own
    assert strict(written["scan.json"].decode())["verdict"] == "infected"
    assert "label_8/mask.png" not in written
    assert "label_3/mask.png" in written


def test_a_failed_overwrite_keeps_the_earlier_scan(shipped: tuple[Path, ...], tmp_path: Path) -> None:
    (tmp_path / "scan.json").write_bytes(b"old")
    assert run("scan", "--patches-only", *shipped, "--labels", "0-99", "--output", tmp_path, "--overwrite").code == 2
    assert files_under(tmp_path) == {"scan.json": b"old"}


# --- report ---


@pytest.fixture
def copied(scanned: Scanned, tmp_path: Path) -> Path:
    """The files of a finished scan, to be damaged."""
    for name in ("scan.json", "triggers.safetensors"):
        (tmp_path / name).write_bytes((scanned.directory / name).read_bytes())
    return tmp_path


def test_a_report_needs_the_files_alone(scanned: Scanned, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "__call__", lambda *_: pytest.fail("a model was run"))
    ran = run("report", copied)
    assert ran.code == 0
    assert "Backdoor found" in ran.out
    assert (copied / "report.html").read_bytes() == (scanned.directory / "report.html").read_bytes()
    assert run("report", copied, "--json").out == scanned.ran.out


def changed(directory: Path, change: Callable[[Any], Any]) -> None:
    raw = json.loads((directory / "scan.json").read_text())
    (directory / "scan.json").write_text(json.dumps(change(raw)))


def without(*path: str) -> Callable[[Any], Any]:
    def change(raw: Any) -> Any:
        inner = raw
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return raw

    return change


def with_label(**values: object) -> Callable[[Any], Any]:
    return lambda raw: raw | {"labels": [label | values for label in raw["labels"]]}


DAMAGE: dict[str, Callable[[Any], Any]] = {
    "another schema": lambda raw: raw | {"schema_version": 99},
    "no schema": without("schema_version"),
    "a list": lambda raw: [raw],
    "no verdict": without("verdict"),
    "unknown verdict": lambda raw: raw | {"verdict": "fine"},
    "empty reason": lambda raw: raw | {"reason": ""},
    "no labels": without("labels"),
    "labels of the wrong kind": lambda raw: raw | {"labels": "abc"},
    "text for a size": with_label(size="large"),
    "half an interval": with_label(asr_interval=[0.5]),
    "unknown outcome": with_label(outcome="great"),
    "text for passes": lambda raw: raw | {"image_passes": "many"},
    "no provenance": without("provenance"),
    "provenance without model": without("provenance", "model", "normalisation"),
    "evidence for a label without trigger": lambda raw: raw | {"evidence": [raw["evidence"][0] | {"target": 4}]},
    "an flagged label that is not there": lambda raw: raw | {"labels": raw["labels"][:3]},
    "no area": lambda raw: raw | {"image_shape": [1, 0, 0]},
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_scans_are_refused(copied: Path, case: str) -> None:
    changed(copied, DAMAGE[case])
    ran = run("report", copied)
    assert ran.code == 2, ran.err
    assert "Traceback" not in ran.err
    assert ran.err.count("error:") == 1


@pytest.mark.parametrize("name", ["scan.json", "triggers.safetensors"])
@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"\xff\xfe", b"[" * 100_000, b"\x00" * 50],
    ids=["none", "empty", "cut", "binary", "deep", "zeros"],
)
def test_damaged_files_are_refused(copied: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (copied / name).unlink()
    else:
        (copied / name).write_bytes(content)
    ran = run("report", copied)
    assert (ran.code, ran.out) == (2, "")
    assert "Traceback" not in ran.err
    assert str(copied) in ran.err
    assert not (copied / "report.html").exists()


def test_a_report_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        ran = run("report", directory)
        assert (ran.code, ran.out) == (2, "")
        assert "Traceback" not in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_terminal_without_bars_gets_its_answer(copied: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from neural_cleanse.cli.main import run; run()", "report", str(copied)]
    ran = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert b"Backdoor found" in ran.stdout


# --- the rest ---


@pytest.mark.example
def test_the_demo_checks_its_own_cards(tmp_path: Path) -> None:
    ran = run("demo", "--output", tmp_path / "demo")
    assert ran.code == 0, ran.out
    assert ran.out.count("The scan is right.") == 2
    assert {folder.name for folder in (tmp_path / "demo").iterdir()} == {"infected", "clean"}
    before = files_under(tmp_path)
    assert run("demo", "--output", tmp_path / "demo").code == 2
    assert files_under(tmp_path) == before


def test_version_and_help() -> None:
    from importlib.metadata import version

    assert run("--version") == Ran(0, f"neural-cleanse {version('neural-cleanse')}\n", "")
    top = run("--help")
    assert top.code == 0
    for name, line in main.COMMANDS.items():
        shown = run(name, "--help")
        assert shown.code == 0
        assert name in top.out
        assert line in " ".join(shown.out.split())
    assert run().code == 2
    assert run("nonsense").code == 2
