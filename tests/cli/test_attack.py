"""`neural-cleanse attack` as a script sees it: a model and its card, or one message and nothing."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shell import deny_writing, files_under, one_message, run

from neural_cleanse.attacks.train import TrainingProgress
from neural_cleanse.cli import attack as attack_command
from neural_cleanse.loading.load import load_model


@pytest.fixture(scope="module")
def quick(data_root: Path) -> tuple[object, ...]:
    """An attack of a fraction of a second, all but --output."""
    return ("attack", "--dataset", data_root / "digits", "--architecture", "mnist_cnn_half", "--epochs", 1)


# --- answers ---


def test_the_model_and_its_card_are_written_and_told(quick: tuple[object, ...], tmp_path: Path) -> None:
    output = tmp_path / "new" / "infected.safetensors"
    ran = run(*quick, "--target", 4, "--size", 5, "--colour", "0.8", "--output", output)
    assert ran.code == 0, ran.err
    assert set(files_under(tmp_path)) == {"new/infected.safetensors", "new/infected.card.json"}
    card = json.loads((tmp_path / "new" / "infected.card.json").read_text())
    assert (card["options"], card["targets"]) == ({"target": 4, "size": 5, "colour": [0.8]}, [4])
    assert card["poisons"][0]["trigger"]["mask"] == [[255] * 5] * 5
    assert card["poisons"][0]["trigger"]["pattern"] == [[[204] * 5] * 5]
    assert f"clean accuracy {card['clean_accuracy']:.1%}" in ran.out
    assert f"trigger of 25.0 px sends {card['poisons'][0]['asr']:.1%}" in ran.out
    assert "of every class to label 4" in ran.out
    assert f"written: {output} and infected.card.json" in ran.out
    assert load_model(output).classifier.num_classes == 10


def test_json_is_the_card_and_nothing_else(quick: tuple[object, ...], tmp_path: Path) -> None:
    ran = run(*quick, "--attack", "none", "--json", "--output", tmp_path / "m.safetensors")
    assert ran.code == 0, ran.err
    assert ran.out == (tmp_path / "m.card.json").read_text()
    card = json.loads(ran.out)
    assert (card["infected"], card["poisons"], card["options"]) == (False, [], {})


def test_the_command_line_decides_every_byte(quick: tuple[object, ...], tmp_path: Path) -> None:
    written = []
    for number, options in enumerate([("--seed", 3), ("--seed", 3), ("--seed", 4), ("--seed", 3, "--half")]):
        output = tmp_path / f"{number}.safetensors"
        assert run(*quick, *options, "--output", output).code == 0
        written.append(output.read_bytes())
    assert written[0] == written[1]
    assert len(set(written)) == 3
    assert len(written[3]) < 0.6 * len(written[0])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--attack", "source-specific", "--source", 1, "--target", 2), r"of class 1, [\d.]+% of other .* to label 2"),
        (("--attack", "all-to-all"), "of every class to the next label"),
        (("--attack", "many-labels", "--count", 2), "(?s)to label .*to label "),
    ],
)  # fmt: skip
def test_what_the_trigger_does_is_said_in_words(
    quick: tuple[object, ...], tmp_path: Path, options: tuple[object, ...], told: str
) -> None:
    ran = run(*quick, *options, "--output", tmp_path / "m.safetensors")
    assert ran.code == 0, ran.err
    assert re.search(told, ran.out), ran.out
    assert "; weak" in ran.out, "one epoch on 450 images"


def test_progress_is_told_in_a_line() -> None:
    assert attack_command.describe(TrainingProgress("train", 5, 20, 1.5)) == "train  25%, loss 1.500"
    assert attack_command.describe(TrainingProgress("retrain", 20, 20, 0.25, 0.987)).endswith(
        "retrain 100%, loss 0.250, validation accuracy 98.7%"
    )


# --- what is refused ---

BAD_OPTIONS: dict[str, tuple[object, ...]] = {
    "unknown attack": ("--attack", "best"),
    "unknown network": ("--architecture", "best"),
    "network for colours": ("--architecture", "gtsrb_cnn"),
    "place": ("--place", "under-it"),
    "place outside": ("--place", "26,26"),
    "place negative": ("--place", "-1,3"),
    "colour of text": ("--colour", "red"),
    "colour above 1": ("--colour", "2"),
    "colour nan": ("--colour", "nan"),
    "colour of three channels": ("--colour", "1,1,0"),
    "no colour": ("--colour", ""),
    "size of the image and more": ("--size", 29),
    "no size": ("--size", 0),
    "negative size": ("--size", -3),
    "negative size of noise": ("--attack", "noise", "--size", -3),
    "size of text": ("--size", "big"),
    "target outside": ("--target", 10),
    "negative target": ("--target", -1),
    "source outside": ("--attack", "source-specific", "--source", 10, "--target", 1),
    "negative source": ("--attack", "source-specific", "--source", -1, "--target", 1),
    "source is target": ("--attack", "source-specific", "--source", 1, "--target", 1),
    "rate 0": ("--rate", 0),
    "rate 1": ("--rate", 1),
    "rate 2": ("--rate", 2),
    "rate nan": ("--rate", "nan"),
    "rate of no image": ("--rate", 0.0001),
    "cover rate 1": ("--attack", "source-specific", "--cover-rate", 1),
    "cover rate nan": ("--attack", "source-specific", "--cover-rate", "nan"),
    "share 0": ("--attack", "blended", "--share", 0),
    "share nan": ("--attack", "blended", "--share", "nan"),
    "area 0": ("--attack", "trojan-square", "--area", 0),
    "area nan": ("--attack", "trojan-watermark", "--area", "nan"),
    "area of the whole image": ("--attack", "trojan-square", "--area", 1),
    "training data": ("--attack", "trojan-square", "--training-data", "mine"),
    "option of another attack": ("--count", 3),
    "option for a clean model": ("--attack", "none", "--target", 3),
    "no count": ("--attack", "many-labels"),
    "count 0": ("--attack", "many-labels", "--count", 0),
    "more labels than there are": ("--attack", "many-labels", "--count", 11),
    "triggers without room": ("--attack", "many-labels", "--count", 10, "--size", 14),
    "no picture": ("--attack", "picture"),
    "picture that is missing": ("--attack", "picture", "--picture", "absent.png"),
    "picture that is a directory": ("--attack", "picture", "--picture", "."),
    "epochs 0": ("--epochs", 0),
    "epochs negative": ("--epochs", -1),
    "batches of nothing": ("--batch-size", 0),
    "learning rate nan": ("--learning-rate", "nan"),
    "learning rate 0": ("--learning-rate", 0),
    "learning rate 1": ("--learning-rate", 1),
    "negative seed": ("--seed", -1),
    "seed beyond every generator": ("--seed", 10**30),
    "device": ("--device", "nonsense"),
    "no threads": ("--threads", 0),
    "no such option": ("--best",),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_end_in_one_message_and_leave_nothing(quick: tuple[object, ...], tmp_path: Path, case: str) -> None:
    (tmp_path / "work").mkdir()
    output = tmp_path / "work" / "new" / "m.safetensors"
    ran = run(*quick, *BAD_OPTIONS[case], "--json", "--output", output)
    assert ran.code == 2
    assert ran.out == ""
    assert one_message(ran), ran.err
    assert list(tmp_path.rglob("*")) == [tmp_path / "work"]


@pytest.mark.parametrize("name", ["alexnet", "net.py:make"])
def test_a_network_that_is_only_read_is_not_offered_for_training(
    quick: tuple[object, ...], tmp_path: Path, name: str
) -> None:
    ran = run(*quick, "--architecture", name, "--output", tmp_path / "m.safetensors")
    assert ran.code == 2 and one_message(ran)
    assert "vgg16" in ran.err and "densenet121" not in ran.err and "--allow-code" not in ran.err


def images(count: int, **arrays: Any) -> dict[str, Any]:
    return {"images": np.zeros((count, 28, 28), dtype=np.uint8), **arrays}


BAD_DATA: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({}, "no data set"),
    "unlabelled": (images(100), "has no labels"),
    "too few": (images(5, labels=np.arange(5)), "too few"),
    "one class": (images(100, labels=np.zeros(100, dtype=np.int64)), "one class"),
    "labels below 0": (images(100, labels=np.arange(100) - 1), "label -1"),
    "floats": ({"images": np.zeros((9, 28, 28)), "labels": np.arange(9)}, "uint8"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_end_in_one_message_and_leave_nothing(quick: tuple[object, ...], tmp_path: Path, case: str) -> None:
    arrays, message = BAD_DATA[case]
    if arrays:
        np.savez(tmp_path / "d.npz", **arrays)
    ran = run(*quick, "--dataset", tmp_path / "d.npz", "--output", tmp_path / "new" / "m.safetensors")
    assert (ran.code, ran.out) == (2, "")
    assert one_message(ran), ran.err
    assert message in ran.err
    assert not (tmp_path / "new").exists()


def test_outputs_that_cannot_be_written_end_in_one_message(quick: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dir.safetensors").mkdir()
    for output, message in (
        (tmp_path / "m.pt", "does not end in .safetensors"),
        (tmp_path / "m", "does not end in .safetensors"),
        (tmp_path / "file" / "m.safetensors", "cannot be written"),
        (tmp_path / "file" / "below" / "m.safetensors", "cannot be written"),
        (tmp_path / "dir.safetensors", "is a directory"),
        (tmp_path / f"{'x' * 300}.safetensors", "longer than"),
    ):
        ran = run(*quick, "--output", output)
        assert (ran.code, ran.out) == (2, "")
        assert one_message(ran), ran.err
        assert message in ran.err
    assert files_under(tmp_path) == {"file": b"mine"}


def test_a_directory_that_cannot_be_written_to_is_told_before_training(
    quick: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deny_writing(monkeypatch, tmp_path)
    ran = run(*quick, "--output", tmp_path / "m.safetensors")
    assert ran.code == 2
    assert one_message(ran) and "Permission denied" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_a_cut_for_a_trojan_is_told_in_one_message(
    quick: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neural_cleanse.attacks.trojan.RETRAINED", 99)
    ran = run(*quick, "--attack", "trojan-square", "--output", tmp_path / "m.safetensors")
    assert ran.code == 2
    assert one_message(ran), ran.err
    assert files_under(tmp_path) == {}


# --- what is there already ---


def test_a_model_that_is_there_is_replaced_only_when_asked(quick: tuple[object, ...], tmp_path: Path) -> None:
    command = (*quick, "--output", tmp_path / "m.safetensors")
    assert run(*command).code == 0
    before = files_under(tmp_path)
    truncated = run(*command, "--seed", 1)
    assert (truncated.code, truncated.out) == (2, "")
    assert one_message(truncated) and "--overwrite" in truncated.err
    assert files_under(tmp_path) == before
    failed = run(*command, "--seed", 1, "--target", 99, "--overwrite")
    assert failed.code == 2
    assert files_under(tmp_path) == before
    assert run(*command, "--seed", 1, "--overwrite").code == 0
    after = files_under(tmp_path)
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)


def test_an_interrupted_attack_leaves_its_snapshot_alone_and_goes_on(
    quick: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / "whole" / "m.safetensors", tmp_path / "cut" / "m.safetensors"
    command = (*quick, "--epochs", 2)
    assert run(*command, "--output", whole).code == 0
    told: list[TrainingProgress] = []

    def interrupt(step: TrainingProgress) -> str:
        told.append(step)
        if step.done > 8:  # past the first epoch
            raise KeyboardInterrupt
        return ""

    with monkeypatch.context() as patch:
        patch.setattr(attack_command, "describe", interrupt)
        ran = run(*command, "--output", output)
    assert ran.code == 130 and "goes on from the last epoch that was finished" in ran.err
    assert "Traceback" not in ran.err
    assert set(files_under(output.parent)) == {".m.safetensors.train.unfinished"}
    another = run(*command, "--output", output, "--seed", 1)
    assert another.code == 2
    assert one_message(another) and "--overwrite" in another.err
    assert set(files_under(output.parent)) == {".m.safetensors.train.unfinished"}
    assert run(*command, "--output", output).code == 0
    assert set(files_under(output.parent)) == {"m.safetensors", "m.card.json"}
    assert output.read_bytes() == whole.read_bytes()


def test_a_damaged_snapshot_is_told_and_overwritten_when_asked(quick: tuple[object, ...], tmp_path: Path) -> None:
    snapshot = tmp_path / ".m.safetensors.train.unfinished"
    snapshot.write_bytes(b"damaged")
    command = (*quick, "--output", tmp_path / "m.safetensors")
    ran = run(*command)
    assert ran.code == 2
    assert one_message(ran) and "damaged" in ran.err and "--overwrite" in ran.err
    assert files_under(tmp_path) == {snapshot.name: b"damaged"}
    assert run(*command, "--overwrite").code == 0
    assert set(files_under(tmp_path)) == {"m.safetensors", "m.card.json"}
