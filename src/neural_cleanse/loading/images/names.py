"""Labels that are written as words: numbered in the order that the data say, or else in plain order, as usual."""

from collections.abc import Sequence

MAX_LABEL = 100_000  # a larger number is a name (of a synset, say), no class index
MAX_DIGITS = 100  # zeros before it included


def numbered(labels: Sequence[str], names: tuple[str, ...] | None) -> tuple[list[int], tuple[str, ...] | None]:
    """The class of each label, and the names of the classes: `names` where it holds them all, else sorted ones.

    Words that are all numbers are those classes, and name none; whole ones may be written as fractions (2.0).
    """
    whole = [label.removesuffix(".0") for label in labels]
    if names is None and all(map(is_number, set(whole))):
        return [int(label) for label in whole], None
    known = names if names is not None and set(labels) <= set(names) else tuple(sorted(set(labels)))
    places = {name: number for number, name in enumerate(known)}
    return [places[label] for label in labels], known


def is_number(label: str) -> bool:
    """Whether it is the number of a class; Python reads no number of thousands of digits."""
    return label.isdecimal() and len(label) <= MAX_DIGITS and int(label) < MAX_LABEL
