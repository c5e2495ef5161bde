"""The published schema of scan.json: it fits every result, names every field, and would say no."""

import copy
import dataclasses
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from made_scans import many, pairs, result

from neural_cleanse.results import storage
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import (
    SCHEMA_VERSION,
    BelowLimit,
    KindRow,
    KindTest,
    LabelPair,
    Outcome,
    Refined,
    ScanResult,
    Verdict,
)
from neural_cleanse.results.student_test import StudentTest

SCHEMA = json.loads(files("neural_cleanse.results").joinpath("scan.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def _refined() -> ScanResult:
    one = result()
    row = dataclasses.replace(
        one.labels[0], outcome=Outcome.REFINED, refined=Refined(3.0, None, 0.9, (0.8, 1.0), Outcome.CONVERGED)
    )
    return dataclasses.replace(one, labels=(row, *one.labels[1:]))


def _tested() -> ScanResult:
    one = result()
    rows = (KindRow(0, None, 1.5, 0.2), KindRow(1, 2, None, None))
    tests = (
        KindTest(Kind.FEATURE, 0.2, Verdict.INFECTED, "it moves", 1e-4, (LabelPair(0),), (), rows),
        KindTest(Kind.PAIRS, 0.2, None, "too few images"),
    )
    return dataclasses.replace(one, tests=tests)


def _of_students() -> ScanResult:
    test = StudentTest(True, 0.9, 50, {"steps": 10}, students=2, sizes={0: 60.0, 1: 77.5}, spread=0.1, own_p_value=0.02)
    return dataclasses.replace(result(), student_test=test)


SCANS = {
    "tests": _tested(),
    "students": _of_students(),
    **{verdict.value: result(verdict=verdict) for verdict in Verdict},
    "pairs": pairs(),
    "many": many(100),
    "refined": _refined(),
    "bare": dataclasses.replace(result(), p_value=None, level=None, detection_limit=None),
}


@pytest.mark.parametrize("name", SCANS)
def test_every_result_fits(name: str) -> None:
    VALIDATOR.validate(json.loads(storage.dumps(SCANS[name])))


@pytest.mark.parametrize("among_the_settings", [False, True])
def test_what_students_said_comes_back_also_from_older_records(tmp_path: Path, among_the_settings: bool) -> None:
    said = _of_students()
    storage.save_result(said, tmp_path)
    path = tmp_path / storage.JSON_FILE
    if among_the_settings:
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw["provenance"]["settings"]["student_test"] = raw.pop("student_test")
        path.write_text(json.dumps(raw), encoding="utf-8")
    read = storage.load_result(tmp_path)
    assert read.student_test == said.student_test
    assert "student_test" not in read.provenance.settings


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("outcome", [Outcome.SCREENED, Outcome.CONVERGED])
def test_an_older_record_says_by_its_rows_what_its_limit_is_of(
    tmp_path: Path, verdict: Verdict, outcome: Outcome
) -> None:
    one = result(verdict=verdict)
    rows = tuple(dataclasses.replace(row, outcome=outcome) for row in one.labels)
    storage.save_result(dataclasses.replace(one, labels=rows), tmp_path)
    path = tmp_path / storage.JSON_FILE
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert raw.pop("below_limit") == "flagged"
    path.write_text(json.dumps(raw), encoding="utf-8")
    searched_on = outcome is Outcome.SCREENED and verdict is not Verdict.INFECTED
    read = storage.load_result(tmp_path)
    assert read.below_limit is (BelowLimit.SEARCHED_ON if searched_on else BelowLimit.FLAGGED)
    assert read.detection_limit == one.detection_limit


def test_a_scan_that_the_command_wrote_fits(scanned_infected: Path) -> None:
    VALIDATOR.validate(json.loads((scanned_infected / storage.JSON_FILE).read_text(encoding="utf-8")))


def test_the_schema_is_a_schema_of_this_version() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema_version"]["const"] == SCHEMA_VERSION
    assert SCHEMA["$id"].endswith(f":{SCHEMA_VERSION}")
    assert set(SCHEMA["$defs"]["outcome"]["enum"]) == {outcome.value for outcome in Outcome}
    assert set(SCHEMA["$defs"]["kind"]["enum"]) == {kind.value for kind in Kind}
    assert set(SCHEMA["properties"]["below_limit"]["enum"]) == {limit.value for limit in BelowLimit}
    assert set(SCHEMA["properties"]["verdict"]["enum"]) == {verdict.value for verdict in Verdict}


def test_every_field_is_described() -> None:
    """A new field of a record belongs into scan.schema.json and docs/results.md."""
    whole = storage.to_json(_refined())
    written = SCHEMA["properties"]
    assert set(whole) == set(written)
    assert set(whole["labels"][0]) == set(SCHEMA["$defs"]["label"]["properties"])
    assert set(whole["labels"][0]["refined"]) == set(SCHEMA["$defs"]["refined"]["properties"])
    assert set(whole["evidence"][0]) == set(SCHEMA["$defs"]["evidence"]["properties"])
    test = storage.to_json(_tested())["tests"][0]
    assert set(test) == set(SCHEMA["$defs"]["test"]["properties"])
    assert set(test["rows"][0]) == set(SCHEMA["$defs"]["test"]["properties"]["rows"]["items"]["properties"])
    assert set(storage.to_json(_of_students())["student_test"]) == set(written["student_test"]["properties"])
    for name in ("provenance", "paper_rule"):
        assert set(whole[name]) == set(written[name]["properties"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("verdict",), "maybe"),
        (("p_value",), 1.5),
        (("labels", 0, "outcome"), "lost"),
        (("labels", 0, "asr_interval"), [0.1]),
        (("image_shape",), [3, 8]),
        (("evidence", 0, "by_source", 0, "hits"), -1),
    ],
)
def test_the_schema_would_say_no(path: tuple[Any, ...], value: Any) -> None:
    whole: Any = copy.deepcopy(json.loads(storage.dumps(result())))
    inner = whole
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    assert not VALIDATOR.is_valid(whole)
