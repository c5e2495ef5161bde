"""Errors and notes as a Python caller reads them: the layers below name options of the command line, here keywords.

"Pass --resize 32x32."  ->  "Pass resize=(32, 32)."
"""

import contextlib
import re
from collections.abc import Collection, Iterator

from neural_cleanse.errors import NeuralCleanseError, path_errors

FLAGS = frozenset({"allow-code", "bgr", "force", "ignore-labels", "overwrite", "pairs", "resume", "skip-unreadable"})
NAMES = {"features": "features_layer", "fpr": "false_positive_rate", "output": "directory"}
# Options that are fields of the settings, by the function that is called.
SETTINGS: dict[str, tuple[str, Collection[str]]] = {
    "scan": ("ScanSettings", {"force", "labels", "memory", "pairs", "plan", "samples", "seed", "batch-images"}),
    "fit_guard": ("", ()),
    "repair": ("RepairSettings", {"labels", "max-asr", "max-drop", "method", "rounds", "seed"}),
}
NUMBER = r"-?\d+(?:\.\d+)?"
VALUE = rf"(?:{NUMBER}(?:,{NUMBER})+|\d+x\d+|HxW|{NUMBER}|[A-Z][A-Z.:]*[A-Z]|full|all|local|cpu|none|roi)"
OPTION = re.compile(rf"(?<![\w-])--([a-z][a-z-]*[a-z])(?: ({VALUE})(?![\w%]))?")
TWICE = re.compile(r"(\b\w+=\w+) \(\1\)")  # messages that name both forms


def in_python(text: str, function: str = "scan") -> str:
    """The text with every option as the keyword that stands for it."""
    return TWICE.sub(r"\1", OPTION.sub(lambda match: _keyword(match, *SETTINGS[function]), text))


def _keyword(match: re.Match[str], settings: str, fields: Collection[str]) -> str:
    option, value = match[1], match[2]
    name = NAMES.get(option, option.replace("-", "_"))
    if option in FLAGS:
        said = f"{name}=True" + (f" {value}" if value else "")
    elif value is None:
        said = f"{name}="
    elif option == "labels" and value.isdigit():
        said = f"{name}=({value},)"
    else:
        said = f"{name}={_value(value)}"
    return f"{settings}({said})" if option in fields else said


def _value(text: str) -> str:
    if text == "HxW":
        return "(height, width)"
    if re.fullmatch(r"\d+x\d+", text):
        return f"({text.replace('x', ', ')})"
    if "," in text:
        return f"({text.replace(',', ', ')})"
    return text if re.fullmatch(NUMBER, text) else repr(text)


@contextlib.contextmanager
def python_errors(function: str = "scan") -> Iterator[None]:
    """What is raised inside names keywords, as that function takes them; kind and cause of the error stay."""
    try:
        with path_errors():
            yield
    except NeuralCleanseError as error:
        error.message, error.cure = in_python(error.message, function), in_python(error.cure, function)
        error.args = (error.message,)
        raise
