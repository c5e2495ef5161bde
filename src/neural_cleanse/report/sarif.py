"""A ScanResult as SARIF 2.1.0, the format of dashboards of security findings (OASIS standard, March 2020).

One result a flagged label, one of kind "open" where the scan could not tell, none where nothing was found: a dashboard
closes an alert that is not reported again. Its identity is of these weights and this label: who dismissed it has
dismissed it for this file, not for the next.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from neural_cleanse.report import content, findings
from neural_cleanse.report.taxonomy import TAXONOMIES, references
from neural_cleanse.report.text import Flagged, flagged, sentence
from neural_cleanse.results.codec import encode
from neural_cleanse.results.records import ScanResult, Verdict
from neural_cleanse.results.storage import to_json
from neural_cleanse.text import escape

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
ROOT = "%SRCROOT%"  # where relative paths begin; a dashboard puts the repository there
BACKDOOR, UNCLEAR = 0, 1  # places in RULES
RULES: tuple[Mapping[str, Any], ...] = (
    {
        "id": "NC001",
        "name": "BackdoorTrigger",
        "shortDescription": {"text": "A label is reached by a far smaller trigger than the others"},
        "fullDescription": {
            "text": "One small patch, the same for every image, sends images of other classes to this label. Its "
            "size is far below that of the patches for the model's other labels: the mark of a backdoor."
        },
        "help": {"text": content.NATURAL + " neural-cleanse repair disarms it; report.html shows the evidence."},
        "defaultConfiguration": {"level": "error"},
        "properties": {
            "precision": "high",
            "security-severity": "8.1",
            "tags": ["security", "machine-learning"],
        },
        "relationships": [{"target": reference, "kinds": ["relevant"]} for reference in references()],
    },
    {
        "id": "NC002",
        "name": "CouldNotTell",
        "shortDescription": {"text": "The scan could not tell whether the model has a backdoor"},
        "fullDescription": {
            "text": "Nothing is said of the model: neither that it has a backdoor nor that it has none. The message "
            "holds the reason."
        },
        "help": {"text": "Scan with more images, in the form that the model was trained on, or against a baseline."},
        "defaultConfiguration": {"level": "none"},  # the standard allows no other where `kind` is not "fail"
        "properties": {"precision": "low", "tags": ["security", "machine-learning"]},
    },
)


def dumps(result: ScanResult) -> str:
    """The SARIF log as text."""
    return json.dumps(log(result), indent=2, allow_nan=False) + "\n"


def log(result: ScanResult) -> dict[str, Any]:
    """The SARIF log as JSON values."""
    model = result.provenance.model
    supported = [{"name": one.name, "index": number} for number, one in enumerate(TAXONOMIES)]
    driver: dict[str, Any] = {"name": "neural-cleanse", "rules": list(RULES), "supportedTaxonomies": supported}
    version = result.provenance.versions.get("neural-cleanse")
    if version is not None:
        driver |= {"version": _plain(version), "semanticVersion": _plain(version)}
    run = {
        "tool": {"driver": driver},
        "taxonomies": [one.sarif() for one in TAXONOMIES],
        # Dashboards keep one analysis a category: two models of one repository must not replace each other.
        "automationDetails": {"id": f"neural-cleanse/{_uri(model)}/"},
        "originalUriBaseIds": {ROOT: {"description": {"text": "The directory that the scan was run in."}}},
        "artifacts": [_artifact(result)],
        "invocations": [_invocation(result)],
        "results": _results(result),
        "properties": _properties(result),
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _artifact(result: ScanResult) -> dict[str, Any]:
    model = result.provenance.model
    found: dict[str, Any] = {"location": _location(model), "roles": ["analysisTarget"]}
    if isinstance(model.get("num_bytes"), int):
        found["length"] = model["num_bytes"]
    if model.get("sha256"):
        found["hashes"] = {"sha-256": str(model["sha256"])}
    return found


def _location(model: Mapping[str, Any]) -> dict[str, Any]:
    uri = _uri(model)
    return {"uri": uri, "index": 0} | ({} if uri.startswith("file:") else {"uriBaseId": ROOT})


def _uri(model: Mapping[str, Any]) -> str:
    path = str(model.get("path") or "model")
    quoted = quote(path, errors="replace")
    return f"file://{quoted}" if path.startswith("/") else quoted


def _invocation(result: ScanResult) -> dict[str, Any]:
    made = result.provenance
    notes = [{"level": "note", "message": {"text": _plain(note)}} for note in made.notes]
    found: dict[str, Any] = {"executionSuccessful": True, "toolExecutionNotifications": notes}
    return found | ({} if made.command is None else {"commandLine": escape(made.command)})


def _results(result: ScanResult) -> list[dict[str, Any]]:
    if result.verdict is Verdict.INCONCLUSIVE:
        text = f"Could not tell whether the model has a backdoor. {sentence(result)}"
        return [_result(result, UNCLEAR, text, "", {})]
    weak = {found.flagged: found.weak for found in findings.findings(result)}
    found = []
    for one in flagged(result):
        _row, shown = one.row, one.row.shown
        success = "" if shown.asr is None else f" It succeeds for {shown.asr:.1%} of images that no search saw."
        thin = "".join(f" {line}" for line in weak.get(one, ()))
        text = f"{one.statement}: {one.compared}.{success}{thin}"
        found.append(_result(result, BACKDOOR, text, _which(one), _values(one)))
    return found


def _which(one: Flagged) -> str:
    """What was flagged, as its identity holds it."""
    pair = one.pairs[0]
    return "all to all" if one.is_map else f"{pair.target} from {'any' if pair.source is None else pair.source}"


def _values(one: Flagged) -> dict[str, Any]:
    """The row; of a map its pairs stand in place of one target and source."""
    values = dict(encode(one.row))
    if not one.is_map:
        return values
    kept = ("size", "p_value", "asr", "asr_interval")
    return {name: values[name] for name in kept} | {"pairs": [encode(pair) for pair in one.pairs]}


def _result(result: ScanResult, rule: int, text: str, which: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """One finding; `region` says line 1 of a file without lines, since dashboards show nothing that has no place."""
    model = result.provenance.model
    region = {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 1}
    return {
        "ruleId": RULES[rule]["id"],
        "ruleIndex": rule,
        "kind": "fail" if rule == BACKDOOR else "open",
        "level": RULES[rule]["defaultConfiguration"]["level"],
        "message": {"text": _plain(text)},
        "locations": [{"physicalLocation": {"artifactLocation": _location(model), "region": region}}],
        "partialFingerprints": {
            "primaryLocationLineHash": _digest(RULES[rule]["id"], model.get("sha256"), which),
            "neuralCleanseLabel/v1": _digest(RULES[rule]["id"], which),
        },
        "properties": dict(properties),
    } | ({"taxa": references()} if rule == BACKDOOR else {})


def _properties(result: ScanResult) -> dict[str, Any]:
    """What of scan.json a dashboard may want to filter by."""
    whole = to_json(result)
    kept = ("verdict", "reason", "flagged", "p_value", "alpha", "detection_limit", "image_passes", "wall_s")
    data = whole["provenance"]["data"]
    return {name: whole[name] for name in kept} | {"data": data, "seed": result.provenance.seed}


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "replace")).hexdigest()


def _plain(text: str) -> str:
    """SARIF reads [text](address) as a link and {0} as a place to fill: no name may make either."""
    return escape(text).translate(str.maketrans("[]{}", "()()"))
