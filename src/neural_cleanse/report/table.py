"""A table as a value, for Markdown and for HTML."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Table:
    """A heading, column names, and rows of text; columns named in `numbers` are set flush right."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[str] = frozenset()
    caption: str = ""

    def markdown(self) -> str:
        """A pipe table under its heading; without a heading the table alone."""
        lines = [_pipes(self.columns), _pipes("--:" if name in self.numbers else "---" for name in self.columns)]
        lines += [_pipes(row) for row in self.rows]
        return "".join(f"{line}\n" for line in ([f"### {self.heading}", ""] if self.heading else []) + lines)

    def html(self) -> str:
        """A table element with its heading and caption, a header cell to every row; everything in it escaped."""
        flush = [' class="number"' if name in self.numbers else "" for name in self.columns]
        head = "".join(
            f'<th scope="col"{right}>{escape(name)}</th>' for name, right in zip(self.columns, flush, strict=True)
        )
        body = "".join(
            f'<tr><th scope="row"{flush[0]}>{escape(row[0])}</th>'
            + "".join(f"<td{right}>{escape(cell)}</td>" for cell, right in zip(row[1:], flush[1:], strict=True))
            + "</tr>\n"
            for row in self.rows
        )
        heading = f"<h2>{escape(self.heading)}</h2>\n" if self.heading else ""
        caption = f"<caption>{escape(self.caption)}</caption>\n" if self.caption else ""
        return f"{heading}<table>\n{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
