"""Labels of a flat folder of pictures from a table beside them (file name, label): Kaggle, GTSRB, Hugging Face."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from neural_cleanse.loading.images.names import numbered

FILE_COLUMNS = ("filename", "file_name", "file", "path", "image", "image_id", "img", "id", "name")
LABEL_COLUMNS = ("label", "labels", "class", "classid", "class_id", "target", "category", "y")
FORMS = ("*.csv", "metadata.jsonl")  # the second is what Hugging Face's imagefolder reads
MAX_BYTES = 200 * 1024**2


def labels_beside(
    files: Sequence[Path], folders: Sequence[Path]
) -> tuple[list[int], tuple[str, ...] | None, str] | None:
    """The label of each picture, the classes' names where labels are words, and the file that says so.

    None unless exactly one such file in `folders` names every picture once with a label.
    """
    found = []
    for path in sorted({path for folder in folders for form in FORMS for path in folder.glob(form)}):
        labels = _labels(path, files)
        if labels is not None:
            found.append((path.name, labels))
    if len(found) != 1:
        return None
    name, words = found[0]
    return *numbered(words, None), name


def _labels(path: Path, files: Sequence[Path]) -> list[str] | None:
    """What the file says of every picture; None where it leaves one out, or is no such table."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        text = path.read_text(encoding="utf-8-sig")
        rows = _objects(text) if path.suffix == ".jsonl" else _table(text)
    except (OSError, ValueError, csv.Error, RecursionError):  # UnicodeDecodeError is a ValueError
        return None
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    file = next((header.index(name) for name in FILE_COLUMNS if name in header), None)
    label = next((header.index(name) for name in LABEL_COLUMNS if name in header), None)
    if file is None or label is None:
        return None
    said: dict[str, str] = {}
    for row in rows[1:]:
        if len(row) > max(file, label):
            name, word = row[file].strip().replace("\\", "/").rpartition("/")[2], row[label].strip()
            if said.setdefault(name, word) != word:
                return None  # one name, two labels
    labels = [said.get(path.name, said.get(path.stem)) for path in files]
    return [word for word in labels if word] if all(labels) else None


def _table(text: str) -> list[list[str]]:
    separator = max(",;\t", key=text.partition("\n")[0].count)
    return list(csv.reader(io.StringIO(text), delimiter=separator))


def _objects(text: str) -> list[list[str]]:
    """One JSON object a line, as a table of what the first one names. Raises ValueError on anything else."""
    objects = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not objects or not all(isinstance(one, dict) for one in objects):
        raise ValueError("no objects")
    header = list(objects[0])
    return [header, *([str(one.get(key, "")) for key in header] for one in objects)]
