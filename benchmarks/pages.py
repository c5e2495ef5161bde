"""Pages of the documentation whose tables a script fills, between marks; the prose is theirs."""

from collections.abc import Mapping


def filled(text: str, places: Mapping[str, str]) -> str:
    """`text` with each place between `<!-- NAME -->` and `<!-- end of NAME -->` filled anew."""
    for name, content in places.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, found, rest = text.partition(start)
        if not found or end not in rest:
            raise ValueError(f"no place {start} ... {end}")
        gap = "\n" if "\n" in rest.partition(end)[0] else ""
        text = f"{before}{start}{gap}{content.strip()}{gap}{end}{rest.partition(end)[2]}"
    return text
