"""Errors name keywords in Python: no message of the layers below keeps an option of the command line."""

import ast
import re
from pathlib import Path

import pytest

import neural_cleanse
from neural_cleanse.api.errors import in_python, python_errors
from neural_cleanse.errors import DataError

SOURCE = Path(neural_cleanse.__file__).parent
OF_THE_COMMAND_LINE = ("cli", "evaluation", "attacks", "api")  # not called by scan, repair or fit_guard


@pytest.mark.parametrize(
    ("option", "keyword"),
    [
        ("Pass --resize 32x28.", "Pass resize=(32, 28)."),
        ("Pass --resize HxW.", "Pass resize=(height, width)."),
        ("Check --mean, --std and --scale.", "Check mean=, std= and scale=."),
        (" With --mean 0.5,0.4,0.3 --std 0.5 it", " With mean=(0.5, 0.4, 0.3) std=0.5 it"),
        ("With --scale 255 --bgr it would be 90.0%.", "With scale=255 bgr=True it would be 90.0%."),
        ("pass --allow-code (allow_code=True) if", "pass allow_code=True if"),
        ("--force to scan all the same", "ScanSettings(force=True) to scan all the same"),
        ("--plan full gives them", "ScanSettings(plan='full') gives them"),
        ("with --architecture NAME, or", "with architecture='NAME', or"),
        ("a--b and -- stay", "a--b and -- stay"),
    ],
)
def test_options_become_keywords(option: str, keyword: str) -> None:
    assert in_python(option) == keyword


@pytest.mark.parametrize(
    ("function", "keyword"),
    [
        ("scan", "ScanSettings(labels=(3,)), ScanSettings(labels='all') or samples=9"),
        ("repair", "RepairSettings(labels=(3,)), RepairSettings(labels='all') or samples=9"),
        ("fit_guard", "labels=(3,), labels='all' or samples=9"),
    ],
)
def test_settings_are_those_of_the_function(function: str, keyword: str) -> None:
    keyword = keyword.replace("samples=9", "ScanSettings(samples=9)") if function == "scan" else keyword
    assert in_python("--labels 3, --labels all or --samples 9", function) == keyword


def test_no_string_of_the_library_keeps_an_option() -> None:
    strings = [
        node.value
        for path in SOURCE.rglob("*.py")
        if path.relative_to(SOURCE).parts[0] not in OF_THE_COMMAND_LINE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"--[a-z]", node.value)
    ]
    assert len(strings) > 30
    assert [text for text in strings if re.search(r"(?<![\w-])--[a-z]", in_python(text))] == []


def test_kind_and_cause_of_an_error_stay() -> None:
    with pytest.raises(DataError, match=r"^Too big\. Pass resize=\(3, 4\)\.$") as raised, python_errors():
        raise DataError("Too big.", cure="Pass --resize 3x4.") from ValueError("why")
    assert isinstance(raised.value.__cause__, ValueError)


def test_a_message_ends_before_its_cure_begins() -> None:
    assert str(DataError("It does not fit: 3 is not 4", cure="Resize it.")) == "It does not fit: 3 is not 4. Resize it."
    assert str(DataError("Why?", cure="Ask.")) == "Why? Ask."
    assert str(DataError("It does not fit")) == "It does not fit"
