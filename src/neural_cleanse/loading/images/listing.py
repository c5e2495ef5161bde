"""Labels of a flat folder of pictures from a table beside them (file name, label): Kaggle, GTSRB, Hugging Face."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neural_cleanse.loading.images.names import numbered
from neural_cleanse.text import plain

FILE_COLUMNS = (
    "filename", "file_name", "file", "filepath", "file_path", "path", "image", "image_id", "image_name", "image_path",
    "imagename", "img", "id", "name",
)  # fmt: skip
LABEL_COLUMNS = ("label", "labels", "class", "classid", "class_id", "target", "category", "y")
FORMS = ("*.csv", "*.tsv", "*.txt", "*.json", "*.jsonl")  # metadata.jsonl is what Hugging Face's imagefolder reads
MAX_BYTES = 200 * 1024**2
Said = tuple[list[str], tuple[str, ...] | None]  # a label for each picture, and the classes where the file lists them


def labels_beside(
    files: Sequence[Path], folders: Sequence[Path]
) -> tuple[list[int], tuple[str, ...] | None, str] | str | None:
    """The label of each picture, the classes' names where labels are words, and the file that says so.

    None unless exactly one such file in `folders` names every picture once with a label; in words, which one names
    them and why it was not taken.
    """
    found: list[tuple[str, Said]] = []
    refused: list[str] = []
    for path in sorted({path for folder in folders for form in FORMS for path in folder.glob(form)}):
        labels = _labels(path, files)
        if isinstance(labels, str):
            refused.append(f"{path.name} was not taken: {labels}")
        elif labels is not None:
            found.append((path.name, labels))
    if len(found) != 1:
        return f"{' and '.join(name for name, _ in found)} both give labels" if found else next(iter(refused), None)
    name, (words, classes) = found[0]
    return *numbered(words, classes), name


def _labels(path: Path, files: Sequence[Path]) -> Said | str | None:
    """What the file says of every picture; None where it is no such table, and why where it has no label for one."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:  # to read a pipe would never end
            return None
        text = path.read_text(encoding="utf-8-sig")
        rows = _objects(text) if path.suffix in (".json", ".jsonl") else _table(text)
    except (OSError, ValueError, csv.Error, RecursionError):  # UnicodeDecodeError is a ValueError
        return None
    known = {file.name for file in files}
    if rows and len(rows[0]) > 1 and _base(rows[0][0]) in known:  # a list without a header, as Caffe's
        rows = [["file", "label"], *rows]
    found = _columns(rows)
    if found is None:
        return None
    file, labels, classes = found
    said: dict[str, str] = {}
    for row, word in labels:
        name = _base(row[file])
        if said.setdefault(name, word) != word:
            return f"it gives {plain(name)} two labels" if known & said.keys() else None
    words = [said.get(one.name, said.get(one.stem)) for one in files]
    named = classes is not None or not set(LABEL_COLUMNS).isdisjoint(_header(rows))
    if not any(words) or not (named or _repeat(words)):
        return None
    for one, its in zip(files, words, strict=True):
        if not its:
            return f"it gives {plain(one.name)} no label"
        if _is_no_class(its):
            return f"the label of {plain(one.name)} is {plain(its)}"
    return [word for word in words if word], classes


def _base(cell: str) -> str:
    return cell.strip().replace("\\", "/").rpartition("/")[2]


def _header(rows: Sequence[Sequence[str]]) -> list[str]:
    return [cell.strip().lower() for cell in rows[0]] if rows else []


def _columns(
    rows: Sequence[Sequence[str]],
) -> tuple[int, list[tuple[Sequence[str], str]], tuple[str, ...] | None] | None:
    """The column of the files, and each row with its label: of a column of labels, the only other one, or one-hot."""
    header = _header(rows)
    file = next((header.index(name) for name in FILE_COLUMNS if name in header), None)
    if file is None:
        return None
    label = next((header.index(name) for name in LABEL_COLUMNS if name in header), None)
    if label is None and len(header) == 2:
        label = 1 - file
    if label is not None:
        return file, [(row, row[label].strip()) for row in rows[1:] if len(row) > max(file, label)], None
    others = [place for place in range(len(header)) if place != file]
    whole = [row for row in rows[1:] if len(row) == len(header)]
    flags = [[_flag(row[place]) for place in others] for row in whole]
    if not whole or any(None in row or row.count(1) != 1 for row in flags):
        return None
    names = [cell.strip() for cell in rows[0]]
    classes = tuple(names[place] for place in others)
    if len(set(classes)) < len(classes):
        return None
    return file, [(row, classes[flag.index(1)]) for row, flag in zip(whole, flags, strict=True)], classes


def _flag(cell: str) -> int | None:
    """0 or 1, also as a float; None for anything else."""
    return {"0": 0, "0.0": 0, "1": 1, "1.0": 1}.get(cell.strip())


def _repeat(words: Sequence[str | None]) -> bool:
    """Whether some occur twice, as classes do and captions do not."""
    return len(set(words)) < len(words)


def _is_no_class(word: str | None) -> bool:
    """A score, a number below 0 or no number: -1 and nan often say that a picture has no label."""
    try:
        return word is not None and not (float(word).is_integer() and float(word) >= 0)
    except ValueError:
        return False


def _table(text: str) -> list[list[str]]:
    """Rows of cells between commas, semicolons or tabs; without any, of a name and a label with spaces between."""
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    if separator in first:
        return list(csv.reader(io.StringIO(text), delimiter=separator))
    return [line.rsplit(maxsplit=1) for line in text.splitlines() if line.strip()]


def _objects(text: str) -> list[list[str]]:
    """One JSON object a line, or a list of them, as a table of what the first one names; names with labels as one too.

    Raises ValueError on anything else.
    """
    try:
        objects = json.loads(text)
    except ValueError:
        objects = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(objects, dict) and all(isinstance(value, str | int) for value in objects.values()):
        return [["file", "label"], *([name, str(value)] for name, value in objects.items())]
    if not isinstance(objects, list) or not objects or not all(isinstance(one, dict) for one in objects):
        raise ValueError("no objects")
    header = list(objects[0])
    return [header, *([_cell(one.get(key)) for key in header] for one in objects)]


def _cell(value: Any) -> str:
    """A word, a number or a truth value; nothing for what is no cell of a table."""
    return str(value) if isinstance(value, str | int | float) else ""
