"""Results to files and back: scan.json, repair.json, and triggers.safetensors for tensors. Never pickle."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.errors import RIGHTS, OutputError
from neural_cleanse.files import write_whole, written_whole
from neural_cleanse.regular_files import read_regular
from neural_cleanse.results.codec import decode, encode
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import (
    SCHEMA_VERSION,
    SCREENED_OUTCOMES,
    BelowLimit,
    LabelPair,
    Outcome,
    ScanResult,
    Verdict,
)
from neural_cleanse.results.repair import RepairResult

JSON_FILE = "scan.json"
TENSOR_FILE = "triggers.safetensors"
REPAIR_FILE = "repair.json"
MOST_TENSORS = 2**36  # bytes of triggers
OF_PATCHES = ("mask", "pattern")  # tensors with values in [0, 1]
DAMAGED = "Copy the whole directory again, or scan the model again."


def to_json(result: ScanResult) -> dict[str, Any]:
    """The result without its tensors, as JSON values; infinite and undefined numbers are null."""
    values = encode(result)
    del values["triggers"]
    return {"schema_version": SCHEMA_VERSION, **values}


def dumps(result: ScanResult) -> str:
    """The JSON text."""
    return json.dumps(to_json(result), indent=2, allow_nan=False) + "\n"


def tensors(result: ScanResult) -> dict[str, Tensor]:
    """Every tensor of the result under a name: trigger.TARGET[.from.SOURCE].mask, evidence.TARGET[...].before, ..."""
    named = {
        f"trigger.{_key(pair)}.{name}": tensor.contiguous().cpu()
        for pair, trigger in result.triggers.items()
        for name, tensor in trigger.items()
    }
    for evidence in result.evidence:
        named[f"evidence.{_key(evidence.pair)}.before"] = evidence.before.contiguous()
        named[f"evidence.{_key(evidence.pair)}.after"] = evidence.after.contiguous()
    return named


def _key(pair: LabelPair) -> str:
    return f"{pair.target}" if pair.source is None else f"{pair.target}.from.{pair.source}"


def save_result(result: ScanResult, directory: Path) -> None:
    """Write both files into `directory`, each whole or not at all, scan.json last."""
    with written_whole(directory / TENSOR_FILE) as partial:
        # Tensor by tensor, from where they are: triggers that a checkpoint holds never come into memory together.
        safetensors.torch.save_file(tensors(result), partial)
    write_whole(directory / JSON_FILE, dumps(result).encode())


def load_result(directory: Path) -> ScanResult:
    """Read a result back. Raises OutputError when files are missing, damaged or of another schema."""
    if directory.is_file():
        where = f", {directory.parent}" if directory.name == JSON_FILE else ""
        raise OutputError(
            f"{directory} holds no finished scan: it is a file, a directory is needed.",
            cure=f"Give the directory that --output named{where}.",
        )
    try:
        raw = json.loads(read_regular(directory / JSON_FILE))
        named = safetensors.torch.load(read_regular(directory / TENSOR_FILE, MOST_TENSORS))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise OutputError(
            f"{directory} holds no finished scan: {Path(error.filename).name} is missing.",
            cure="Give the directory that --output named.",
        ) from error
    except OSError as error:
        raise OutputError(f"The scan in {directory} cannot be read: {error.strerror}.", cure=RIGHTS) from error
    except (ValueError, KeyError, RecursionError, safetensors.SafetensorError) as error:
        raise OutputError(f"The scan in {directory} is damaged: {error}", cure=DAMAGED) from error
    if not isinstance(raw, dict) or raw.get("schema_version") != SCHEMA_VERSION:
        found = raw.get("schema_version") if isinstance(raw, dict) else None
        raise OutputError(
            f"The scan in {directory} has schema version {found}, this program reads {SCHEMA_VERSION}.",
            cure="Scan the model again with this version.",
        )
    try:
        return _from_json(raw, named)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise OutputError(
            f"The scan in {directory} is damaged: {type(error).__name__} {error}.", cure=DAMAGED
        ) from error


def _from_json(raw: dict[str, Any], named: Mapping[str, Tensor]) -> ScanResult:
    evidence = [
        {**row, **{part: named[f"evidence.{_key(pair)}.{part}"] for part in ("before", "after")}}
        for row in raw["evidence"]
        for pair in [decode(LabelPair, row)]
    ]
    result = decode(ScanResult, {**_of_today(raw), "evidence": evidence, "triggers": {}})
    rows = [row.pair for row in result.labels]
    if len(set(rows)) < len(rows):
        raise ValueError("a label has two rows")
    pairs = [*rows, *(one.pair for one in result.evidence)]
    patches = {one.pair for one in result.evidence if one.kind is Kind.PATCH}
    if lacking := patches - set(rows):
        raise ValueError(f"there is evidence against {len(lacking)} labels without a row")
    triggers = {pair: trigger for pair in pairs if (trigger := _trigger(named, pair, result.image_shape))}
    if without := [_key(one.pair) for one in result.evidence if one.has_pictures and one.pair not in triggers]:
        raise ValueError(f"the trigger of {without[0]}, which is flagged, is missing")
    return replace(result, triggers=triggers)


def _of_today(raw: dict[str, Any]) -> dict[str, Any]:
    """Older records of this schema have what students said among the settings, and not what `detection_limit` is of."""
    provenance = raw["provenance"]
    settings = {name: value for name, value in provenance["settings"].items() if name != "student_test"}
    said = provenance["settings"].get("student_test")
    screened = any(Outcome(row["outcome"]) in SCREENED_OUTCOMES for row in raw["labels"])
    limit = BelowLimit.SEARCHED_ON if screened and raw["verdict"] != Verdict.INFECTED.value else BelowLimit.FLAGGED
    before = {"student_test": said, "below_limit": limit.value}
    return {**before, **raw, "provenance": {**provenance, "settings": settings}}


def expect_labels(result: ScanResult, num_classes: int, where: Path | None = None) -> None:
    """Raise OutputError where a scan says something of labels that its model does not have."""
    pairs = [*(row.pair for row in result.labels), *(one.pair for one in result.evidence), *result.flagged_pairs]
    pairs += [pair for test in result.tests for pair in (*test.flagged, *test.mapped, *(row.pair for row in test.rows))]
    named = {label for pair in pairs for label in (pair.target, pair.source) if label is not None}
    if other := [label for label in named if not 0 <= label < num_classes]:
        raise OutputError(
            f"The scan{'' if where is None else f' in {where}'} is damaged: it has the label {other[0]!s:.20}, its "
            f"model has 0 to {num_classes - 1}.",
            cure=DAMAGED,
        )


def _trigger(named: Mapping[str, Tensor], pair: LabelPair, shape: tuple[int, int, int]) -> dict[str, Tensor]:
    prefix = f"trigger.{_key(pair)}."
    all_of = {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}
    found = {name: tensor for name, tensor in all_of.items() if "." not in name}
    for name, tensor in found.items():
        good = (tensor >= 0) & (tensor <= 1) if name in OF_PATCHES else tensor.isfinite()
        if not bool(good.all()):
            raise ValueError(f"the {name} of the trigger of {_key(pair)} holds values that no trigger has")
    wanted = {"mask": (1, 1, *shape[1:]), "pattern": (1, *shape)}
    given = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if given.keys() == wanted.keys() and given != wanted:
        raise ValueError(f"the trigger of {_key(pair)} is one of {given}, for images {shape}")
    return found


def repair_dumps(result: RepairResult) -> str:
    """The JSON text of a repair; enumerations are their values."""
    before, after = result.accuracy
    values = {**encode(result), "schema_version": SCHEMA_VERSION, "clean_accuracy": {"before": before, "after": after}}
    for entry in (*values["triggers"], *values["verified"]):
        entry["asr_after_interval"] = clopper_pearson(entry["hits_after"], entry["trials"])
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def load_repair(directory: Path) -> RepairResult | None:
    """The repair whose report is in `directory`, None where there is none. Raises OutputError on a damaged one."""
    try:
        raw = json.loads(read_regular(directory / REPAIR_FILE))
        if raw["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {raw['schema_version']}, this program reads {SCHEMA_VERSION}")
        return decode(RepairResult, raw)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OutputError(f"The repair in {directory} cannot be read: {error.strerror}.", cure=RIGHTS) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OutputError(
            f"The repair in {directory} is damaged: {type(error).__name__} {error}.",
            cure="Repair the model again, or remove that file.",
        ) from error
