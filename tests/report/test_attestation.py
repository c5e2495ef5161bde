"""CycloneDX ML-BOM and in-toto statement: valid by the schema and bound to the model's hash."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing
from made_scans import many, pairs, result

from neural_cleanse.errors import OutputError
from neural_cleanse.report import attestation
from neural_cleanse.results.records import ScanResult, Verdict

FOLDER = Path(__file__).parent / "cyclonedx_schema"
SHA = "0123456789abcdef" * 4


def _schema(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.SNAPSHOT.schema.json").read_text(encoding="utf-8"))


def _registry() -> Any:
    contents = [
        (f"http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json", _schema(name)) for name in ("jsf-0.82", "spdx")
    ]
    return referencing.Registry().with_contents(contents, default_specification=referencing.jsonschema.DRAFT7)


VALIDATOR = jsonschema.Draft7Validator(_schema("bom-1.6"), registry=_registry())


def scan(verdict: Verdict = Verdict.INFECTED, of: ScanResult | None = None) -> ScanResult:
    made = of or result(verdict=verdict)
    model = {"path": "models/net.onnx", "sha256": SHA, "architecture": "resnet18"}
    data = {"clean_accuracy": 0.97, "images_used": 500, "sha256": "ab" * 32}
    date = "2026-11-29T10:15:09+00:00"
    return dataclasses.replace(made, provenance=dataclasses.replace(made.provenance, model=model, data=data, date=date))


def bom(of: ScanResult) -> Any:
    whole = json.loads(attestation.bom(of))
    VALIDATOR.validate(whole)
    return whole


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_is_a_valid_bom(verdict: Verdict) -> None:
    whole = bom(scan(verdict))
    (model,) = whole["components"]
    assert model["type"] == "machine-learning-model" and model["name"] == "net.onnx"
    assert model["hashes"] == [{"alg": "SHA-256", "content": SHA}]
    assert {"name": "neural-cleanse:verdict", "value": verdict.value} in model["properties"]
    assert ("vulnerabilities" in whole) is (verdict is Verdict.INFECTED)
    assert whole["metadata"]["timestamp"] == "2026-11-29T10:15:09+00:00"


@pytest.mark.parametrize("of", [pairs(), many(200)])
def test_pairs_and_many_labels_are_valid(of: ScanResult) -> None:
    (found,) = bom(scan(of=of))["vulnerabilities"]
    assert found["affects"] == [{"ref": "model"}]
    assert "AML.T0018.000" in [reference["id"] for reference in found["references"]]


def test_a_flagged_label_has_its_success_with_the_interval() -> None:
    metrics = bom(scan())["components"][0]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert [metric["value"] for metric in metrics] == ["0.9700", "0.9688"]
    assert metrics[1]["confidenceInterval"] == {"lowerBound": "0.9000", "upperBound": "0.9900"}


def test_the_schema_would_say_no() -> None:
    whole = json.loads(attestation.bom(scan()))
    for path, value in (
        (("bomFormat",), "SPDX"),
        (("components", 0, "type"), "brain"),
        (("components", 0, "hashes", 0, "content"), "12"),
        (("vulnerabilities", 0, "analysis", "state"), "maybe"),
        (("serialNumber",), "1"),
    ):
        broken: Any = copy.deepcopy(whole)
        inner = broken
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
        assert not VALIDATOR.is_valid(broken), path


def test_the_same_scan_has_the_same_serial_number_and_another_date_another() -> None:
    one = scan()
    later = dataclasses.replace(one, provenance=dataclasses.replace(one.provenance, date="2026-11-30T00:00:00+00:00"))
    assert bom(one)["serialNumber"] == bom(one)["serialNumber"] != bom(later)["serialNumber"]


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_statement_binds_the_verdict_to_the_hash(verdict: Verdict) -> None:
    whole = json.loads(attestation.statement(scan(verdict)))
    assert set(whole) == {"_type", "subject", "predicateType", "predicate"}
    assert whole["_type"] == "https://in-toto.io/Statement/v1"
    assert whole["subject"] == [{"name": "net.onnx", "digest": {"sha256": SHA}}]
    told = whole["predicate"]
    assert (told["verdict"], told["finishedOn"]) == (verdict.value, "2026-11-29T10:15:09+00:00")
    assert told["images"]["sha256"] == "ab" * 32
    assert any("all-to-all" in line for line in told["notLookedFor"])


@pytest.mark.parametrize("digest", [None, "", "12", "z" * 64])
def test_without_a_hash_there_is_nothing_to_bind(digest: str | None) -> None:
    one = scan()
    bare = dataclasses.replace(one, provenance=dataclasses.replace(one.provenance, model={"sha256": digest}))
    for write in (attestation.bom, attestation.statement):
        with pytest.raises(OutputError, match="no SHA-256"):
            write(bare)
