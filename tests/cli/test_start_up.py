"""Help, version and completion answer at once: they load none of what a scan needs."""

import os
import subprocess
import sys

import pytest

from neural_cleanse.cli.main import COMMANDS, load_command

HEAVY = ("torch", "numpy", "safetensors", "PIL", "jinja2", "jaxtyping")
PROGRAM = f"""
import atexit, sys
sys.argv[0] = "neural-cleanse"
atexit.register(lambda: sys.stderr.write("loaded:" + ",".join(name for name in {HEAVY!r} if name in sys.modules)))
from neural_cleanse.cli.main import run
run()
"""


def loaded_by(*words: str, **environment: str) -> tuple[str, str]:
    """What the program prints, and which heavy modules it has loaded at its end."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        capture_output=True, text=True, timeout=60, check=False, env=os.environ | environment,
    )  # fmt: skip
    return ran.stdout, ran.stderr.partition("loaded:")[2]


@pytest.mark.parametrize("words", [("--help",), ("--version",), ()])
def test_help_and_version_load_nothing_heavy(words: tuple[str, ...]) -> None:
    printed, heavy = loaded_by(*words)
    assert "neural-cleanse" in printed and heavy == ""


def test_completion_of_a_command_loads_nothing_heavy() -> None:
    asked = {"_NEURAL_CLEANSE_COMPLETE": "complete_bash", "COMP_WORDS": "neural-cleanse re", "COMP_CWORD": "1"}
    printed, heavy = loaded_by(**asked)
    assert printed.split() == ["report", "repair"] and heavy == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_of_help_is_the_first_of_the_commands_own(name: str) -> None:
    own = load_command(name).help or ""
    assert own.split("\n\n")[0].replace("\n", " ").strip() == COMMANDS[name]


@pytest.mark.parametrize(
    "words", [("scan",), ("repair",), ("inspect",), ("guard", "fit"), ("guard", "check"), ("attack",)]
)
def test_the_help_of_a_command_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    printed, heavy = loaded_by(*words, "--help")
    assert "--architecture" in printed and heavy == ""


@pytest.mark.parametrize(
    "words", [("demo",), ("report",), ("zoo",), ("zoo", "build"), ("zoo", "table"), ("benchmark",)]
)
def test_the_help_of_a_command_without_a_model_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    printed, heavy = loaded_by(*words, "--help")
    assert "Usage:" in printed and heavy == ""


def test_completion_of_an_option_loads_nothing_heavy() -> None:
    asked = {"_NEURAL_CLEANSE_COMPLETE": "complete_bash", "COMP_WORDS": "neural-cleanse scan --bat", "COMP_CWORD": "2"}
    printed, heavy = loaded_by(**asked)
    assert printed.split() == ["--batch-images"] and heavy == ""


FIRST_WORDS = f"""
import os, sys
told = []
class Terminal:
    encoding = "utf-8"
    def isatty(self): return True
    def flush(self): pass
    def fileno(self): return 2
    def write(self, text):
        told.append((text, [name for name in {HEAVY!r} if name in sys.modules]))
        return len(text)
sys.argv[0] = "neural-cleanse"
sys.stderr = Terminal()
from neural_cleanse.cli.main import run
try:
    run()
finally:
    os.write(1, repr(told[0]).encode())
"""


@pytest.mark.parametrize("words", [("scan", "none.onnx"), ("repair", "none.onnx", "--scan", "x", "--output", "y")])
def test_a_terminal_is_told_what_is_done_before_anything_heavy_is_loaded(words: tuple[str, ...]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FIRST_WORDS, *words, "--data", "none"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.stdout == repr(("\r\x1b[2Kloading model and images ...", []))
