"""The page of many models: a picture each, every name inert, and a record that holds no picture."""

import dataclasses
import json
import re

import torch
from made_scans import HOSTILE, result

from neural_cleanse.report.batch import BatchRow, html
from neural_cleanse.report.pictures import reduced
from neural_cleanse.results.records import ScanResult, Verdict


def named(scan: ScanResult, name: str) -> BatchRow:
    return BatchRow.of(name, f"models/{name}", scan)


def test_a_row_shows_the_trigger_of_its_flagged_label_or_the_smallest() -> None:
    infected, clean = named(result(), "a"), named(result(verdict=Verdict.CLEAN), "b")
    text = html([infected, clean, BatchRow("c", "models/c", error="none")], None)
    assert re.findall(r'alt="([^"]+)"', text) == ["trigger of a, on grey", "smallest trigger of b, on grey"]
    assert infected.picture is not None and text.count(infected.picture) >= 1
    assert named(dataclasses.replace(result(), triggers={}), "d").picture is None


def test_every_name_is_text() -> None:
    rows = [named(result(), name) for name in HOSTILE[:5]] + [BatchRow("x", "y", error=name) for name in HOSTILE]
    text = html(rows, HOSTILE[0])
    assert "<script" not in text and "onerror=alert(1)>" not in text
    assert set(re.findall(r'src="([^"]{0,22})', text)) == {"data:image/png;base64,"}


def test_the_record_of_a_batch_holds_no_picture() -> None:
    values = named(result(), "a").as_json()
    assert "picture" not in values
    assert values["verdict"] == "infected"
    json.dumps(values)


def test_a_large_picture_is_reduced_to_means_and_a_small_one_is_left() -> None:
    large = torch.zeros(3, 80, 40, dtype=torch.uint8)
    large[:, :2, :2] = 200
    small = reduced(large, 40)
    assert small.shape == (3, 40, 20)
    assert small[0, 0, 0] == 200 and small.sum() == 600
    assert reduced(small, 40) is small
