"""A full disk, a closed stream, a reader who went away: the exit code stays that of the scan, or 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
TWO_LABELS = ("--labels", "0-1", "--restarts", "1")  # for an answer in little time: exit code 3
NEEDS_FULL = pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")


def scan(demo: Path, output: Path, *options: str, **streams: object) -> subprocess.CompletedProcess[str]:
    """The demo's clean model, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "neural_cleanse",
        "scan",
        "--patches-only",
        demo / "clean.safetensors",
        "--data",
        demo / "digits.npz",
    ]
    return subprocess.run(
        [*map(str, command), "--samples", "300", "--output", str(output), *options],
        text=True, check=False, **streams,
    )  # type: ignore[call-overload, no-any-return]  # fmt: skip


@pytest.fixture
def full() -> object:
    with FULL.open("w") as stream:
        yield stream


@NEEDS_FULL
def test_what_is_told_on_the_way_is_dropped(demo_files: Path, tmp_path: Path, full: object) -> None:
    done = scan(demo_files, tmp_path / "out", "--log-json", *TWO_LABELS, stdout=subprocess.PIPE, stderr=full)
    assert done.returncode == 3 and "Could not tell" in done.stdout
    assert (tmp_path / "out" / "scan.json").exists() and not (tmp_path / "out" / "unfinished").exists()


@NEEDS_FULL
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_answer_that_is_not_taken_is_an_error_and_is_in_the_files(
    demo_files: Path, tmp_path: Path, full: object, options: tuple[str, ...]
) -> None:
    done = scan(demo_files, tmp_path / "out", *options, *TWO_LABELS, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2 and done.stderr.count("error:") == 1 and "Traceback" not in done.stderr
    assert "No space left" in done.stderr
    assert (tmp_path / "out" / "scan.json").exists() and not (tmp_path / "out" / "unfinished").exists()


@NEEDS_FULL
def test_an_error_that_cannot_be_told_is_not_taken_for_a_backdoor(tmp_path: Path, full: object) -> None:
    assert scan(tmp_path, tmp_path / "out", stdout=subprocess.PIPE, stderr=full).returncode == 2


def closed(demo: Path, stream: int, *more: str) -> subprocess.CompletedProcess[str]:
    files = [str(demo / name) for name in ("clean.safetensors", "digits.npz")]
    options = " ".join(("--samples 300 --patches-only", *more))
    shell = f"{sys.executable} -m neural_cleanse scan {files[0]} --data {files[1]} {options} {stream}>&-"
    return subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)


@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix closes the stream")
def test_closed_streams(demo_files: Path) -> None:
    quiet = closed(demo_files, 2)
    assert quiet.returncode == 0 and "Nothing found" in quiet.stdout
    unheard = closed(demo_files, 1, *TWO_LABELS)
    assert unheard.returncode == 2 and "it is closed" in unheard.stderr and "Traceback" not in unheard.stderr
