"""A project's file gives options that are not typed; unknown ones, and those that must be typed, are errors."""

from pathlib import Path
from typing import Any

import pytest
from shell import run

from neural_cleanse.cli.main import COMMANDS, load_command
from neural_cleanse.cli.project_file import defaults
from neural_cleanse.errors import SettingsError


def read(folder: Path, text: str, command: str = "scan", file: str = "neural-cleanse.toml") -> dict[str, Any]:
    (folder / file).write_text(text)
    return defaults(command, load_command(command), COMMANDS, folder)


def test_options_come_as_one_would_type_them(tmp_path: Path) -> None:
    text = 'mean = [0.5, 0.4, 0.3]\nstd = 0.25\nbgr = true\ndata = "images"\n[scan]\nalpha = 0.05\nbatch-images = 64'
    assert read(tmp_path, text) == {
        "mean": "0.5,0.4,0.3", "std": "0.25", "bgr": True, "data": "images", "alpha": "0.05", "batch_images": "64",
    }  # fmt: skip


def test_a_command_takes_what_it_has_and_its_own_table_counts_more(tmp_path: Path) -> None:
    text = 'ignore-labels = true\nseed = 1\n[guard]\nseed = 2\nfpr = 0.1\n[scan]\nplan = "full"'
    assert read(tmp_path, text, "guard") == {"fit": {"seed": "2", "fpr": "0.1"}, "check": {}}
    assert read(tmp_path, text, "report") == {}


def test_pyproject_has_a_table_and_the_own_file_comes_first(tmp_path: Path) -> None:
    assert read(tmp_path, '[tool.neural-cleanse]\nmean = "0.5"', file="pyproject.toml") == {"mean": "0.5"}
    assert read(tmp_path, "std = 0.1") == {"std": "0.1"}


def test_a_pyproject_of_others_is_left_alone(tmp_path: Path) -> None:
    assert read(tmp_path, "[tool.other\nbroken", file="pyproject.toml") == {}
    assert defaults("scan", load_command("scan"), COMMANDS, tmp_path / "elsewhere") == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("meen = 0.5", "meen is unknown"),
        ("alpha = 0.5", "alpha is unknown"),
        ("[scan]\nmeen = 0.5", r"\[scan\] meen is unknown"),
        ("[scna]\nmean = 0.5", "no command 'scna'"),
        ("allow-code = true", "cannot be set in a file"),
        ("[scan]\nallow-code = true", "cannot be set in a file"),
        ("[scan]\nno-sandbox = true", "cannot be set in a file"),
        ("[scan]\noverwrite = true", "cannot be set in a file"),
        ('[scan]\noutput = "out"', "cannot be set in a file"),
        ('architecture = "net.py:make"', "code cannot be named in a file"),
        ("bgr = 1", "true or false"),
        ("mean = []", "no value for --mean"),
        ("mean = [[1]]", "no value for --mean"),
        ("mean = true", "no value for --mean"),
        ("mean = ", "cannot be read"),
    ],
)
def test_what_does_not_belong_there_is_an_error(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        read(tmp_path, text)


def test_the_command_line_counts_more_than_the_file(
    tmp_path: Path, demo_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, digits = str(demo_files / "clean.safetensors"), str(demo_files / "digits.npz")
    (tmp_path / "neural-cleanse.toml").write_text(f'data = "{digits}"\nresize = "nonsense"\n[scan]\nrestarts = 1')
    refused = run("scan", "--patches-only", model, "--labels", "0-2")
    assert refused.code == 2 and "nonsense" in refused.err
    ran = run("scan", "--patches-only", model, "--labels", "0-2", "--resize", "28x28", "--json", "--quiet")
    assert ran.code in (0, 3) and '"restarts": 1' in ran.out
