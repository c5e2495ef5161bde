"""A batch: many models in a directory or of a pattern, each scanned by itself, one row a model.

A model that cannot be scanned is a row with its error and stops no other. What was finished is kept in the result
directories, so that a later run goes on where this one was.
"""

import glob
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from neural_cleanse.engines import Engine
from neural_cleanse.errors import NeuralCleanseError, OutputError, SettingsError, WorkerLost, path_errors
from neural_cleanse.files import make_directory, write_whole
from neural_cleanse.loading.detect import container_of
from neural_cleanse.loading.files import read_file
from neural_cleanse.loading.formats import CURES, read_whole
from neural_cleanse.loading.huggingface.files import CONFIG, INDEX, WEIGHTS, read_directory
from neural_cleanse.regular_files import read_regular
from neural_cleanse.report import output_dir
from neural_cleanse.report.batch import BatchRow, counts, html
from neural_cleanse.results import storage
from neural_cleanse.results.records import ScanResult

INDEX_FILE, SUMMARY_FILE, KEY_FILE = "index.html", "summary.json", "batch.json"
SCHEMA_VERSION = 1
# A file of such a name that holds no model is a row with its error: nothing that looks like a model is passed over.
SUFFIXES = frozenset({".h5", ".keras", ".onnx", ".pkl", ".pt", ".pt2", ".pth", ".safetensors"})
LONGEST_NAME = 100  # characters of a directory's name


@dataclass(frozen=True)
class ModelEntry:
    """A model of a batch: where it is, and its name there, which is also that of its result directory."""

    name: str
    path: Path


def is_batch(path: Path) -> bool:
    """A directory that is no model itself, or a pattern that names no file."""
    if path.is_dir():
        return not _is_model_directory(path)
    return not path.exists() and glob.has_magic(str(path))


def _is_model_directory(path: Path) -> bool:
    """A Hugging Face directory, by the files that make one, or a SavedModel, which load_model says what to do with."""
    weights = [path / WEIGHTS, path / INDEX, *path.glob("pytorch_model*.bin")]
    return (path / "saved_model.pb").is_file() or ((path / CONFIG).is_file() and any(map(Path.is_file, weights)))


def find(collection: Path, *, leave_out: Path | None = None) -> tuple[ModelEntry, ...]:
    """The models of a directory, its subdirectories among them, or of a pattern; nothing under `leave_out`.

    Told by content; a file that is named like a model is taken too. Raises SettingsError when there is none.
    """
    root, starts = collection, [collection]
    if not collection.is_dir():
        parts = collection.parts
        fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        root = Path(*parts[:fixed])
        try:
            starts = list(root.glob("/".join(parts[fixed:])))
        except ValueError as error:
            raise SettingsError(
                f"{collection} is no pattern: {error}.", cure="Write it like 'models/**/*.onnx'."
            ) from error
    outside = None if leave_out is None else leave_out.resolve()
    paths = sorted({path for start in starts for path in _models_under(start, outside)})
    if not paths:
        raise SettingsError(
            f"There is no model in {collection}.",
            cure="Give a model file, a directory of models, or a pattern in quotes.",
        )
    models = tuple(ModelEntry(name_of(path.relative_to(root)), path) for path in paths)
    if len({model.name for model in models}) < len(models):
        raise SettingsError(f"Two models in {collection} would share one result directory.", cure="Rename one of them.")
    return models


def _models_under(start: Path, outside: Path | None) -> Iterator[Path]:
    if start.is_file():
        if _is_model(start):
            yield start
        return
    for folder, names, file_names in os.walk(start):
        here = Path(folder)
        if here.resolve() == outside:
            names.clear()
        elif _is_model_directory(here):
            names.clear()  # its shards are no models of their own
            yield here
        else:
            names[:] = sorted(name for name in names if not name.startswith("."))
            yield from (path for name in sorted(file_names) if (path := here / name).is_file() and _is_model(path))


def _is_model(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        return container_of(read_file(path)) not in CURES
    except NeuralCleanseError:  # unreadable, and not named like a model
        return False


def name_of(relative: Path) -> str:
    """A directory's name for the model at this place of the batch: `/` becomes `__`, and its suffix stays.

    A name with other characters than these, or that could be another's, gets the hash of the whole place: names are
    one to one, and do not depend on what else is in the batch.
    """
    place = relative.as_posix()
    flat = "__".join(relative.parts)
    plain = all(
        re.fullmatch(r"[A-Za-z0-9+=@]([A-Za-z0-9+=@._-]*[A-Za-z0-9+=@-])?", part) and "__" not in part
        for part in relative.parts
    )
    hashed = re.search(r"-[0-9a-f]{16}$", flat) is not None
    if plain and not hashed and len(flat) <= LONGEST_NAME and flat not in (INDEX_FILE, SUMMARY_FILE):
        return flat
    safe = re.sub(r"[^A-Za-z0-9+=@._-]", "_", flat).strip("._-")[:LONGEST_NAME]
    return f"{safe or 'model'}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}"


def settings_hash(settings: Mapping[str, Any]) -> str:
    """What tells one way of scanning from another: a hash of settings, form of the images and the images' own hash."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def run(
    models: Sequence[ModelEntry],
    scan_one: Callable[[ModelEntry], ScanResult],
    engine: Engine,
    *,
    output: Path | None = None,
    key: str = "",
    resume: bool = False,
) -> Iterator[BatchRow]:
    """A row a model as it is finished, its result written under `output` before; `scan_one` must be picklable.

    With `resume`, a model whose file is the same as when it was finished under this `key` is not scanned again.
    Raises OutputError when a result cannot be written.
    """
    todo = []
    for model in models:
        kept = _kept(model, output / model.name, key) if resume and output is not None else None
        if kept is None:
            todo.append(model)
        else:
            yield kept
    for model, answer in _scan_all(todo, scan_one, engine):
        if isinstance(answer, str):
            yield BatchRow(model.name, str(model.path), error=answer)
            continue
        if output is not None:
            _write(answer, output / model.name, key)
        yield BatchRow.of(model.name, str(model.path), answer)


Answer = tuple[ModelEntry, ScanResult | str]


def _scan_all(
    models: Sequence[ModelEntry], scan_one: Callable[[ModelEntry], ScanResult], engine: Engine
) -> Iterator[Answer]:
    """Every model's result or error. When a process is lost, the rest goes one by one, and one row tells of it."""
    job, left = partial(_answer, scan_one), dict.fromkeys(models)
    try:
        for model, answer in engine.map(job, models):
            del left[model]
            yield model, answer
    except WorkerLost:
        for model in left:
            try:
                yield from engine.map(job, (model,))
            except WorkerLost as error:
                yield model, error.message


def _answer(scan_one: Callable[[ModelEntry], ScanResult], model: ModelEntry) -> Answer:
    try:
        with path_errors():
            return model, scan_one(model)
    except NeuralCleanseError as error:
        return model, str(error)
    except Exception as error:  # one model's network can fail in any way; the others' answers must not be lost with it
        return model, f"{type(error).__name__}: {error} (a fault of neural-cleanse, please report it)"


def _write(result: ScanResult, place: Path, key: str) -> None:
    """The scan's own files, and last what a later run asks to know that they are whole and current."""
    try:
        (place / KEY_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{place} cannot be written: {error.strerror}.",
            cure="Name another --output, or change the directory's permissions.",
        ) from error
    output_dir.write(result, place)
    values = {"schema_version": SCHEMA_VERSION, "key": key}
    write_whole(place / KEY_FILE, (json.dumps(values) + "\n").encode())


def _kept(model: ModelEntry, place: Path, key: str) -> BatchRow | None:
    """The row of an earlier run, where model and key are still the same and its files are whole."""
    try:
        values = json.loads(read_regular(place / KEY_FILE))
        if values != {"schema_version": SCHEMA_VERSION, "key": key}:
            return None
        result = storage.load_result(place)
        sha256 = _sha256(model.path)
    except (OSError, ValueError, RecursionError, NeuralCleanseError):
        return None
    if result.provenance.model.get("sha256") != sha256:
        return None
    return BatchRow.of(model.name, str(model.path), result, kept=True)


def _sha256(path: Path) -> str:
    """As load_model counts it."""
    return read_directory(path).sha256 if path.is_dir() else hashlib.sha256(read_whole(path)).hexdigest()


def write_summary(rows: Sequence[BatchRow], output: Path, *, models: int, command: str | None = None) -> None:
    """summary.json and index.html of the rows so far. Raises OutputError."""
    by_name = sorted(rows, key=lambda row: row.name)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "finished": len(rows) == models,
        "counts": counts(rows),
        "command": command,
        "models": [row.as_json() for row in by_name],
    }
    make_directory(output)
    write_whole(output / INDEX_FILE, html(by_name, command).encode())
    write_whole(output / SUMMARY_FILE, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
