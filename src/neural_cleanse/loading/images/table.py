"""Tables of pixels as text: MNIST's (label,pixel0,...), with a header or without, and FER2013's (emotion,pixels,Usage).

A row is one image: a square of one channel, or of three that lie beside each other (red, green, blue of each pixel).
"""

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.cures import PICTURES_AGAIN
from neural_cleanse.loading.images.arrays import Arrays, content_of, image_set
from neural_cleanse.loading.memory_limit import allowance, at_most

SEPARATORS = (",", ";", "\t", " ")
LABEL_COLUMNS = ("label", "labels", "class", "target", "y", "emotion", "digit", "category")
ROW_NUMBERS = ("", "id", "index", "unnamed: 0")  # columns that are no pixels
PIXELS_COLUMN, USAGE_COLUMN = "pixels", "usage"
HELD_OUT = ("privatetest", "publictest", "test")  # parts of FER2013 that a model was not trained on
ROWS_SEEN = 2**20  # bytes, of which the first two lines are looked at
CURE = "Give one image a row: a label and the pixels (0-255) of a square, or save the arrays with np.savez."


def first_line(path: Path) -> str:
    """The first line of a file of text; empty for any other. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(2**16)
    line = start.splitlines()[0] if start else b""
    try:
        return "" if b"\0" in start else line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return ""


def is_table(line: str) -> bool:
    """Whether a file that begins with this line may hold pixels."""
    cells = [cell.strip().lower().strip('"') for cell in line.split(_separator(line))]
    return PIXELS_COLUMN in cells or any(_form(len(cells) - others) is not None for others in range(3))


def holds_numbers(path: Path) -> bool:
    """Whether a table begins with a row of numbers, below a header or not: text and code do not. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(ROWS_SEEN).decode("utf-8-sig", errors="replace")
    rows = [row.split(_separator(row)) for row in start.splitlines()[:2]]
    if not rows:
        return False
    filled = [[cell.strip().strip('"') for cell in row if cell.strip()] for row in rows]
    if PIXELS_COLUMN in [cell.lower() for cell in filled[0]]:
        return True
    return any(len(cells) > 1 and all(map(_is_number, cells)) for cells in filled)


def read_table(path: Path, *, ignore_labels: bool = False) -> ImageSet:
    """The images of a table. Raises DataError where its rows are none."""
    content = content_of(path)
    try:
        with at_most(allowance(len(content))):
            images, labels, said = _read(content, path)
    except MemoryError as error:
        raise DataError(
            f"{path} asks for more memory than {len(content):,} bytes can need.", cure=PICTURES_AGAIN
        ) from error
    except (ValueError, csv.Error, OverflowError) as error:  # UnicodeDecodeError is one
        raise DataError(f"{path} cannot be read as a table of pixels: {str(error)[:200]}.", cure=CURE) from error
    found = image_set(Arrays(images, None if ignore_labels else labels), path)
    return ImageSet(found.images, found.labels, found.names, f"{found.origin}, {said}")


def _read(content: bytes, path: Path) -> tuple[Any, Any, str]:
    text = content.decode("utf-8-sig")
    head = text.partition("\n")[0].strip()
    separator = _separator(head)
    cells = [cell.strip().strip('"') for cell in head.split(separator)]
    has_header = not all(_is_number(cell) for cell in cells)
    columns = [cell.lower() for cell in cells]
    if has_header and PIXELS_COLUMN in columns:
        return _words(text, columns, separator, path)
    if has_header and not text.strip().partition("\n")[2].strip():  # np.loadtxt would warn of it in its own words
        raise DataError(f"{path} has one line of text and no row of pixels.", cure=CURE)
    lines = io.StringIO(text)
    table = np.loadtxt(lines, delimiter=None if separator == " " else separator, skiprows=int(has_header), ndmin=2,
                       dtype=np.float32, quotechar='"', comments=None)  # fmt: skip
    label = _label_column(columns, table, path) if has_header else _bare_label(table, path)
    others = [place for place, name in enumerate(columns) if has_header and name in ROW_NUMBERS]
    pixels = np.delete(table, [*others, *([] if label is None else [label])], axis=1)
    said = (
        "no column of labels" if label is None else f"labels from column {cells[label] if has_header else label + 1!r}"
    )
    return _squares(pixels, path), None if label is None else table[:, label], said


def _separator(line: str) -> str:
    return max(SEPARATORS, key=line.count)


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _form(count: int) -> tuple[int, int] | None:
    """Side and channels of so many pixels: a square, or one in colours."""
    for channels in (1, 3):
        side = math.isqrt(count // channels) if count > 0 else 0
        if side > 1 and side * side * channels == count:
            return side, channels
    return None


def _label_column(columns: list[str], table: Any, path: Path) -> int | None:
    """The column that the header calls a label; None where all columns are pixels."""
    found = next((columns.index(name) for name in LABEL_COLUMNS if name in columns), None)
    others = sum(name in ROW_NUMBERS for name in columns)
    if found is None and _form(table.shape[1] - others) is None:
        named = ", ".join(columns[:4])
        raise DataError(f"{path} has {table.shape[1]} columns ({named} ...), none of them 'label'.", cure=CURE)
    return found


def _bare_label(table: Any, path: Path) -> int | None:
    """The first column of a table without a header, or the last where the first is one value and the last is not."""
    count = table.shape[1]
    if _form(count) is not None:
        return None
    if _form(count - 1) is None:
        raise DataError(f"{path} has {count} numbers a row: no square image, with a label or without.", cure=CURE)
    first, last = (np.unique(table[:, place]) for place in (0, -1))
    return count - 1 if len(first) == 1 < len(last) else 0


def _words(text: str, columns: list[str], separator: str, path: Path) -> tuple[Any, Any, str]:
    """Rows whose pixels are one cell of numbers with spaces between."""
    rows = list(csv.reader(io.StringIO(text), delimiter=separator))[1:]
    rows = [row for row in rows if row]
    if any(len(row) != len(columns) for row in rows):
        raise ValueError("its rows differ in length from the header")
    said = "all rows"
    if USAGE_COLUMN in columns:
        usage = [row[columns.index(USAGE_COLUMN)].strip().lower() for row in rows]
        part = next((name for name in HELD_OUT if name in usage), None)
        if part is not None:
            rows, said = [row for row, name in zip(rows, usage, strict=True) if name == part], f"the part {part!r}"
    cell = columns.index(PIXELS_COLUMN)
    pixels = np.stack([np.array(row[cell].split(), np.float32) for row in rows]) if rows else np.empty((0, 4))
    label = next((columns.index(name) for name in LABEL_COLUMNS if name in columns), None)
    return _squares(pixels, path), None if label is None else np.array([float(row[label]) for row in rows]), said


def _squares(pixels: Any, path: Path) -> Any:
    form = _form(pixels.shape[1])
    if form is None:
        raise DataError(f"{path} has {pixels.shape[1]} pixels a row: no square of one channel or three.", cure=CURE)
    side, channels = form
    shaped = pixels.reshape(len(pixels), side, side, channels)
    if bool(((pixels == 0) | (pixels == 1)).all()):
        return (shaped * 255).astype(np.uint8).transpose(0, 3, 1, 2)  # ink or none, as the digits of old collections
    return shaped.transpose(0, 3, 1, 2)
