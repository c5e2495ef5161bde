"""Triggers that are no patch for all images: said in every document, with no picture where there is none to show."""

import dataclasses
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from made_scans import all_to_all, features, one_class, result
from rich.console import Console

from neural_cleanse.report import attestation, content, output_dir, sarif, summary, terminal
from neural_cleanse.report.advice import what_now
from neural_cleanse.report.batch import BatchRow, labels_text
from neural_cleanse.report.documents import DOCUMENTS
from neural_cleanse.report.findings import findings
from neural_cleanse.report.page import html
from neural_cleanse.report.text import flagged, line
from neural_cleanse.results import storage
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import KindTest, LabelPair, ScanResult, Verdict


def hashed(scan: ScanResult) -> ScanResult:
    model = {**scan.provenance.model, "sha256": "ab" * 32}
    return dataclasses.replace(scan, provenance=dataclasses.replace(scan.provenance, model=model))


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("scan", [features(), one_class()], ids=["features", "one class"])
def test_every_document_is_written_and_names_the_label(scan: ScanResult, name: str) -> None:
    text = DOCUMENTS[name](hashed(scan), None, None)
    assert "2 ship" in text or "1 -> 3 d" in text or "1 -&gt; 3 d" in text or '"flagged"' in text or "3 d" in text


def test_the_row_of_another_kind_is_of_its_own_test() -> None:
    row = flagged(features())[0].row
    assert (row.target, row.name, row.size, row.p_value) == (2, "ship", None, 1e-5)
    assert row.asr == 68 / 80
    (found,) = flagged(one_class())
    pair = found.row
    assert (pair.target, pair.source, pair.size, pair.p_value) == (3, 1, 6.5, 1e-6)


def test_the_first_sentence_says_that_it_is_no_patch() -> None:
    text = summary.plain(features())
    assert text.startswith(
        "A change that is the same for all images, and no small patch, makes this model answer label 2"
    )
    assert "85.0%" in text and " px" not in text
    assert "A small patch (6.5 px" in summary.plain(one_class()) and "images of class 1 b" in summary.plain(one_class())
    assert line(features()).startswith("Backdoor found: label 2 ship (feature-space trigger, p = 1e-05)")


def test_the_page_shows_no_picture_of_a_trigger_that_has_none() -> None:
    text = html(features())
    assert "there is no picture of it" in text
    assert len(re.findall(r"<img", text)) == 2, "the images as they are"
    assert "It acts between the layers" in text
    assert len(re.findall(r"<img", html(one_class()))) == 1 + 3 + 2 * 2


def test_what_each_test_said_stands_in_a_table_and_is_not_among_what_was_not_checked() -> None:
    text = html(features())
    assert "feature-space triggers (warps" in text and "not made" in text and "too few images" in text
    left = content.not_checked(features())
    assert content.NO_PATCH not in left and content.ALL_TO_ALL in left and content.FROM_ONE_CLASS in left
    assert "Also: feature-space triggers" in content.looked_for(features())
    both = dataclasses.replace(result(), tests=tuple(KindTest(kind, 0.2, Verdict.CLEAN, "no") for kind in Kind))
    assert content.not_checked(both) == (content.CODE,)


def test_the_files_come_back_and_the_folder_has_no_false_picture(tmp_path: Path) -> None:
    output_dir.write(features(), tmp_path)
    assert sorted(path.name for path in (tmp_path / "label_2").iterdir()) == [
        "example_0_before.png",
        "example_1_before.png",
    ]
    assert html(storage.load_result(tmp_path), directory=tmp_path) == html(features(), directory=tmp_path)
    output_dir.write(one_class(), tmp_path)
    assert (tmp_path / "label_3_from_1" / "mask.png").exists()
    assert html(storage.load_result(tmp_path), directory=tmp_path) == html(one_class(), directory=tmp_path)


def test_junit_and_sarif_fail_for_a_pair_that_the_table_lacks() -> None:
    suite = ElementTree.fromstring(DOCUMENTS["junit"](one_class(), None, None).encode())
    assert [case.attrib["name"] for case in suite.iter("testcase") if case.find("failure") is not None] == [
        "label 1 b -> 3 d"
    ]
    (found,) = sarif.log(one_class())["runs"][0]["results"]
    assert found["properties"]["source"] == 1
    json.dumps(found)


def test_the_terminal_shows_it() -> None:
    stream = io.StringIO()
    terminal.show(features(), Console(file=stream, width=100))
    assert "no small patch, makes this model answer label 2 ship" in stream.getvalue().replace("\n", " ")


def test_a_scan_of_patches_alone_is_told_of_the_other_kinds() -> None:
    scan = result(("a", "b", "c"), Verdict.CLEAN)
    settings = {"patches_only": True}
    command = "neural-cleanse scan m.onnx --data d --patches-only --output out"
    made = dataclasses.replace(scan.provenance, settings=settings, command=command, model={"path": "m.onnx"})
    commands = [step.command or "" for step in what_now(dataclasses.replace(scan, provenance=made))]
    assert "neural-cleanse scan m.onnx --data d --output out-again" in commands
    assert LabelPair(0) in scan.triggers


def test_one_trigger_for_all_classes_is_one_thing_in_every_document() -> None:
    scan = hashed(all_to_all())
    assert summary.plain(scan).startswith(
        "One small patch (6.5 px, 10.2% of the image) sends images of 4 classes each to another label "
        "(0 a to 1 b, 1 b to 2 ship, 2 ship to 3 d, and so on): it works on 92.5% of test images. "
        "For labels drawn at random that takes 40 px."
    )
    assert line(scan).startswith("Backdoor found: 4 classes, each to another label (6.5 px, p = 1e-06)")
    page, words = html(scan), DOCUMENTS["markdown"](scan, None, None)
    assert "Diamonds" not in page and "None of these was flagged" in page and "Diamonds" in html(result())
    assert "Pairs of labels" not in page and "For each of 5 labels, the smallest patch" in page
    assert page.count('class="large"') == 1 and page.count(": the trigger</h2>") == 1
    assert words.count("## 4 classes, each to another label") == 1 and words.count("Where this is weak:") == 1
    assert "0 a -&gt; 1 b" in page and "3 d -&gt; 0 a" in page, "the success of each pair, in one table"
    assert "neural-cleanse repair m.onnx --scan out" in re.sub("<[^>]+>", "", page)
    assert labels_text(BatchRow.of("m", "m.onnx", scan)) == "4 classes, each to another label (6.5 px)"
    (vulnerability,) = json.loads(attestation.bom(scan))["vulnerabilities"]
    assert "sends 4 classes each to another label" in vulnerability["description"]


def test_a_map_is_shown_with_images_of_several_classes() -> None:
    scan = all_to_all()
    first = dataclasses.replace(scan.evidence[0], answers_after=(0, 1))
    (found,) = findings(dataclasses.replace(scan, evidence=(first, *scan.evidence[1:])))
    assert found.evidence.answers_before == (0, 1, 2, 3, 0, 1)
    assert found.evidence.answers_after == (1, 2, 3, 0, 0, 2), "of a class an image on which it works comes first"
    assert len(found.evidence.before) == len(found.evidence.after) == 6
    assert (sum(source.hits for source in found.sources), len(found.sources)) == (37 * 4, 4)
    assert found.row.asr == 37 / 40


def test_junit_and_sarif_have_one_failure_for_a_map() -> None:
    suite = ElementTree.fromstring(DOCUMENTS["junit"](all_to_all(), None, None).encode())
    failed = [case.attrib["name"] for case in suite.iter("testcase") if case.find("failure") is not None]
    assert failed == ["4 classes, each to another label"]
    assert len(list(suite.iter("testcase"))) == 1 + 5 + 1, "the verdict, the labels, the map"
    (found,) = sarif.log(all_to_all())["runs"][0]["results"]
    assert found["properties"]["pairs"][0] == {"target": 1, "source": 0}
    assert "sends 4 classes each to another label" in found["message"]["text"]


def test_a_label_beside_a_map_is_said_too() -> None:
    scan, alone = all_to_all(), result(("a", "b", "ship", "d"))
    both = dataclasses.replace(scan, flagged=(0, 1, 2, 3, 0), evidence=(*scan.evidence, features().evidence[0]))
    named = [one.heading for one in flagged(both)]
    assert named[0] == "4 classes, each to another label"
    assert [one.heading for one in flagged(alone)] == ["Label 0 a"]
