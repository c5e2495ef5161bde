"""Results to files and back: scan.json, repair.json, and triggers.safetensors for tensors. Never pickle."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.errors import OutputError
from neural_cleanse.files import write_whole, written_whole
from neural_cleanse.results.records import (
    SCHEMA_VERSION,
    Evidence,
    LabelPair,
    LabelResult,
    Outcome,
    PaperRule,
    Provenance,
    Refined,
    ScanResult,
    SourceRate,
    Verdict,
)
from neural_cleanse.results.repair import (
    ClassChange,
    RepairResult,
    RepairRound,
    RepairStatus,
    TracePoint,
    TriggerChange,
)

JSON_FILE = "scan.json"
TENSOR_FILE = "triggers.safetensors"
REPAIR_FILE = "repair.json"


def to_json(result: ScanResult) -> dict[str, Any]:
    """The result without its tensors, as JSON values; infinite and undefined numbers are null."""
    scalars = {
        "schema_version": SCHEMA_VERSION,
        "verdict": result.verdict.value,
        "reason": result.reason,
        "flagged": list(result.flagged),
        "p_value": result.p_value,
        "alpha": result.alpha,
        "level": result.level,
        "detection_limit": result.detection_limit,
        "image_passes": result.image_passes,
        "forward_passes": result.forward_passes,
        "cut_off": result.cut_off,
        "wall_s": result.wall_s,
        "image_shape": list(result.image_shape),
        "labels": [_label_json(label) for label in result.labels],
        "paper_rule": asdict(result.paper_rule),
        "evidence": [
            {
                "target": evidence.target,
                "source": evidence.source,
                "answers_before": evidence.answers_before,
                "answers_after": evidence.answers_after,
                "by_source": [asdict(rate) for rate in evidence.by_source],
            }
            for evidence in result.evidence
        ],
        "provenance": asdict(result.provenance),
    }
    values = _finite(scalars)
    assert isinstance(values, dict)
    return values


def _label_json(label: LabelResult) -> dict[str, Any]:
    refined = None if label.refined is None else asdict(label.refined) | {"outcome": label.refined.outcome.value}
    return asdict(label) | {"outcome": label.outcome.value, "refined": refined}


def dumps(result: ScanResult) -> str:
    """The JSON text."""
    return json.dumps(to_json(result), indent=2, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


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
    try:
        raw = json.loads((directory / JSON_FILE).read_text(encoding="utf-8"))
        named = safetensors.torch.load((directory / TENSOR_FILE).read_bytes())
    except FileNotFoundError as error:
        raise OutputError(
            f"{directory} holds no finished scan: {Path(error.filename).name} is missing.",
            cure="Give the directory that --output named.",
        ) from error
    except (OSError, ValueError, KeyError, RecursionError, safetensors.SafetensorError) as error:
        raise OutputError(f"The scan in {directory} is damaged: {error}") from error
    if not isinstance(raw, dict) or raw.get("schema_version") != SCHEMA_VERSION:
        found = raw.get("schema_version") if isinstance(raw, dict) else None
        raise OutputError(f"The scan in {directory} has schema version {found}, this program reads {SCHEMA_VERSION}.")
    try:
        return _from_json(raw, named)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise OutputError(f"The scan in {directory} is damaged: {type(error).__name__} {error}.") from error


def _from_json(raw: dict[str, Any], named: Mapping[str, Tensor]) -> ScanResult:
    labels = tuple(
        LabelResult(**(row | _ended(row) | {"refined": Refined(**(refined | _ended(refined))) if refined else None}))
        for row in raw["labels"]
        for refined in [row.get("refined")]
    )
    channels, height, width = raw["image_shape"]
    return ScanResult(
        verdict=Verdict(raw["verdict"]),
        reason=raw["reason"],
        flagged=tuple(raw["flagged"]),
        p_value=raw["p_value"],
        alpha=raw["alpha"],
        level=raw["level"],
        detection_limit=raw["detection_limit"],
        image_passes=raw["image_passes"],
        forward_passes=raw["forward_passes"],
        wall_s=raw["wall_s"],
        image_shape=(channels, height, width),
        labels=labels,
        paper_rule=PaperRule(**(raw["paper_rule"] | {"flagged": tuple(raw["paper_rule"]["flagged"])})),
        provenance=_provenance(raw),
        cut_off=bool(raw.get("cut_off", False)),
        evidence=tuple(
            Evidence(
                target=pair.target,
                source=pair.source,
                before=named[f"evidence.{_key(pair)}.before"],
                after=named[f"evidence.{_key(pair)}.after"],
                answers_before=tuple(row["answers_before"]),
                answers_after=tuple(row["answers_after"]),
                by_source=tuple(SourceRate(**rate) for rate in row["by_source"]),
            )
            for row in raw["evidence"]
            for pair in [_evidence_pair(row)]
        ),
        triggers={
            pair: trigger
            for label in labels
            for pair in [LabelPair(label.target, label.source)]
            if (trigger := _trigger(named, pair))
        },
    )


def _ended(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"outcome": Outcome(row["outcome"]), "asr_interval": _pair(row["asr_interval"])}


def _index(value: object) -> int:
    if type(value) is not int:  # it becomes part of a file's name
        raise TypeError(f"{value!r} is no label")
    return value


def _evidence_pair(row: Mapping[str, Any]) -> LabelPair:
    """Scans from before there were pairs have no source."""
    source = row.get("source")
    return LabelPair(_index(row["target"]), None if source is None else _index(source))


def _provenance(raw: Mapping[str, Any]) -> Provenance:
    return Provenance(**(raw["provenance"] | {"notes": tuple(raw["provenance"]["notes"])}))


def _pair(values: list[float] | None) -> tuple[float, float] | None:
    return None if values is None else (values[0], values[1])


def _trigger(named: Mapping[str, Tensor], pair: LabelPair) -> dict[str, Tensor]:
    prefix = f"trigger.{_key(pair)}."
    found = {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}
    return {name: tensor for name, tensor in found.items() if "." not in name}


def repair_dumps(result: RepairResult) -> str:
    """The JSON text of a repair; enumerations are their values."""
    before, after = result.accuracy
    values = asdict(result) | {"schema_version": SCHEMA_VERSION, "status": result.status.value}
    values["clean_accuracy"] = {"before": before, "after": after}
    for entry in (*values["triggers"], *values["verified"]):
        entry["asr_after_interval"] = clopper_pearson(entry["hits_after"], entry["trials"])
    for entry, done in zip(values["rounds"], result.rounds, strict=True):
        entry["verdict"] = None if done.verdict is None else done.verdict.value
    return json.dumps(_finite(values), indent=2, allow_nan=False) + "\n"


def load_repair(directory: Path) -> RepairResult | None:
    """The repair whose report is in `directory`, None where there is none. Raises OutputError on a damaged one."""
    path = directory / REPAIR_FILE
    if not path.exists():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {raw['schema_version']}, this program reads {SCHEMA_VERSION}")
        return RepairResult(
            status=RepairStatus(raw["status"]),
            reason=raw["reason"],
            max_drop=raw["max_drop"],
            max_asr=raw["max_asr"],
            triggers=tuple(map(_change, raw["triggers"])),
            verified=tuple(map(_change, raw["verified"])),
            classes=tuple(ClassChange(**row) for row in raw["classes"]),
            rounds=tuple(_round(row) for row in raw["rounds"]),
            num_images=raw["num_images"],
            wall_s=raw["wall_s"],
            provenance=_provenance(raw),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OutputError(f"The repair in {directory} is damaged: {type(error).__name__} {error}.") from error


def _change(row: Mapping[str, Any]) -> TriggerChange:
    """The interval beside the counts is derived from them."""
    return TriggerChange(**{name: value for name, value in row.items() if name != "asr_after_interval"})


def _round(row: Mapping[str, Any]) -> RepairRound:
    verdict = None if row["verdict"] is None else Verdict(row["verdict"])
    trace = tuple(TracePoint(**point) for point in row["trace"])
    values = {"verdict": verdict, "trace": trace, "targets": tuple(row["targets"]), "flagged": tuple(row["flagged"])}
    return RepairRound(**{**row, **values})
