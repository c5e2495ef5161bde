"""Parquet and Arrow files as Hugging Face writes them: a column of pictures {bytes, path}, and perhaps labels."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.errors import DataError
from neural_cleanse.loading.cures import PICTURES, PICTURES_AGAIN
from neural_cleanse.loading.images.decode import Box, Picture
from neural_cleanse.loading.images.names import numbered

IMAGE_COLUMNS = ("image", "img", "images", "picture", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class", "y", "cls")
SPLITS = ("test", "validation", "val", "valid", "train")  # in the names of files; what was not trained on comes first
ARROW_FILE, ARROW_STREAM = b"ARROW1", b"\xff\xff\xff\xff"
ROI_COLUMNS = ("width", "height", "roi_x1", "roi_y1", "roi_x2", "roi_y2")


@dataclass(frozen=True)
class ParquetSource:
    """The undecoded rows of parquet files."""

    images: Any  # a pyarrow column
    regions: tuple[Box | None, ...] | None
    labels: torch.Tensor | None
    names: tuple[str, ...] | None

    def pictures(self, rows: list[int]) -> Iterator[Picture]:
        """The pictures at `rows`."""
        for row in rows:
            try:
                cell = self.images[row].as_py()
            except UnicodeDecodeError:  # of its path, or of the names of its parts
                cell = None
            content = cell.get("bytes") if isinstance(cell, dict) else cell
            # What holds no bytes fails when decoded, with the row's number, or is skipped.
            yield Picture(
                f"row {row}",
                content if isinstance(content, bytes) else b"",
                self.regions[row] if self.regions else None,
            )


def open_parquet(files: list[Path], *, ignore_labels: bool = False) -> ParquetSource:
    """Read the columns of one or more parquet files of one schema."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise DataError("Reading parquet files needs pyarrow.", cure="pip install 'neural-cleanse[parquet]'") from error
    try:
        table = pa.concat_tables([_arrow(file, pa) or pq.read_table(file) for file in files])
        columns = table.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{files[0]} cannot be read as parquet or Arrow: {error}", cure=PICTURES_AGAIN) from error
    images = _column(table, IMAGE_COLUMNS)
    if images is None:
        raise DataError(f"{files[0]} has no column 'image'; its columns are {', '.join(columns)}.", cure=PICTURES)
    labels, label_name = None, _column(table, LABEL_COLUMNS)
    names = _names(table.schema.metadata or {}, label_name)
    if label_name is not None and not ignore_labels:
        column = table.column(label_name)
        try:
            if column.null_count:
                raise ValueError(f"{column.null_count} rows have none")
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                numbers, names = numbered(column.to_pylist(), names)
                labels = torch.tensor(numbers)
            else:
                labels = torch.tensor(column.cast(pa.int64()).to_pylist())
        except (ValueError, TypeError, pa.ArrowException) as error:
            raise DataError(
                f"The column {label_name!r} of {files[0]} is not made of whole numbers: {error}",
                cure="Pass --ignore-labels, or number the classes.",
            ) from error
    return ParquetSource(table.column(images), _regions(table), labels, names)


def _arrow(file: Path, pa: Any) -> Any:
    """The table of an Arrow file or stream, as `save_to_disk` of Hugging Face writes it; None for other files.

    Arrow trusts the offsets in such files until they are validated.
    """
    with file.open("rb") as content:
        mark = content.read(len(ARROW_FILE))
    if mark != ARROW_FILE and not mark.startswith(ARROW_STREAM):
        return None
    with pa.OSFile(str(file)) as content:
        read = pa.ipc.open_file if mark == ARROW_FILE else pa.ipc.open_stream
        table = read(content).read_all()
    table.validate(full=True)
    return table


def parquet_files(directory: Path) -> list[Path]:
    """The parquet (or Arrow) files of a directory or below it; of several parts of a data set the one for testing."""
    for form in ("*.parquet", "*.arrow"):
        deeper = directory.glob(f"*/**/{form}")
        files = sorted(directory.glob(form)) or sorted(
            path for path in deeper if not any(part.startswith(".") for part in path.parts[1:])
        )
        for split in SPLITS:
            chosen = [path for path in files if _part_of(path, directory) == split]
            if chosen:
                return chosen
        if files:
            return files
    return []


def _part_of(path: Path, directory: Path) -> str:
    """Which part of a data set a file is by its name; an Arrow file's folder says it."""
    if path.suffix == ".arrow" and path.parent != directory:
        return path.parent.name.lower()
    return path.name.lower().split("-")[0].split(".")[0]


def _column(table: Any, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in table.column_names), None)


def _regions(table: Any) -> tuple[Box | None, ...] | None:
    if not set(ROI_COLUMNS) <= set(table.column_names):
        return None
    columns = [table.column(name).to_pylist() for name in ROI_COLUMNS]
    rows = zip(*columns, strict=True)
    return tuple(
        None if None in row or row[0] == 0 or row[1] == 0 else (x1 / w, y1 / h, x2 / w, y2 / h)
        for row in rows
        for w, h, x1, y1, x2, y2 in [row]
    )


def _names(metadata: dict[bytes, bytes], label: str | None) -> tuple[str, ...] | None:
    """Label names from the schema's metadata: `label_names`, or the ClassLabel of Hugging Face features."""
    try:
        if b"label_names" in metadata:
            names = json.loads(metadata[b"label_names"])
        elif b"huggingface" in metadata:
            names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
        else:
            return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return tuple(str(name) for name in names) if isinstance(names, list) else None
