"""Every error says what to do, with a cure of its own."""

import ast
from collections.abc import Iterator
from pathlib import Path

import neural_cleanse
from neural_cleanse import errors

SOURCE = Path(neural_cleanse.__file__).parent
NAMES = {name for name, value in vars(errors).items() if isinstance(value, type)}


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
    ]
    assert without == []
    assert len(list(raised())) > 500


def test_no_cure_is_chosen_by_the_words_of_a_message() -> None:
    changed = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare) and any(isinstance(operator, ast.In | ast.NotIn) for operator in node.ops)
        for compared in node.comparators
        if isinstance(compared, ast.Attribute) and compared.attr in ("message", "cure")
    ]
    assert changed == []
