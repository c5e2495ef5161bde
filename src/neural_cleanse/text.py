"""Text that is shown: numbers in short, and what comes from strangers (label names, tensor names, commands in files).

The latter never steers the terminal.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

MAX_NAME = 40  # characters of a label name that are shown
MAX_PLAIN = 80  # characters of anything else that a file says
MAX_QUOTED = 60  # of them in quotes


def sanitize(text: str) -> str:
    """One line of visible characters: no control, format or bidirectional marks, at most MAX_NAME long."""
    return escape(truncate(text, MAX_NAME))


def truncate(text: str, length: int) -> str:
    """At most so many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def escape(text: str) -> str:
    """The text with a replacement character for each that would steer the terminal or hide."""
    return "".join(
        char
        if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )


def plain(text: object, most: int = MAX_PLAIN) -> str:
    """A name or an expression out of a file: short, with a question mark for all but printable ASCII."""
    return re.sub(r"[^\x20-\x7e]", "?", str(text)[:most])


def quoted(name: str) -> str:
    """A name out of a file, plain and in quotes."""
    return repr(plain(name, MAX_QUOTED))


def first_line(error: BaseException, most: int = 200) -> str:
    """What somebody else's code says of its failure, without the lines after the first."""
    return plain(next(iter(str(error).splitlines()), ""), most)


def duration(seconds: float) -> str:
    """In the largest unit of which there are two and more."""
    if seconds < 2 * 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.0f} h"


def stand(things: Sequence[object]) -> str:
    """The verb after their names."""
    return "stands" if len(things) == 1 else "stand"


def the_labels(labels: Sequence[int]) -> str:
    """The labels by number: "label 3", "labels 3, 5"."""
    return f"label{'s' if len(labels) > 1 else ''} {', '.join(map(str, labels))}"


def by(sizes: Iterable[int]) -> str:
    """The sizes of a shape: "3x32x32"."""
    return "x".join(map(str, sizes))


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, runs of them short: "3, 10-19"."""
    runs = list[list[int]]()
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def p_text(value: float | None) -> str:
    """A p-value; very small ones are bounded, not spelled out."""
    if value is None:
        return "–"
    return "< 1e-12" if value < 1e-12 else f"{value:.2g}"


def p_is(value: float | None) -> str:
    """A p-value as it stands in a sentence."""
    text = p_text(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"
