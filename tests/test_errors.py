"""Every error says what to do: with a cure of its own, or with the one that its reader's caller has."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import neural_cleanse
from neural_cleanse import errors
from neural_cleanse.errors import ModelError, NeuralCleanseError, or_cure

SOURCE = Path(neural_cleanse.__file__).parent
NAMES = {name for name, value in vars(errors).items() if isinstance(value, type)}
# Readers whose callers add the cure: formats.py and load.py for models, images/load.py for images.
CURED_BY_CALLER = ("loading/onnx", "loading/pt2", "loading/keras", "loading/huggingface", "loading/images")
CURED_FILES = {
    f"loading/{name}.py" for name in ("array_weights", "checkpoint", "fitting", "weight_sets", "weights", "zip_guard")
}


def raised() -> Iterator[tuple[str, ast.Call]]:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES:
                yield path.relative_to(SOURCE).as_posix(), node


def test_every_error_has_a_cure() -> None:
    without = [
        f"{place}:{call.lineno}"
        for place, call in raised()
        if not any(keyword.arg == "cure" for keyword in call.keywords)
        and not place.startswith(CURED_BY_CALLER)
        and place not in CURED_FILES
    ]
    assert without == []
    assert len(list(raised())) > 500


def test_the_callers_cure_is_for_errors_without_one() -> None:
    with pytest.raises(ModelError) as bare, or_cure(lambda message: f"Mend the {message[:4]}."):
        raise ModelError("file is broken.")
    assert str(bare.value) == "file is broken. Mend the file."
    with pytest.raises(NeuralCleanseError) as own, or_cure(lambda _: "Another."):
        raise ModelError("It is broken.", cure="Its own.")
    assert own.value.cure == "Its own."
