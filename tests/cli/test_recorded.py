"""Options of model and images are typed once: kept beside a scan, and taken from there, but for what runs code."""

import json
from pathlib import Path
from typing import Any

import pytest
from shell import run

from neural_cleanse.cli import recorded
from neural_cleanse.cli.options import Crop, Inputs, PresetTransform
from neural_cleanse.errors import OutputError

TYPED = Inputs(
    architecture="resnet18", mean="0.5,0.4,0.3", std="0.2", resize="32x32", crop=Crop.roi, scale=255.0, bgr=True,
    ignore_labels=True, skip_unreadable=True, features="fc", classes=Path("/names.txt"),
)  # fmt: skip


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    recorded.write(tmp_path, TYPED, tmp_path / "images")
    assert recorded.completed(Inputs(), None, tmp_path) == (TYPED, tmp_path / "images")


def test_what_is_typed_counts_more_than_what_was_kept(tmp_path: Path) -> None:
    recorded.write(tmp_path, TYPED, tmp_path / "images")
    inputs, data = recorded.completed(Inputs(mean="0.1", typed=frozenset({"mean", "data"})), Path("other"), tmp_path)
    assert (inputs.mean, inputs.std, data) == ("0.1", "0.2", Path("other"))


def test_paths_are_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recorded.write(tmp_path, Inputs(classes=Path("names")), Path("images"))
    inputs, data = recorded.completed(Inputs(), None, tmp_path)
    assert (inputs.classes, data) == (tmp_path / "names", tmp_path / "images")


def test_nothing_that_runs_code_is_kept(tmp_path: Path) -> None:
    recorded.write(tmp_path, Inputs(architecture="net.py:make", allow_code=True, no_sandbox=True))
    assert json.loads((tmp_path / recorded.FILE).read_text())["options"] == {}


@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "/tmp/evil.py:make"},
        {"allow_code": True},
        {"no_sandbox": True},
        {"mean": 3},
        {"scale": True},
        {"crop": "other"},
        {"bgr": "yes"},
        {"nonsense": "x"},
        [1, 2],
    ],
)
def test_a_file_that_holds_anything_else_is_refused(tmp_path: Path, options: Any) -> None:
    (tmp_path / recorded.FILE).write_text(json.dumps({"schema_version": 1, "options": options}))
    with pytest.raises(OutputError, match=recorded.FILE):
        recorded.completed(Inputs(), None, tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"schema_version": 2, "options": {}}', "[" * 100_000])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / recorded.FILE).write_text(content)
    with pytest.raises(OutputError, match="cannot be read"):
        recorded.completed(Inputs(), None, tmp_path)


def test_a_scan_without_the_file_leaves_all_as_it_is(tmp_path: Path) -> None:
    assert recorded.completed(Inputs(mean="1"), None, tmp_path) == (Inputs(mean="1"), None)


def test_repair_and_guard_and_a_second_scan_need_no_options_again(tmp_path: Path, demo_files: Path) -> None:
    model, digits = str(demo_files / "infected.safetensors"), str(demo_files / "digits.npz")
    fast = ("--labels", "0-4", "--restarts", "1", "--quiet")
    first = run(
        "scan", "--patches-only", model, "--data", digits, "--scale", "1", "--output", str(tmp_path / "a"), *fast
    )
    assert first.code in (0, 1, 3), first.err
    kept = json.loads((tmp_path / "a" / recorded.FILE).read_text())["options"]
    assert kept == {"data": digits, "scale": 1.0}
    second = run("scan", "--patches-only", model, "--like", str(tmp_path / "a"), "--output", str(tmp_path / "b"), *fast)
    assert second.code == first.code, second.err
    sizes = [
        [row["size"] for row in json.loads((tmp_path / name / "scan.json").read_text())["labels"]] for name in "ab"
    ]
    assert sizes[0] == sizes[1]
    fixed = run(
        "repair", model, "--scan", str(tmp_path / "a"), "--output", str(tmp_path / "fixed.safetensors"), "--quiet"
    )
    assert fixed.code in (0, 3), fixed.err
    fitted = run(
        "guard", "fit", model, "--scan", str(tmp_path / "a"), "--output", str(tmp_path / "g"), "--labels", "0-4"
    )
    assert fitted.code == 0, fitted.err
    checked = run("guard", "check", digits, "--model", model, "--guard", str(tmp_path / "g"), "--at-most", "1")
    assert checked.code == 0, checked.err


def test_a_typed_size_replaces_a_kept_preset_and_the_other_way_round(tmp_path: Path) -> None:
    preset = PresetTransform.imagenet
    recorded.write(tmp_path, Inputs(preset_transform=preset))
    found, _ = recorded.completed(Inputs(resize="8x8", typed=frozenset({"resize"})), None, tmp_path)
    assert (found.resize, found.preset_transform) == ("8x8", None)
    assert recorded.completed(Inputs(), None, tmp_path)[0].preset_transform is preset
    recorded.write(tmp_path, Inputs(resize="8x8"))
    typed = Inputs(preset_transform=preset, typed=frozenset({"preset_transform"}))
    assert recorded.completed(typed, None, tmp_path)[0].resize is None


def test_a_directory_without_options_is_not_followed(tmp_path: Path) -> None:
    assert recorded.with_options(None) is None
    with pytest.raises(OutputError, match=r"holds no options of a scan.*scan --output"):
        recorded.with_options(tmp_path)
    recorded.write(tmp_path, TYPED)
    assert recorded.with_options(tmp_path) == tmp_path


@pytest.mark.parametrize(
    "words", [("repair", "m.pt", "--output", "r.pt"), ("guard", "fit", "m.pt", "--output", "g"), ("report",)]
)
def test_a_scan_that_is_none_is_told_before_anything_else(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("x")
    for scan in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        done = run(*words, *(() if words[0] == "report" else ("--scan",)), str(scan))
        assert done.code == 2 and "holds no finished scan" in done.err, done.err
        assert "Traceback" not in done.err
