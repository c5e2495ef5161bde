"""Hostile surroundings: data that change while they are read, names, encodings, no home, clocks."""

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shell import Ran, run

import neural_cleanse as nc
from neural_cleanse.classifier import Classifier
from neural_cleanse.cli import main
from neural_cleanse.errors import DataError, NeuralCleanseError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images import folder, load

PROGRAM = (sys.executable, "-c", "from neural_cleanse.cli.main import run; run()")

# --- data that change while they are read ---


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of three grey pictures."""
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (4, 4), 40 * number).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (Path.unlink, "No such file"),
    "truncated": (cut, "cannot be read as a picture"),
    "emptied": (lambda path: path.write_bytes(b""), "cannot be read as a picture"),
    "replaced by text": (lambda path: path.write_text("#!/bin/sh"), "cannot be read as a picture"),
    "replaced by a folder": (lambda path: (path.unlink(), path.mkdir()), "Is a directory|Permission denied"),
    "replaced by another size": (lambda path: Image.new("L", (5, 5)).save(path), "different sizes"),
}


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("case", CHANGES)
def test_a_picture_that_changes_after_it_was_listed(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, case: str, skip: bool
) -> None:
    change, said = CHANGES[case]
    listed = folder.open_folder

    def listed_then_changed(path: Path) -> folder.FolderSource:
        found = listed(path)
        change(pictures / "b" / "1.png")
        return found

    monkeypatch.setattr(load, "open_folder", listed_then_changed)
    if skip and case != "replaced by another size":
        assert len(load.load_data(pictures, skip_unreadable=True)) == 5
    else:
        with pytest.raises(DataError, match=said):
            load.load_data(pictures, skip_unreadable=skip)


def test_what_is_recorded_is_what_was_read(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that was exchanged for another: the hash in the report is of the pixels that were scanned."""
    listed = folder.open_folder

    def listed_then_changed(path: Path) -> folder.FolderSource:
        found = listed(path)
        Image.new("L", (4, 4), 255).save(pictures / "b" / "1.png")
        return found

    monkeypatch.setattr(load, "open_folder", listed_then_changed)
    data = load.load_data(pictures)
    assert int(data.images[4].min()) == 255
    monkeypatch.undo()
    assert data.sha256() == load.load_data(pictures).sha256()


def test_a_folder_that_goes_away_while_it_is_listed(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanish(path: Path) -> None:
        raise FileNotFoundError(2, "No such file or directory", str(path / "b"))

    monkeypatch.setattr(load, "open_folder", vanish)
    with pytest.raises(DataError, match=r"b cannot be read: No such file"):
        load.load_data(pictures)


def test_an_archive_that_is_exchanged_after_it_was_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.npz"
    screened = load.reader_of
    for content in (b"PK\x03\x04" + b"\0" * 40, b"", b"text"):
        np.savez(path, images=np.zeros((2, 4, 4), np.uint8))

        def looked_then_exchanged(file: Path, content: bytes = content) -> Any:
            reader = screened(file)
            path.write_bytes(content)
            return reader

        monkeypatch.setattr(load, "reader_of", looked_then_exchanged)
        with pytest.raises(DataError, match=r"data\.npz cannot be read as an \.np[yz] a"):
            load.load_data(path)


# --- names ---


def test_names_of_files_and_labels_lead_nowhere(demo_files: Path, tmp_path: Path) -> None:
    """Names that would steer a terminal, or climb out of the directory, in data, labels and a picture's name."""
    data = tmp_path / "data"
    with np.load(demo_files / "digits.npz") as archive:
        images, labels = archive["images"], archive["labels"]
    evil = ["..", "...", "\x1b[2J", "a\nb", "x\u202ey", "`|<b>", " ", "con", "\x07", "%s{}"]
    for label, name in enumerate(evil):
        place = data / (name if name != ".." else "..\x1b[31m")
        place.mkdir(parents=True)
        for number, image in enumerate(images[labels == label][:6]):
            Image.fromarray(image).save(place / f"\x1b]0;owned\x07{number}.png")
    out = tmp_path / "out"
    model = demo_files / "infected.safetensors"
    arguments = ("scan", model, "--data", data, "--samples", 60, "--restarts", 1, "--output", out, "--force")
    ran = run(*arguments, "--ignore-labels", "--labels", "1,3")
    assert ran.code == 3, ran.err
    ran = run(*arguments, "--overwrite", "--labels", "3")
    assert ran.code in (2, 3)
    for text in (ran.out, ran.err):
        assert not set(text) & set("\x1b\x07\u202e")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "out"}


def test_a_damaged_picture_with_a_steering_name(pictures: Path, demo_files: Path) -> None:
    (pictures / "a" / "\x1b[2J\x07\u202e.png").write_bytes(b"no picture")
    ran = run("scan", demo_files / "clean.safetensors", "--data", pictures)
    assert ran.code == 2 and "cannot be read as a picture" in ran.err
    assert not set(ran.err) & set("\x1b\x07\u202e")


@pytest.mark.parametrize("label", ["/../../owned", "../owned", None, 3.0, True])
def test_a_scan_whose_label_is_no_number_writes_nowhere(scanned_infected: Path, tmp_path: Path, label: object) -> None:
    """scan.json names the folders of its pictures: it may come from somebody else."""
    from neural_cleanse.results import storage

    raw = json.loads((scanned_infected / "scan.json").read_text())
    raw["evidence"][0]["target"] = label
    (tmp_path / "scan.json").write_text(json.dumps(raw))
    (tmp_path / "triggers.safetensors").write_bytes((scanned_infected / "triggers.safetensors").read_bytes())
    with pytest.raises(NeuralCleanseError, match="damaged"):
        storage.load_result(tmp_path)


def test_words_of_a_scan_do_not_steer_the_terminal(scanned_infected: Path, tmp_path: Path) -> None:
    raw = json.loads((scanned_infected / "scan.json").read_text())
    raw["reason"] = "fine\x1b[2J\x07"
    raw["provenance"]["notes"] = ["\x1b]0;owned\x07"]
    raw["provenance"]["model"]["normalisation"] = "\u202e\x1b[31m"
    (tmp_path / "scan.json").write_text(json.dumps(raw))
    (tmp_path / "triggers.safetensors").write_bytes((scanned_infected / "triggers.safetensors").read_bytes())
    ran = run("report", tmp_path)
    assert ran.code == 0, ran.err
    assert not set(ran.out) & set("\x1b\x07\u202e")


# --- terminals and homes ---


def run_in_ascii(*arguments: object) -> Ran:
    """A command whose stdout and stderr hold ASCII alone, strictly, until it changes that itself."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict") for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["neural-cleanse", *map(str, arguments)])
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        code = 0
        try:
            main.run()
        except SystemExit as end:
            code = int(end.code or 0)
        for stream in streams:
            stream.flush()
        out, err = (stream.buffer.getvalue().decode("ascii") for stream in streams)  # type: ignore[attr-defined]
    return Ran(code, out, err)


def test_every_command_answers_in_ascii(demo_files: Path, scanned_infected: Path, tmp_path: Path) -> None:
    model, data = demo_files / "infected.safetensors", demo_files / "digits.npz"
    here = ("--data", data, "--samples", 100)
    guard = tmp_path / "guard"
    calls: dict[tuple[object, ...], int] = {
        ("scan", model, *here, "--restarts", 1, "--labels", "3,7"): 3,
        ("report", scanned_infected): 0,
        ("inspect", model): 0,
        ("guard", "fit", model, "--scan", scanned_infected, *here, "--output", guard, "--fpr", 0.1): 0,
        ("guard", "check", data, "--model", model, "--guard", guard): 1,
        ("repair", demo_files / "clean.safetensors", "--scan", scanned_infected, *here, "--output", tmp_path / "r"): 2,
        ("demo", "--output", scanned_infected.parent / "scan" / "scan.json"): 2,
        ("attack", "--dataset", tmp_path / "é", "--architecture", "mnist_cnn", "--output", tmp_path / "a"): 2,
        ("zoo", "build", tmp_path / "é", "--output", tmp_path / "z", "--data", tmp_path): 2,
        ("zoo", "table", demo_files): 0,
        ("benchmark", tmp_path / "é", "--data", tmp_path, "--rows", tmp_path / "rows"): 2,
    }
    for arguments, code in calls.items():
        ran = run_in_ascii(*arguments)
        assert ran.code == code, (arguments, ran)
        assert ran.out if code != 2 else re.search("error", ran.err, re.IGNORECASE)
        assert "Traceback" not in ran.err
    for name in ("scan", "report", "inspect", "repair", "guard", "demo", "attack", "zoo", "benchmark"):
        assert run_in_ascii(name, "--help").code == 0


BARE = {"PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def test_a_bare_environment_and_a_name_of_no_encoding(scanned_infected: Path, tmp_path: Path) -> None:
    """No HOME, the C locale held to ASCII, and a directory whose name is not UTF-8."""
    try:
        place = tmp_path / os.fsdecode(b"scan-\xff\xc3\xa9")
        place.mkdir()
    except OSError:
        pytest.skip("this file system takes no such name")
    raw = json.loads((scanned_infected / "scan.json").read_text())
    raw["provenance"]["model"]["path"] = str(place)  # as json holds it: a lone surrogate
    (place / "scan.json").write_text(json.dumps(raw))
    (place / "triggers.safetensors").write_bytes((scanned_infected / "triggers.safetensors").read_bytes())
    plain = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(
        [*PROGRAM, "report", os.fsencode(place)], env=BARE | plain, capture_output=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert b"Backdoor found" in ran.stdout
    assert (place / "report.html").stat().st_size > 1000


NAMELESS = """
import os, pwd
def nobody(*_):
    raise KeyError("getpwuid(): uid not found")
pwd.getpwuid = pwd.getpwnam = nobody
from neural_cleanse.cli.main import run
run()
"""


@pytest.mark.skipif(os.name != "posix", reason="users of this system are no rows of a file")
@pytest.mark.parametrize("home", [{}, {"HOME": "/nonexistent"}], ids=["none", "missing"])
def test_a_user_without_home_or_name_scans(demo_files: Path, tmp_path: Path, home: dict[str, str]) -> None:
    """As in a container that runs under a number: HOME is not set, and nobody has that number."""
    model, data = demo_files / "infected.safetensors", demo_files / "digits.npz"
    arguments = ("scan", model, "--data", data, "--restarts", "1", "--samples", "100", "--labels", "3,7", "--json")
    command = [sys.executable, "-c", NAMELESS, *map(str, arguments), "--output", str(tmp_path / "out")]
    ran = subprocess.run(command, env=BARE | home, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 3, ran.stderr
    assert json.loads(ran.stdout)["verdict"] == "inconclusive"


# --- clocks ---


def test_a_clock_that_goes_back_changes_no_duration(
    clean: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(hours)))
    result = nc.scan(clean, digits, nc.ScanSettings(patches_only=True, labels=(1, 2), restarts=1, samples=60))
    assert 0 <= result.wall_s < 3600


def test_no_duration_is_taken_from_the_calendar() -> None:
    """time.time and datetime.now jump when the clock is set; only the lock's owner and the record say a date."""
    source = Path(nc.__file__).parent
    calls = re.compile(r"\btime\.time\(|\bdatetime\.(now|utcnow)\(|\bst_mtime\b")
    found = {str(path.relative_to(source)) for path in source.rglob("*.py") if calls.search(path.read_text("utf-8"))}
    # A deadline travels to other machines, whose monotonic clocks began elsewhere.
    assert found == {"deadline.py", str(Path("report") / "lock.py"), str(Path("detection") / "provenance.py")}
