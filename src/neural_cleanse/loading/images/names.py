"""Labels that are written as words: numbered in the order that the data say, or else in plain order, as usual."""

from collections.abc import Sequence

MAX_LABEL = 100_000


def numbered(labels: Sequence[str], names: tuple[str, ...] | None) -> tuple[list[int], tuple[str, ...] | None]:
    """The class of each label, and the names of the classes: `names` where it holds them all, else sorted ones.

    Words that are all numbers are those classes, and name none.
    """
    if names is None and all(label.isdecimal() and int(label) < MAX_LABEL for label in set(labels)):
        return [int(label) for label in labels], None
    known = names if names is not None and set(labels) <= set(names) else tuple(sorted(set(labels)))
    places = {name: number for number, name in enumerate(known)}
    return [places[label] for label in labels], known
