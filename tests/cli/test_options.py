"""Options stand in groups, are the same for all commands that open a model, and reach the loader as values."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shell import run

from neural_cleanse.classifier import Normalize
from neural_cleanse.cli import inputs, options
from neural_cleanse.cli.main import load_command
from neural_cleanse.cli.options import Inputs
from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet

COMMANDS = [("scan",), ("repair",), ("guard", "fit"), ("guard", "check")]


def command(words: tuple[str, ...]) -> Any:
    """The command that these words call."""
    found = load_command(words[0])
    for word in words[1:]:
        found = found.commands[word]
    return found


def shown(words: tuple[str, ...]) -> dict[str, list[str]]:
    """The options of a command by the group that --help shows them in, in its order."""
    import typer

    found = command(words)
    groups: dict[str, list[str]] = {}
    for known in found.get_params(typer.Context(found)):
        if known.param_type_name == "option":
            groups.setdefault(known.rich_help_panel, []).append(known.name)
    return groups


@pytest.mark.parametrize("words", COMMANDS)
def test_the_first_group_has_at_most_twelve_options_and_holds_the_help(words: tuple[str, ...]) -> None:
    groups = shown(words)
    assert next(iter(groups)) == options.COMMON and None not in groups
    assert len(groups[options.COMMON]) <= 12 and "help" in groups[options.COMMON]


@pytest.mark.parametrize("words", COMMANDS)
def test_help_shows_the_common_options_and_help_all_every_one(words: tuple[str, ...]) -> None:
    groups = shown(words)
    short, long = (run(*words, asked) for asked in ("--help", "--help-all"))
    assert (short.code, long.code) == (0, 0)
    further = [group for group in groups if group != options.COMMON]
    assert further and not [group for group in further if f"─ {group} ─" in short.out]
    assert all(f"─ {group} ─" in long.out for group in groups) and f"─ {options.COMMON} ─" in short.out
    count = sum(len(groups[group]) for group in further)
    assert f"--help-all shows {count} more options" in " ".join(short.out.replace("│", " ").split())


@pytest.mark.parametrize("words", [(), ("guard",), *COMMANDS])
def test_a_flag_shows_no_value(words: tuple[str, ...]) -> None:
    printed = run(*words, "--help").out
    assert "--help" in printed and "<bool>" not in printed


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_that_opens_a_model_has_every_option_for_it(words: tuple[str, ...]) -> None:
    left_out = {"scan": {"features"}, "fit": {"ignore_labels"}, "check": {"ignore_labels", "features"}}
    has = {name for names in shown(words).values() for name in names}
    assert {field.name for field in fields(Inputs)} - {"typed"} - has == left_out.get(words[-1], set())


def test_what_is_typed_becomes_values() -> None:
    form = inputs.parsed(Inputs(architecture="resnet18", mean="0.5", std="0.25", resize="32x24", bgr=True))
    assert form.normalize == Normalize((0.5,), (0.25,), 1.0, True)
    assert form.architecture == "resnet18" and form.resize == (32, 24) and not form.crop_roi


def test_without_images_the_message_names_the_option() -> None:
    with pytest.raises(SettingsError, match="clean images") as caught:
        inputs.named_data(None)
    assert caught.value.cure is not None and "--data" in caught.value.cure
    assert inputs.named_data(Path("x")) == Path("x")


@pytest.mark.parametrize("text", ["cat\ndog\n", '["cat", "dog"]', "\ufeffcat\r\n dog\n\n"])
def test_the_order_of_classes_is_read_from_lines_or_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "names").write_text(text, encoding="utf-8")
    assert inputs.read_classes(tmp_path / "names") == ("cat", "dog")


@pytest.mark.parametrize("text", ["", "cat\n\ndog", "cat\ncat", "[1, 2]", "[", '["a", ""]'])
def test_what_is_no_list_of_classes_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "names").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match="names"):
        inputs.read_classes(tmp_path / "names")


def test_images_are_numbered_in_the_models_order_of_classes(tmp_path: Path, demo_files: Path, digits: ImageSet) -> None:
    model, labels = demo_files / "clean.safetensors", digits.labels
    assert labels is not None
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    order = tuple(sorted(words))  # as folders of these names would be numbered
    moved = torch.tensor([order.index(words[label]) for label in labels.tolist()])
    images = replace(digits, labels=moved, names=order)
    loaded, ordered = inputs.open_for(images, model, inputs.InputOptions(classes=words))
    assert ordered.labels is not None and ordered.labels.equal(labels)
    assert loaded.origin.label_names == words
    with pytest.raises(SettingsError, match="--classes names 2 classes"):
        inputs.open_for(images, model, inputs.InputOptions(classes=("a", "b")))


def test_a_preset_gives_size_and_normalisation_unless_they_are_typed() -> None:
    form = inputs.parsed(Inputs(preset_transform=options.PresetTransform.imagenet, std="0.5"))
    assert form.centre_crop == (256, 224)
    assert form.normalize == Normalize((0.485, 0.456, 0.406), (0.5,))
    with pytest.raises(SettingsError, match="brings the images to size"):
        inputs.parsed(Inputs(preset_transform=options.PresetTransform.imagenet, resize="32x32"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("scan", "", "--data", "d"), "An argument is empty"),
        (("scan", "m.pt", "--data", ""), "An argument after --data is empty"),
        (("inspect", ""), "An argument is empty"),
        (("guard", "check", "images", "--guard", ""), "An argument after --guard is empty"),
    ],
)
def test_an_empty_argument_is_no_path_to_the_current_directory(words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.code == 2 and said in done.err and "variable of the shell" in done.err


@pytest.mark.parametrize(
    ("given", "said"),
    [("9-3", "9-3 is an empty range"), ("1,0-1000001", "more than 1,000,000 labels"), ("-1", "which count from 0")],
)
def test_labels_that_are_none_are_told_why(given: str, said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        options.labels(given)
