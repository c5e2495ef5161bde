"""A ScanResult for inventories and supply chains: a CycloneDX 1.6 ML-BOM, and an in-toto statement to sign.

Both bind the verdict to the SHA-256 of the model: they say nothing of another file.
"""

import json
import math
import uuid
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from neural_cleanse.errors import OutputError
from neural_cleanse.report import content, summary
from neural_cleanse.report.taxonomy import TAXONOMIES
from neural_cleanse.report.text import flagged, sentence
from neural_cleanse.results.records import ScanResult, Verdict
from neural_cleanse.text import escape

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:neural-cleanse:backdoor-scan:v1"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, PREDICATE_TYPE)
MODEL = "model"  # reference of the component inside the BOM


def statement(result: ScanResult) -> str:
    """The in-toto statement as text, unsigned. Raises OutputError where the model has no hash."""
    model, made = result.provenance.model, result.provenance
    predicate = {
        "verdict": result.verdict.value,
        "reason": escape(result.reason),
        "flagged": list(result.flagged),
        "pValue": _number(result.p_value),
        "alpha": result.alpha,
        "detectionLimit": _number(result.detection_limit),
        "lookedFor": content.looked_for(result),
        "notLookedFor": list(content.not_checked(result)),
        "scanner": {"name": "neural-cleanse", "version": made.versions.get("neural-cleanse"), "seed": made.seed},
        "finishedOn": made.date if summary.date(made.date) else None,
        "images": {
            "sha256": made.data.get("sha256"),
            "used": made.data.get("images_used"),
            "cleanAccuracy": made.data.get("clean_accuracy"),
        },
        "taxonomies": [
            {"name": one.name, "version": one.version, "ids": [taxon.id for taxon in one.taxa]} for one in TAXONOMIES
        ],
    }
    whole = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": _name(result), "digest": {"sha256": _hash(model)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    return json.dumps(whole, indent=2, allow_nan=False) + "\n"


def bom(result: ScanResult) -> str:
    """The CycloneDX ML-BOM as text. Raises OutputError where the model has no hash."""
    made = result.provenance
    digest = _hash(made.model)
    whole: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, f'{digest} {made.date} {made.seed}')}",
        "version": 1,
        "metadata": _metadata(result),
        "components": [_component(result, digest)],
    }
    if result.verdict is Verdict.INFECTED:
        whole["vulnerabilities"] = list(_vulnerabilities(result))
    return json.dumps(whole, indent=2, allow_nan=False) + "\n"


def _metadata(result: ScanResult) -> dict[str, Any]:
    made = result.provenance
    tool: dict[str, Any] = {"type": "application", "name": "neural-cleanse"}
    if made.versions.get("neural-cleanse"):
        tool["version"] = escape(made.versions["neural-cleanse"])
    dated = {"timestamp": made.date} if summary.date(made.date) else {}
    return dated | {"tools": {"components": [tool]}}


def _component(result: ScanResult, digest: str) -> dict[str, Any]:
    model = result.provenance.model
    card: dict[str, Any] = {
        "modelParameters": {"task": "image classification", "approach": {"type": "supervised"}},
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(result))},
        "considerations": {"technicalLimitations": list(content.not_checked(result))},
    }
    if model.get("architecture"):
        card["modelParameters"]["modelArchitecture"] = escape(str(model["architecture"]))
    values = {
        "verdict": result.verdict.value,
        "reason": escape(sentence(result)),
        "p_value": result.p_value,
        "alpha": result.alpha,
        "detection_limit_px": result.detection_limit,
        "images_sha256": result.provenance.data.get("sha256"),
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": _name(result),
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "modelCard": card,
        "properties": [
            {"name": f"neural-cleanse:{name}", "value": str(value)}
            for name, value in values.items()
            if value is not None
        ],
    }


def _metrics(result: ScanResult) -> Iterator[dict[str, Any]]:
    accuracy = result.provenance.data.get("clean_accuracy")
    if isinstance(accuracy, float):
        yield {"type": "accuracy", "value": f"{accuracy:.4f}", "slice": "clean images"}
    for one in flagged(result):
        shown = one.row.shown
        if shown.asr is not None and shown.asr_interval is not None:
            low, high = shown.asr_interval
            yield {
                "type": "attack success rate",
                "value": f"{shown.asr:.4f}",
                "slice": f"images with the trigger of: {one.heading}",
                "confidenceInterval": {"lowerBound": f"{low:.4f}", "upperBound": f"{high:.4f}"},
            }


def _vulnerabilities(result: ScanResult) -> Iterator[dict[str, Any]]:
    for one in flagged(result):
        target, source = one.pairs[0].target, one.pairs[0].source
        of_label = f"label-{target}" + ("" if source is None else f"-from-{source}")
        yield {
            "bom-ref": f"all-to-all-from-{source}" if one.is_map else of_label,
            "id": "NC001",
            "source": {"name": "neural-cleanse"},
            "references": [
                {"id": taxon.id, "source": {"name": f"{one.name} {one.version}", "url": one.address}}
                for one in TAXONOMIES
                for taxon in one.taxa
            ],
            "description": f"Backdoor. {one.statement} ({one.compared}).",
            "detail": content.NATURAL,
            "recommendation": "Do not use the model as it is. neural-cleanse repair writes a copy without the trigger.",
            "analysis": {"state": "exploitable", "detail": escape(sentence(result))},
            "affects": [{"ref": MODEL}],
        }


def _name(result: ScanResult) -> str:
    return escape(PurePath(str(result.provenance.model.get("path") or "model")).name)


def _hash(model: Any) -> str:
    digest = str(model.get("sha256") or "")
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise OutputError(
            "The scan has no SHA-256 of the model to bind its verdict to.", cure="Scan a model file, or ask for json."
        )
    return digest


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
