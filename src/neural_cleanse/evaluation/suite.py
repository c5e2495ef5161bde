"""How often is a scan wrong? Scan a suite of models whose answer is known: one JSON row a model and setting.

A suite is a directory of cards, with the models beside them or in a directory of their own, or a file of JSON lines
with a card a line (cards.py).
"""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from neural_cleanse.classifier import Normalize
from neural_cleanse.detection.provenance import RunInfo
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.engines import Engine
from neural_cleanse.errors import NeuralCleanseError, OutputError
from neural_cleanse.evaluation.cards import ModelCard, read_cards
from neural_cleanse.evaluation.zoo import part_of
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.architectures import ARCHITECTURES
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.loading.images.splits import part_path
from neural_cleanse.loading.load import LoadedModel, load_model
from neural_cleanse.regular_files import read_regular
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import KindTest, ScanResult, Verdict

_BUILD = "Build it, or give the directory of models with --models."
KEPT_OF_CARD = ("infected", "weak", "attack", "options", "targets", "dataset", "architecture", "num_classes")


@dataclass(frozen=True)
class Case:
    """One model to scan: its file, the truth about it, its network where it needs one, and the clean images."""

    name: str
    model: Path
    card: Mapping[str, Any]
    architecture: str | None
    images: Path
    allow_code: bool = False


def read_suite(
    suite: Path,
    data: Path,
    *,
    models: Path | None = None,
    allow_code: bool = False,
    part: str | None = None,
    recorded: Collection[str] = (),
) -> tuple[Case, ...]:
    """The models of a suite; `data` holds the data sets by name, `models` the models (else they lie beside the cards).

    `part` leaves out those of the other one. The `recorded` models need not be there. Raises OutputError when something
    lacks.
    """
    cases = []
    for card in read_cards(suite):
        if part is not None and part_of(card.name) != part:
            continue
        directory = card.directory if models is None else models
        model, dataset = directory / card.file, data / str(card.truth["dataset"])
        if not model.exists() and card.name not in recorded:
            raise OutputError(f"The model of the card {card.name} is not there: {model}.", cure=_BUILD)
        images = _images(dataset) if model.exists() else dataset
        named = _architecture(card, directory)
        cases.append(Case(card.name, model, card.truth, named, images, allow_code=allow_code))
    return tuple(cases)


def _architecture(card: ModelCard, models: Path) -> str | None:
    """The network that the card names; a file of code is looked for beside the cards, then among the models."""
    named = card.truth.get("scan", {}).get("architecture")
    if named is None or ".py:" not in named:
        return None if named is None else str(named)
    file, _, function = str(named).rpartition(":")
    places = [card.directory / file, models / file]
    return f"{next((place for place in places if place.exists()), places[0]).resolve()}:{function}"


def _images(dataset: Path) -> Path:
    """The test part of a data set, or the whole of one that has no parts."""
    part = part_path(dataset, "test")
    if part is None and (dataset.is_file() or (dataset.is_dir() and part_path(dataset, "train") is None)):
        return dataset
    if part is None:
        raise OutputError(
            f"There are no test images {dataset}.",
            cure="--data is the directory that holds the data sets by name: DATA/mnist/test.parquet and so on.",
        )
    return part


def run(cases: Sequence[Case], settings: ScanSettings, rows: Path, engine: Engine) -> Iterator[Mapping[str, Any]]:
    """Scan what `rows` (a file of JSON lines) lacks under these settings; every row is written as it is done.

    A model that could not be scanned, or whose file has changed since, is scanned again; one that is recorded and whose
    file is not there is not. Raises OutputError.
    """
    known = {(row["model"], row.get("model_sha256")) for row in rows_of(rows, settings)}
    names = {name for name, _ in known}
    _prepare(rows)
    todo = [
        case
        for case in cases
        if (case.name, _sha256(case.model)) not in known and (case.model.exists() or case.name not in names)
    ]
    around = run_info()
    for row in engine.map(partial(scan_case, settings=settings), todo):
        whole = {**row, **around}
        with rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(whole, allow_nan=False) + "\n")
        yield whole


def _prepare(rows: Path) -> None:
    """See that rows can be added, and cut off a last line that a kill tore. Raises OutputError."""
    try:
        with rows.open("ab+") as file:
            file.seek(0)
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
    except OSError as error:
        raise OutputError(f"{rows} cannot be written: {error.strerror}.", cure="Make its directory first.") from error


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def read_rows(path: Path) -> tuple[dict[str, Any], ...]:
    """The rows of a file of JSON lines, the last of each model and setting; none where there is no file.

    A torn last line, as a kill leaves it, does not count. A setting that a row lacks is newer than the row, which was
    made with what is now its default. Raises OutputError on a damaged line.
    """
    if not path.exists():
        return ()
    try:
        lines = read_regular(path).decode("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise OutputError(
            f"The rows in {path} cannot be read: {error}.", cure="Remove the damaged line, or name another --rows."
        ) from error
    defaults = settings_of(ScanSettings()) | {"patches_only": True}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for number, line in enumerate(lines[:-1], 1):  # what stands behind the last newline is torn, or nothing
        try:
            row = json.loads(line)
            row["settings"] = defaults | row["settings"]
            rows[row["model"], json.dumps(row["settings"], sort_keys=True)] = row
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"Line {number} of {path} is damaged: {error}.", cure="Delete that line.") from error
    return tuple(rows.values())


def rows_of(path: Path, settings: ScanSettings) -> tuple[dict[str, Any], ...]:
    """The rows of that file under these settings."""
    return tuple(row for row in read_rows(path) if row["settings"] == settings_of(settings))


def scan_case(case: Case, *, settings: ScanSettings) -> dict[str, Any]:
    """The row of one model: the truth, the answer, and every label's size, so that other tests can be tried on it."""
    truth = {key: case.card.get(key) for key in KEPT_OF_CARD}
    row = {"model": case.name, "part": part_of(case.name), "settings": settings_of(settings), "truth": truth}
    try:
        loaded, images = open_case(case, at_most=settings.images_wanted, seed=settings.seed)
        names = loaded.origin.label_names
        result = scan(
            loaded.classifier,
            images if names is None else images.in_order_of(names),
            settings,
            run_info=RunInfo(model=loaded.origin.as_record(), label_names=names),
        )
    except NeuralCleanseError as error:
        said = str(error).replace(f"{case.model.parent}{os.sep}", "")  # rows say nothing of the machine's directories
        return {**row, "error": said}
    return {**row, **answer_of(result), "model_sha256": loaded.origin.sha256}


def open_case(case: Case, *, at_most: int | None, seed: int = 0) -> tuple[LoadedModel, ImageSet]:
    """The model of a case and its images, in the form that its card says."""
    needs = case.card.get("scan", {})
    normalize = None
    if {"mean", "std", "scale"} & set(needs):
        mean, std = (tuple(needs.get(key, (default,))) for key, default in (("mean", 0.0), ("std", 1.0)))
        normalize = Normalize(mean, std, float(needs.get("scale", 1.0)))
    network = ARCHITECTURES.get(str(case.card.get("architecture")))
    resize = needs.get("resize") or (network.input_shape[1:] if network else None)
    images = load_data(
        case.images,
        at_most=at_most,
        seed=seed,
        resize=None if resize is None else (resize[0], resize[1]),
        crop=needs.get("crop"),
        ignore_labels=bool(needs.get("ignore_labels", False)),
    )
    loaded = load_model(
        case.model,
        architecture=case.architecture,
        allow_code=case.allow_code,
        normalize=normalize,
        input_shape=images.shape,
    )
    return loaded, images


def answer_of(result: ScanResult) -> dict[str, Any]:
    """What a row says of a scan."""
    return {
        "verdict": result.verdict.value,
        "flagged": list(result.flagged),
        "p_value": result.p_value,
        "alpha": result.alpha,
        "detection_limit": result.detection_limit,
        "paper_index": _finite(result.paper_rule.anomaly_index),
        "paper_flagged": list(result.paper_rule.flagged),
        "labels": [label.target for label in result.label_rows],
        "sizes": [None if label.size is None else round(label.size, 3) for label in result.label_rows],
        "log_size_sd": [rounded(label.log_size_sd) for label in result.label_rows],
        "asr": [rounded(label.asr) for label in result.label_rows],
        "image_passes": result.image_passes,
        "wall_s": round(result.wall_s, 1),
        "reason": result.reason if result.verdict is Verdict.INCONCLUSIVE else None,
        "tests": [_test(test) for test in result.tests],
    }


def _test(test: KindTest) -> dict[str, Any]:
    """One test of the scan; sizes of patches stand beside it."""
    return {
        "kind": test.kind.value,
        "verdict": None if test.verdict is None else test.verdict.value,
        "p_value": test.p_value,
        "flagged": [[pair.source, pair.target] for pair in test.flagged],
        "image_passes": test.image_passes,
        "sizes": [rounded(row.size) for row in test.rows] if test.kind is Kind.FEATURE else [],
    }


def rounded(value: float | None) -> float | None:
    """To four decimals, as rows hold it."""
    return None if value is None else round(value, 4)


def _finite(value: float | None) -> float | None:
    return None if value is None or abs(value) == float("inf") else value


def settings_of(settings: ScanSettings) -> dict[str, Any]:
    """What tells one setting from another in the rows; JSON has lists for tuples."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return values


def run_info() -> dict[str, Any]:
    """Hardware, versions and commit of this run, for every recorded row."""
    commit = _git("rev-parse", "--short", "HEAD")
    if _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks"):
        commit += "-dirty"  # rows, cards and specs being written do not count
    cpu = next((line for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    return {
        "hardware": cpu.partition(":")[2].strip() or cpu,
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit,
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:  # no git here
        return ""
    return done.stdout.strip()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
