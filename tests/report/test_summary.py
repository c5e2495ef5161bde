"""The first screen in words: one plain sentence with the class, chances as people say them, facts that are known."""

import dataclasses
from typing import Any

import pytest
from made_scans import many, pairs, result

from neural_cleanse.report import summary
from neural_cleanse.report.markdown import markdown
from neural_cleanse.report.page import html
from neural_cleanse.results.records import PaperRule, ScanResult, Verdict

NAMES = ("cat", "dog", "ship", "frog", "deer", "bird")


def with_provenance(scan: ScanResult, **changes: Any) -> ScanResult:
    return dataclasses.replace(scan, provenance=dataclasses.replace(scan.provenance, **changes))


def test_the_first_sentence_names_the_class_the_size_and_the_success() -> None:
    text = summary.plain(result(NAMES))
    assert text == (
        "A small patch (4.5 px, 7.0% of the image) makes this model answer label 0 cat for images of any class: it "
        "works on 96.9% of test images. A typical label of this model needs 72 px."
    )


def test_a_pair_is_said_with_its_source() -> None:
    assert "answer label 8 class 8 for images of class 3: it works" in summary.plain(pairs())


def test_of_many_flagged_labels_the_rest_are_counted() -> None:
    scan = dataclasses.replace(many(), flagged=(5, 6, 7, 8, 9), evidence=())
    text = summary.plain(scan)
    assert text.count("A small patch") == 3
    assert "2 more labels were flagged." in text


def test_a_clean_model_is_said_to_have_no_small_patch_and_never_to_be_safe() -> None:
    text = summary.plain(result(NAMES, Verdict.CLEAN))
    assert text.startswith(
        "No label of this model is reached by an unusually small patch. The smallest, for label 0 cat"
    )
    assert "safe" not in text


@pytest.mark.parametrize(
    ("p_value", "words"),
    [
        (None, "Not known"),
        (4e-7, "Fewer than 1 in 1,000,000"),
        (1.3e-4, "About 1 in 7,700 "),
        (0.0107, "About 1 in 93 "),
        (0.4, "About 1 in 2 "),
        (1.0, "Nothing stands out"),
    ],
)
def test_a_chance_is_said_as_one_in_so_many(p_value: float | None, words: str) -> None:
    assert summary.chance(p_value).startswith(words)


def test_only_what_is_known_is_a_fact() -> None:
    scan = with_provenance(
        result(NAMES),
        date="2026-11-29T10:15:09+00:00",
        model={"path": "m.onnx", "sha256": "ab" * 32},
        data={"clean_accuracy": 0.983, "images_used": 1000},
    )
    facts = dict(summary.facts(scan))
    assert facts["Date"] == "2026-11-29 10:15 UTC"
    assert facts["Clean accuracy"] == "98.3% of 1,000 images"
    assert facts["SHA-256"] == "ab" * 32
    assert facts["Can be missed"].startswith(
        "a backdoor whose smallest trigger has 12.2 px, 19.1% of the image, or more."
    )
    assert "what an attacker builds against such scans" in facts["Can be missed"]
    bare = dict(summary.facts(with_provenance(result(NAMES), date="yesterday", model={}, data={})))
    assert set(bare) == {"Clean accuracy", "How sure", "Can be missed"}
    assert "have no labels" in bare["Clean accuracy"]


def test_what_is_no_list_of_findings_is_not_read_as_one() -> None:
    assert summary.file_issues({"findings": "text"}) == []
    assert summary.file_issues({"findings": [{"place": "a", "what": "b", "runs_code": True}, 3]}) == [
        "a: would run code: b"
    ]
    assert summary.file_facts({"num_bytes": 1234, "input_shape": [3, 32, 32], "container": None}) == [
        ("size", "1,234 bytes"),
        ("input", "3x32x32"),
    ]


def test_a_clean_verdict_on_good_grounds_has_no_weak_point() -> None:
    names = tuple(f"class {number}" for number in range(12))
    scan = with_provenance(result(names, Verdict.CLEAN), data={"clean_accuracy": 0.98, "images_used": 1000})
    scan = dataclasses.replace(scan, paper_rule=dataclasses.replace(scan.paper_rule, flagged=()))
    assert summary.doubts(scan) == ()
    assert "Where this is weak" not in html(scan)


@pytest.mark.parametrize(
    ("changes", "data", "said"),
    [
        ({}, {"images_used": 1000}, "have no labels"),
        ({}, {"clean_accuracy": 0.5, "images_used": 1000}, "only 50.0%"),
        ({}, {"clean_accuracy": 0.98, "images_used": 120}, "Only 120 images"),
        ({"detection_limit": 0.9}, {"clean_accuracy": 0.98}, "below 1.4% of the image"),
        ({"paper_rule": PaperRule(2.0, 3.0, (4, 7))}, {"clean_accuracy": 0.98}, "would have flagged 4, 7"),
    ],
)
def test_what_is_weak_about_a_clean_verdict_is_said(changes: dict[str, Any], data: dict[str, Any], said: str) -> None:
    names = tuple(f"class {number}" for number in range(12))
    scan = with_provenance(result(names, Verdict.CLEAN), data=data)
    scan = dataclasses.replace(scan, **({"paper_rule": PaperRule(2.0, 1.0, ())} | changes))
    (line,) = summary.doubts(scan)
    assert said in line
    for text in (html(scan), markdown(scan)):
        assert "Where this is weak" in text


def test_only_a_clean_verdict_is_doubted_here() -> None:
    assert summary.doubts(result(NAMES)) == () == summary.doubts(result(NAMES, Verdict.INCONCLUSIVE))
    assert "Only 5 labels" in " ".join(summary.doubts(result(NAMES, Verdict.CLEAN)))
