"""Files that are written whole, devices and pipes that are written into, and paths that cannot be used."""

import os
import stat
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from neural_cleanse.errors import OutputError
from neural_cleanse.files import is_stream, refuse_unwritable, write_named, write_whole, written_whole

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
