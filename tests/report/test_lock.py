"""One process at a time writes into a directory; links and obstacles in it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shell import files_under, run

from neural_cleanse.errors import OutputError
from neural_cleanse.report import lock
from neural_cleanse.report import output_dir as directory
from neural_cleanse.results.records import ScanResult
from neural_cleanse.results.storage import write_whole

HOLD = """
import sys
from pathlib import Path
from neural_cleanse.report import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the directory."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def test_a_second_scan_is_refused_and_told_by_whom(
    other: subprocess.Popen[str], demo_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neural_cleanse.cli.inputs.load_data", lambda *_, **__: pytest.fail("work began"))
    before = files_under(tmp_path)
    for overwrite in ((), ("--overwrite",)):
        model, data = demo_files / "clean.safetensors", demo_files / "digits.npz"
        ran = run("scan", "--patches-only", model, "--data", data, "--output", tmp_path, *overwrite)
        assert (ran.code, ran.out) == (2, "")
        assert re.search(rf"process {other.pid} on \S+, since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d", ran.err), ran.err
    assert files_under(tmp_path) == before, "the first one's lock stays"


def test_the_lock_of_a_killed_process_is_taken_over(other: subprocess.Popen[str], tmp_path: Path) -> None:
    other.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    other.wait()
    assert set(files_under(tmp_path)) == lock.FILES, "a killed process removes nothing"
    with directory.claimed(tmp_path, overwrite=False):  # what it left is no earlier result
        assert json.loads((tmp_path / lock.OWNER_FILE).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_holds_to_its_end_and_leaves_no_trace(tmp_path: Path) -> None:
    new = tmp_path / "made" / "on the way"
    with directory.claimed(new, overwrite=False):
        with pytest.raises(OutputError, match=f"process {os.getpid()} on"), directory.claimed(new, overwrite=True):
            pytest.fail("held twice")
        assert new.is_dir()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), directory.claimed(new, overwrite=False):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with directory.claimed(new, overwrite=False):
        (new / "scan.json").write_text("{}")
    assert files_under(tmp_path) == {"made/on the way/scan.json": b"{}"}


def test_a_scan_holds_its_directory_until_the_result_is_written(
    found: ScanResult, demo_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen, write = tmp_path / "out", [], directory.write

    def truncated(when: str) -> None:
        with pytest.raises(OutputError, match=f"process {os.getpid()} on"), lock.held(out):
            pytest.fail("held twice")
        seen.append(when)

    def scan(*_: object, **__: object) -> ScanResult:
        truncated("searching")
        return found

    def written(result: ScanResult, to: Path) -> None:
        write(result, to)
        truncated("written")

    monkeypatch.setattr("neural_cleanse.detection.scan.scan", scan)
    monkeypatch.setattr("neural_cleanse.report.output_dir.write", written)
    ran = run(
        "scan",
        "--patches-only",
        demo_files / "infected.safetensors",
        "--data",
        demo_files / "digits.npz",
        "--output",
        out,
    )
    assert (ran.code, seen) == (1, ["searching", "written"]), ran.err
    assert not lock.FILES & set(files_under(out))


def test_a_directory_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(OutputError, match="cannot be used: Permission denied"):
        directory.prepare(tmp_path, overwrite=True)


def test_an_owner_that_cannot_be_read_is_no_crash(tmp_path: Path) -> None:
    with lock.held(tmp_path):
        for said in (b"", b"[]", b"[" * 100_000, b"\xff"):
            (tmp_path / lock.OWNER_FILE).write_bytes(said)
            with pytest.raises(OutputError, match="not known"), lock.held(tmp_path):
                pytest.fail("held twice")


def test_a_directory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a read-only one answers; root would write into it all the same."""

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("neural_cleanse.report.lock.FileLock.acquire", refuse)
    with pytest.raises(OutputError, match="cannot be used: Read-only file system"):
        directory.prepare(tmp_path / "new", overwrite=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["scan.json", "triggers.safetensors", "report.html", "repair.json", "label_3"])
def test_what_stands_in_the_way_is_said_before_the_work(tmp_path: Path, name: str) -> None:
    if name == "label_3":
        (tmp_path / name).write_text("mine")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match=rf"{name} is in the way"):
        directory.prepare(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


# --- links ---


def test_the_directory_itself_may_be_a_link_but_not_a_dangling_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    directory.prepare(tmp_path / "link", overwrite=False)
    with pytest.raises(OutputError, match="link that leads nowhere"):
        directory.prepare(tmp_path / "dangling", overwrite=True)
    assert not (tmp_path / "nowhere").exists()


def test_nothing_is_written_through_a_link(found: ScanResult, tmp_path: Path) -> None:
    """Neither through one that bears a name that a scan writes, nor through one at the place of a partial file."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    target, pictures = elsewhere / "passwd", elsewhere / "pictures"
    target.write_text("root")
    pictures.mkdir()
    (pictures / "mask.png").write_bytes(b"mine")
    written = ("scan.json", "triggers.safetensors", "report.html")
    for name in (*written, *(f".{name}.partial" for name in written), lock.OWNER_FILE):
        (out / name).symlink_to(target)
    (out / "label_3").symlink_to(pictures)
    (out / "label_9").symlink_to(pictures)
    (out / "repair.json").symlink_to(elsewhere / "absent")
    with directory.claimed(out, overwrite=True):
        directory.write(found, out)
    assert files_under(elsewhere) == {"passwd": b"root", "pictures/mask.png": b"mine"}
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert {*written, "label_3/mask.png"} <= set(files_under(out))
    assert not (out / "label_9").exists()


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / lock.LOCK_FILE).symlink_to(tmp_path / "target")
    with pytest.raises(OutputError, match="cannot be used"):
        directory.prepare(tmp_path / "out", overwrite=True)
    assert not (tmp_path / "target").exists()


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("neural_cleanse.files.os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_whole(tmp_path / "file", b"new")
    assert files_under(tmp_path) == {"file": b"old"}
