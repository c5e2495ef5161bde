"""Fail when a file, a function, a parameter list or the unnamed values of a record grow too many: for `make check`.

Commands of the command line may have as many parameters as they have options; the body counts for their length.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS, MAX_UNNAMED_VALUES = 300, 60, 8, 5
# The public functions take their parts by keyword, one a part.
MORE_PARAMETERS = {"api/scan.py:scan", "detection/scan.py:scan", "mitigation/repair.py:repair"}


def findings(source: Path) -> Iterator[str]:
    """One line for everything that is too long."""
    for path in sorted(source.rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(source).as_posix()
        lines = len(text.splitlines())
        if lines > MAX_FILE_LINES:
            yield f"{name}: {lines} lines, at most {MAX_FILE_LINES}"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                yield from _of_function(node, name)
            elif isinstance(node, ast.Call):
                yield from _of_record(node, name)


def _of_function(node: ast.FunctionDef, file: str) -> Iterator[str]:
    command = file.startswith("cli/") and _is_command(node)
    first = node.body[0].lineno if command else node.lineno
    length = (node.end_lineno or node.lineno) - first + 1
    if length > MAX_FUNCTION_LINES:
        yield f"{file}:{node.lineno} {node.name}: {length} lines, at most {MAX_FUNCTION_LINES}"
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    count = len(names) - (names[:1] in (["self"], ["cls"]))
    if count > MAX_PARAMETERS and not command and f"{file}:{node.name}" not in MORE_PARAMETERS:
        yield f"{file}:{node.lineno} {node.name}: {count} parameters, at most {MAX_PARAMETERS}"


def _of_record(node: ast.Call, file: str) -> Iterator[str]:
    """A record, told by its name, says which of its many values is which."""
    is_record = isinstance(node.func, ast.Name) and node.func.id.lstrip("_")[:1].isupper()
    if is_record and len(node.args) > MAX_UNNAMED_VALUES:
        yield (
            f"{file}:{node.lineno} {ast.unparse(node.func)}: {len(node.args)} values without a name, at most "
            f"{MAX_UNNAMED_VALUES}"
        )


def _is_command(node: ast.FunctionDef) -> bool:
    """Commands declare their parameters with typer, or with the shared options."""
    annotations = [ast.unparse(argument.annotation) for argument in node.args.args if argument.annotation]
    return any("typer." in text or text.startswith("options.") for text in annotations)


if __name__ == "__main__":
    too_long = list(findings(Path(__file__).parents[1] / "src" / "neural_cleanse"))
    sys.stdout.write("".join(f"{line}\n" for line in too_long))
    sys.exit(bool(too_long))
