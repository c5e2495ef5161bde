"""Text that comes from strangers: label names, tensor names, commands in files. It never steers the terminal."""

import unicodedata

MAX_NAME = 40  # characters of a label name that are shown


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
