"""What a pickle would import and call, read from its instructions: none of them is carried out."""

import io
import pickletools
from collections.abc import Iterator

MAX_INSTRUCTIONS, MAX_NAMES, MAX_LENGTH = 2_000_000, 1000, 200
STRINGS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING")


def imported(pickled: bytes) -> tuple[str, ...]:
    """`module.name` of everything that the pickles at the start of these bytes name, each once, in their order."""
    found: dict[str, None] = {}
    for name in _names(pickled):
        found[name[:MAX_LENGTH]] = None
        if len(found) == MAX_NAMES:
            break
    return tuple(found)


def _names(pickled: bytes) -> Iterator[str]:
    stream, strings, count = io.BytesIO(pickled), ["?", "?"], 0
    while True:  # legacy checkpoints are several pickles, then raw numbers
        try:
            for instruction, argument, _ in pickletools.genops(stream):
                count += 1
                if count > MAX_INSTRUCTIONS:
                    return
                if instruction.name in STRINGS:
                    strings = [strings[1], str(argument)]
                elif instruction.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif instruction.name == "STACK_GLOBAL":  # of the two strings before it, as pickle writes them
                    yield ".".join(strings)
        except (ValueError, UnicodeDecodeError, IndexError, EOFError, OverflowError):
            return
