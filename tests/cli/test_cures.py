"""Mistakes as people make them: exit code 2, one message, and under it what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from shell import Ran, run

from neural_cleanse.errors import UnknownFormat
from neural_cleanse.loading.load import load_model


def said(ran: Ran) -> str:
    """What was wrong and what to do, once it is sure that there is nothing else."""
    assert ran.code == 2 and ran.out == "" and "Traceback" not in ran.err and "Warning" not in ran.err
    assert ran.err.count("error:") == 1 and ran.err.count("\n  try: ") == 1, ran.err
    return ran.err


def test_a_model_file_that_is_not_there_names_those_of_a_similar_name(demo_files: Path, tmp_path: Path) -> None:
    for name in ("infected.safetensors", "clean.safetensors"):
        shutil.copy(demo_files / name, tmp_path)
    data = ("--data", demo_files / "digits.npz", "--output", tmp_path / "out")
    near = tmp_path / "infected.safetensors"
    for wrong in ("infcted.safetensors", "infected.pt", "Infected.safetensor"):
        assert f"Do you mean {near}?" in said(run("scan", tmp_path / wrong, *data))
    assert "Check the path." in said(run("scan", tmp_path / "zzz", *data))
    assert f"there is no directory {tmp_path / 'models'}" in said(run("scan", tmp_path / "models" / "net.pt", *data))


def test_images_that_are_not_there_are_looked_for_like_models(demo_files: Path, tmp_path: Path) -> None:
    shutil.copy(demo_files / "digits.npz", tmp_path)
    model = demo_files / "clean.safetensors"
    assert f"Do you mean {tmp_path / 'digits.npz'}?" in said(run("scan", model, "--data", tmp_path / "digit"))
    assert f"no directory {tmp_path / 'data'}" in said(run("scan", model, "--data", tmp_path / "data" / "digits.npz"))


def test_labels_that_the_model_does_not_have_are_told_with_its_range(demo_files: Path) -> None:
    ran = run("scan", demo_files / "clean.safetensors", "--data", demo_files / "digits.npz", "--labels", "99")
    assert "labels 0 to 9, not 99" in said(ran) and "Choose among 0 to 9" in ran.err


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_model_file_says_to_copy_it_again(demo_files: Path, tmp_path: Path, share: float) -> None:
    content = (demo_files / "clean.safetensors").read_bytes()
    torch.save({"weight": torch.zeros(100)}, tmp_path / "whole.pt")
    for name, whole in (("a.safetensors", content), ("a.pt", (tmp_path / "whole.pt").read_bytes())):
        (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
        assert "again" in said(run("scan", tmp_path / name, "--data", demo_files / "digits.npz"))


@pytest.mark.parametrize("command", ["scan", "inspect"])
def test_a_damaged_archive_has_a_cure_in_every_command(demo_files: Path, tmp_path: Path, command: str) -> None:
    np.savez(tmp_path / "w.npz", **{"0.weight": np.zeros(9)})
    (tmp_path / "w.npz").write_bytes((tmp_path / "w.npz").read_bytes()[:-9])
    data = ("--data", demo_files / "digits.npz") if command == "scan" else ()
    assert "Copy or download it again" in said(run(command, tmp_path / "w.npz", *data))


def test_an_output_that_is_a_file_is_refused_before_the_work(demo_files: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("words", encoding="utf-8")
    model, data = demo_files / "clean.safetensors", demo_files / "digits.npz"
    told = said(run("scan", model, "--data", data, "--output", tmp_path / "README.md"))
    assert "Name another directory with --output" in told
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "words"


def drop_half(text: str) -> str:
    return text[: len(text) // 2]


def another_version(text: str) -> str:
    return json.dumps({**json.loads(text), "schema_version": 0})


def no_labels(text: str) -> str:
    return json.dumps({key: value for key, value in json.loads(text).items() if key != "labels"})


@pytest.mark.parametrize("change", [drop_half, another_version, no_labels, lambda _: "[]", lambda _: ""])
def test_a_damaged_scan_says_what_to_do_in_every_command(
    scanned_infected: Path, demo_files: Path, tmp_path: Path, change: Callable[[str], str]
) -> None:
    scan = tmp_path / "scan"
    shutil.copytree(scanned_infected, scan)
    text = (scan / "scan.json").read_text(encoding="utf-8")
    (scan / "scan.json").write_text(change(text), encoding="utf-8")
    model, data = demo_files / "infected.safetensors", demo_files / "digits.npz"
    for command in (
        ("report", scan),
        ("repair", model, "--scan", scan, "--data", data, "--output", tmp_path / "fixed.safetensors"),
        ("guard", "fit", model, "--scan", scan, "--data", data, "--output", tmp_path / "guard"),
    ):
        assert "can the model again" in said(run(*command))
    assert not (tmp_path / "guard").exists() and not (tmp_path / "fixed.safetensors").exists()


def test_a_benchmark_without_cards_says_how_they_come_about(tmp_path: Path) -> None:
    assert "zoo build" in said(run("benchmark", tmp_path, "--data", tmp_path, "--rows", tmp_path / "rows.jsonl"))


def test_a_trigger_that_is_neither_card_nor_picture_is_called_so(
    scanned_infected: Path, demo_files: Path, tmp_path: Path
) -> None:
    words = tmp_path / "README.md"
    words.write_text("# A project", encoding="utf-8")
    model, data = demo_files / "infected.safetensors", demo_files / "digits.npz"
    ran = run(
        "repair", model, "--scan", scanned_infected, "--data", data, "--output", tmp_path / "fixed.safetensors",
        "--verify-trigger", words,
    )  # fmt: skip
    assert "neither a model card nor a picture" in said(ran)


@pytest.mark.parametrize("text", ["some words that fit\n", "a,b,c,d\n\n", "0,1,2,3\n4,5,6\n", "pixels\n"])
def test_text_that_is_no_table_ends_in_our_own_words(demo_files: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "notes.csv").write_text(text, encoding="utf-8")
    said(run("scan", demo_files / "clean.safetensors", "--data", tmp_path / "notes.csv"))


def test_an_array_of_another_shape_says_which_are_read(demo_files: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", images=np.zeros((2, 3, 4, 5, 6), np.uint8), labels=np.zeros(2, np.int64))
    assert "n h w" in said(run("scan", demo_files / "clean.safetensors", "--data", tmp_path / "odd.npz"))


def test_a_directory_with_a_model_in_it_names_the_file(demo_files: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    shutil.copy(demo_files / "clean.safetensors", tmp_path / "model" / "model.safetensors")
    with pytest.raises(UnknownFormat) as refused:  # `scan` takes it for a batch of models
        load_model(tmp_path / "model")
    assert f"Give the model file itself ({tmp_path / 'model' / 'model.safetensors'})" in refused.value.cure


def test_a_text_given_as_the_model_is_called_so(demo_files: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}', encoding="utf-8")
    told = said(run("scan", tmp_path / "config.json", "--data", demo_files / "digits.npz"))
    assert "is a text file, not a model" in told and "Hugging Face" in told
