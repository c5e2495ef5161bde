"""JUnit XML: counts that agree with the cases, one a label, and no name that breaks the document."""

import dataclasses
from xml.etree import ElementTree

import pytest
from made_scans import many, pairs, result

from neural_cleanse.report import junit
from neural_cleanse.results.records import Outcome, ScanResult, Verdict


def suite(scan: ScanResult) -> ElementTree.Element:
    whole = ElementTree.fromstring(junit.dumps(scan).encode())
    assert whole.tag == "testsuites"
    (only,) = whole
    for one in (whole, only):
        cases = only.findall("testcase")
        assert int(one.attrib["tests"]) == len(cases)
        for kind, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            assert int(one.attrib[count]) == sum(case.find(kind) is not None for case in cases)
    return only


def ended(scan: ScanResult, kind: str) -> list[str]:
    return [case.attrib["name"] for case in suite(scan).findall("testcase") if case.find(kind) is not None]


def test_a_flagged_label_fails_and_the_others_pass() -> None:
    scan = result(("cat", "dog", "ship"))
    assert ended(scan, "failure") == ["label 0 cat"]
    assert ended(scan, "error") == ended(scan, "skipped") == []
    assert [case.attrib["name"] for case in suite(scan).findall("testcase")] == [
        "verdict", "label 0 cat", "label 1 dog", "label 2 ship",
    ]  # fmt: skip


def test_could_not_tell_is_an_error_and_clean_is_neither() -> None:
    assert ended(result(verdict=Verdict.INCONCLUSIVE), "error") == ["verdict"]
    clean = result(verdict=Verdict.CLEAN)
    assert ended(clean, "error") == ended(clean, "failure") == []


def test_a_label_that_was_not_searched_is_skipped() -> None:
    scan = result(("a", "b", "c"), Verdict.INCONCLUSIVE)
    row = dataclasses.replace(scan.labels[1], outcome=Outcome.NOT_ENOUGH_IMAGES)
    assert ended(dataclasses.replace(scan, labels=(scan.labels[0], row, scan.labels[2])), "skipped") == ["label 1 b"]


@pytest.mark.parametrize("scan", [result(), pairs(), many(200)])
def test_hostile_names_pairs_and_many_labels_are_written(scan: ScanResult) -> None:
    assert len(suite(scan).findall("testcase")) == len(scan.labels) + 1
    values = {one.attrib["name"]: one.attrib["value"] for one in suite(scan).iter("property")}
    assert values["verdict"] == "infected" and values["alpha"] == "0.01"
