"""SARIF for dashboards: valid by the standard's schema, stable in identity, silent where nothing was found."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from made_scans import HOSTILE, many, pairs, result

from neural_cleanse.report import sarif
from neural_cleanse.results.records import ScanResult, Verdict

SCHEMA = json.loads((Path(__file__).parent / "sarif_schema" / "sarif-2.1.0-rtm.5.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft4Validator(SCHEMA)


def run(scan: ScanResult) -> dict[str, Any]:
    """The one run of a valid log."""
    log = json.loads(sarif.dumps(scan))
    VALIDATOR.validate(log)
    (only,) = log["runs"]
    assert isinstance(only, dict)
    return only


def of_model(scan: ScanResult, **model: Any) -> ScanResult:
    return dataclasses.replace(scan, provenance=dataclasses.replace(scan.provenance, model=model))


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_is_valid(verdict: Verdict) -> None:
    results = run(result(verdict=verdict))["results"]
    levels = {Verdict.INFECTED: ["error"], Verdict.INCONCLUSIVE: ["none"], Verdict.CLEAN: []}
    assert [one["level"] for one in results] == levels[verdict]


def test_the_schema_would_say_no() -> None:
    """The validator is not asleep."""
    log = sarif.log(result())
    for path, value in ((("version",), "2.0"), (("runs", 0, "results", 0, "level"), "fatal")):
        broken: Any = copy.deepcopy(log)
        inner = broken
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
        assert not VALIDATOR.is_valid(broken)


def test_a_result_has_what_a_dashboard_needs() -> None:
    scan = of_model(result(("a", "b", "c")), path="models/my net.onnx", sha256="ab" * 32, num_bytes=1234)
    only = run(scan)
    (found,) = only["results"]
    place = found["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "models/my%20net.onnx", "uriBaseId": "%SRCROOT%", "index": 0}
    assert place["region"]["startLine"] == 1
    assert only["artifacts"][0]["hashes"] == {"sha-256": "ab" * 32}
    assert only["artifacts"][0]["length"] == 1234
    assert only["tool"]["driver"]["rules"][found["ruleIndex"]]["id"] == found["ruleId"] == "NC001"
    assert only["automationDetails"]["id"] == "neural-cleanse/models/my%20net.onnx/"
    assert found["properties"]["size"] == 4.5
    assert only["properties"]["verdict"] == "infected"


def test_an_absolute_path_is_a_file_address() -> None:
    place = run(of_model(result(), path="/models/a b.onnx"))["artifacts"][0]["location"]
    assert place == {"uri": "file:///models/a%20b.onnx", "index": 0}


def test_identity_is_of_the_weights_and_the_label_and_of_nothing_else() -> None:
    def identity(scan: ScanResult) -> str:
        return str(run(scan)["results"][0]["partialFingerprints"]["primaryLocationLineHash"])

    one = of_model(result(), path="a.onnx", sha256="1")
    again = dataclasses.replace(one, wall_s=9.0, labels=(dataclasses.replace(one.labels[0], size=5.0), *one.labels[1:]))
    assert identity(one) == identity(again), "another seed, the same alert"
    assert identity(one) != identity(of_model(result(), path="a.onnx", sha256="2")), "other weights, another alert"
    assert identity(one) != identity(of_model(result(verdict=Verdict.INCONCLUSIVE), path="a.onnx", sha256="1"))
    both = dataclasses.replace(one, flagged=(0, 1))
    prints = [found["partialFingerprints"]["primaryLocationLineHash"] for found in run(both)["results"]]
    assert len(set(prints)) == 2


def test_pairs_and_many_labels_are_valid() -> None:
    (found,) = run(pairs())["results"]
    assert found["message"]["text"].startswith("Label 3 -> 8 class 8 is reached by")
    assert found["properties"]["source"] == 3
    assert len(run(many())["results"]) == 1


@pytest.mark.parametrize("name", [*HOSTILE, "[click](https://evil.example)", "{0}"])
def test_a_name_makes_no_link_and_no_place_to_fill(name: str) -> None:
    (found,) = run(result((name, "b", "c")))["results"]
    assert not set(found["message"]["text"]) & set("[]{}\x1b\u202e\n")


def test_a_finding_names_its_place_in_pinned_catalogues() -> None:
    only = run(result())
    rule = only["tool"]["driver"]["rules"][0]
    (found,) = only["results"]
    assert [reference["id"] for reference in found["taxa"]] == ["AML.T0018.000", "ML10:2023"]
    assert [one["target"] for one in rule["relationships"]] == found["taxa"]
    for reference in found["taxa"]:
        taxonomy = only["taxonomies"][reference["toolComponent"]["index"]]
        assert taxonomy["version"] and taxonomy["name"] == reference["toolComponent"]["name"]
        assert taxonomy["taxa"][reference["index"]]["id"] == reference["id"]
    assert [one["name"] for one in only["tool"]["driver"]["supportedTaxonomies"]] == [
        one["name"] for one in only["taxonomies"]
    ]


def test_what_could_not_be_told_is_open_and_has_no_level() -> None:
    (found,) = run(result(verdict=Verdict.INCONCLUSIVE))["results"]
    assert (found["kind"], found["level"]) == ("open", "none")
    assert "taxa" not in found
