"""Commands as a shell would call them, in this process."""

import contextlib
import io
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from neural_cleanse.cli import main


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code and what it said."""

    code: int
    out: str
    err: str


def run(*arguments: object) -> Ran:
    """Call the entry point as the shell would."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["neural-cleanse", *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main.run()
                code: Any = 0
            except SystemExit as end:
                code = end.code
    return Ran(code or 0, out.getvalue(), err.getvalue())


def files_under(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def one_message(ran: Ran) -> bool:
    """Whether it told of one error, without a traceback."""
    return len(re.findall(r"^error:|─ Error ─", ran.err, re.MULTILINE)) == 1 and "Traceback" not in ran.err


def refused(ran: Ran, words: str) -> None:
    """One message with these words, exit code 2, and nothing on stdout."""
    assert ran.code == 2, ran.out + ran.err
    assert ran.out == "" and one_message(ran), ran.err
    assert words in " ".join(ran.err.split()), ran.err


def strict(text: str) -> Any:
    """JSON without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def deny_writing(patch: pytest.MonkeyPatch, directory: Path) -> None:
    """Nothing can be made in the directory any more, also by root, who may write everywhere."""
    unchanged = Path.open

    def opened(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if path.parent == directory and "r" not in mode:
            raise PermissionError(13, "Permission denied", str(path))
        return unchanged(path, mode, *more, **named)

    patch.setattr(Path, "open", opened)
