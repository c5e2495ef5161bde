"""Files that are written whole, devices and pipes that are written into, and paths that cannot be used."""

import os
import stat
import threading
from pathlib import Path
from typing import Any

import made_scans
import pytest
import safetensors.torch
import torch
from shell import refused, run

import neural_cleanse as nc
from neural_cleanse.errors import OutputError
from neural_cleanse.files import is_stream, refuse_unwritable, write_named, write_whole, written_whole
from neural_cleanse.mitigation.guard import GUARD_VERSION
from neural_cleanse.regular_files import read_regular
from neural_cleanse.report import output_dir
from neural_cleanse.results import storage

UNIX = pytest.mark.skipif(os.name == "nt", reason="pipes and links to open streams are of Unix")
LONGEST = "x" * 255  # that a file system takes


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@UNIX
@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_written_into_and_stays(pipe: Path, tmp_path: Path, linked: bool) -> None:
    named = tmp_path / "named"
    if linked:
        named.symlink_to(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_named(named if linked else pipe, b"said")
    reader.join(timeout=10)
    assert read == [b"said"] and stat.S_ISFIFO(pipe.stat().st_mode) and named.is_symlink() is linked


@UNIX
def test_an_open_stream_is_written_into_also_where_it_goes_to_a_file(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        (tmp_path / "link").symlink_to(f"/proc/self/fd/{file.fileno()}")
        write_named(tmp_path / "link", b"said")
        assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "out").read_bytes() == b"said"


@UNIX
def test_a_file_of_a_directory_that_we_fill_is_replaced_whatever_lies_there(pipe: Path) -> None:
    write_whole(pipe, b"ours")
    assert pipe.is_file() and pipe.read_bytes() == b"ours"


@UNIX
def test_a_pipe_is_no_place_for_a_model(pipe: Path) -> None:
    refuse_unwritable(pipe, streams=True)
    with pytest.raises(OutputError, match="a device or a pipe"):
        refuse_unwritable(pipe)
    assert is_stream(pipe)


def test_what_cannot_be_written_is_refused_before_and_leaves_nothing(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path, "it is a directory"),
        (tmp_path / "absent" / "x", "there is no directory"),
        (tmp_path / (LONGEST + "x"), "too long"),
    ):
        with pytest.raises(OutputError, match=words):
            refuse_unwritable(path)
    refuse_unwritable(tmp_path / LONGEST)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    write_whole(tmp_path / LONGEST, b"said")
    assert [path.name for path in tmp_path.iterdir()] == [LONGEST]


@UNIX
def test_what_safetensors_writes_may_be_read_by_those_who_may_read_the_rest(tmp_path: Path) -> None:
    write_whole(tmp_path / "plain", b"")
    with written_whole(tmp_path / "tensors") as partial:
        safetensors.torch.save_file({"x": torch.ones(1)}, partial)
    assert (tmp_path / "tensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


COMMANDS: dict[str, tuple[str, ...]] = {
    "report": ("report", "{}"),
    "document": ("report", "{scan}", "--format", "json={}"),
    "data": ("scan", "{model}", "--data", "{}"),
    "model": ("scan", "{}", "--data", "{data}"),
    "like": ("scan", "{model}", "--like", "{}"),
    "baseline": ("scan", "{model}", "--data", "{data}", "--baseline", "{}"),
    "inspect": ("inspect", "{}"),
    "check": ("guard", "check", "{}", "--model", "{model}", "--guard", "{guard}"),
    "guard": ("guard", "check", "{data}", "--model", "{model}", "--guard", "{}"),
    "copies": ("guard", "check", "{data}", "--model", "{model}", "--guard", "{guard}", "--copy-rejected", "{}"),
    "scan": ("repair", "{model}", "--scan", "{}", "--output", "absent"),
    "output": ("repair", "{model}", "--scan", "{scan}", "--data", "{data}", "--output", "{}"),
}


@pytest.mark.parametrize("refusal", ["Permission denied", "File name too long"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_the_system_refuses_is_one_error(
    demo_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, refusal: str
) -> None:
    monkeypatch.chdir(tmp_path)
    output_dir.write(made_scans.result(), tmp_path / "scan")
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "guard.json").write_text(f'{{"schema_version": {GUARD_VERSION}}}')
    bad = tmp_path / ("x" * 300) if refusal == "File name too long" else tmp_path / "mine" / "secret"
    _deny(monkeypatch, tmp_path / "mine")  # root may read everything
    places = {
        "scan": tmp_path / "scan", "model": demo_files / "infected.safetensors", "data": demo_files / "digits.npz",
        "guard": tmp_path / "guard",
    }  # fmt: skip
    refused(run(*(word.format(bad, **places) for word in COMMANDS[command])), refusal)


def test_a_path_that_the_system_refuses_is_an_error_in_python(tmp_path: Path) -> None:
    with pytest.raises(nc.NeuralCleanseError, match="too long"):
        nc.load_data(tmp_path / ("x" * 300))
    with pytest.raises(nc.NeuralCleanseError, match="too long"):
        nc.ScanResult.load(tmp_path / ("x" * 300))


def test_a_scan_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output_dir.write(made_scans.result(), tmp_path / "scan")
    _deny(monkeypatch, tmp_path / "scan")
    with pytest.raises(OutputError, match=r"cannot be read: Permission denied\. Check"):
        storage.load_result(tmp_path / "scan")


def _deny(patch: pytest.MonkeyPatch, directory: Path) -> None:
    """Nobody may look at what is in the directory, nor open it."""

    def refusing(unchanged: Any) -> Any:
        def call(path: Any, *more: Any, **named: Any) -> Any:
            if isinstance(path, str | Path) and directory in Path(path).parents:
                raise PermissionError(13, "Permission denied", str(path))
            return unchanged(path, *more, **named)

        return call

    for owner, name in ((os, "stat"), (os, "open"), (os, "mkdir"), (Path, "open")):
        patch.setattr(owner, name, refusing(getattr(owner, name)))


@UNIX
def test_a_pipe_or_a_device_is_not_read(pipe: Path, tmp_path: Path) -> None:
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(OSError, match="no regular file"):
            read_regular(path)
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_regular(tmp_path / "file", 4)


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    model, image = tmp_path / "model", tmp_path / "images" / "0.png"
    for path in (model, image):
        path.touch()
    (tmp_path / "link").symlink_to(model)
    for path in (model, image, tmp_path / "link"):
        with pytest.raises(OutputError, match="it is what is read"):
            refuse_unwritable(path, read=[model, tmp_path / "images"])
    for path in (tmp_path / "images" / "new", tmp_path / "other"):
        refuse_unwritable(path, read=[model, tmp_path / "images", tmp_path / "nowhere"])
