"""Labels that are written as words: numbered in the order that the data say, or else in plain order, as usual."""

from collections.abc import Sequence


def numbered(labels: Sequence[str], names: tuple[str, ...] | None) -> tuple[list[int], tuple[str, ...]]:
    """The class of each label, and the names of the classes: `names` where it holds them all, else sorted ones."""
    known = names if names is not None and set(labels) <= set(names) else tuple(sorted(set(labels)))
    places = {name: number for number, name in enumerate(known)}
    return [places[label] for label in labels], known
