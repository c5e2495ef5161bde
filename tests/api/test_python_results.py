"""ScanResult prints as a line, shows in a notebook without letting names through, and is saved and read back."""

import dataclasses
from pathlib import Path

import made_scans
import pytest

import neural_cleanse as nc
from neural_cleanse.errors import OutputError, SettingsError


@pytest.fixture
def hostile() -> nc.ScanResult:
    return nc.ScanResult.of(made_scans.result())


def test_the_line_says_label_sizes_and_chance(found: nc.ScanResult) -> None:
    line = str(nc.ScanResult.of(found))
    assert line.startswith("Backdoor found: label 3 (") and line.count("\n") == 0
    assert ", median " in line and "p = " in line


def test_the_line_tells_of_a_poor_clean_accuracy(found: nc.ScanResult) -> None:
    data = {**found.provenance.data, "clean_accuracy": 0.456}
    poor = dataclasses.replace(found, provenance=dataclasses.replace(found.provenance, data=data))
    assert str(nc.ScanResult.of(poor)).endswith("; clean accuracy is only 45.6%, see the notes")
    assert "accuracy" not in str(nc.ScanResult.of(found))


@pytest.mark.parametrize("verdict", list(nc.Verdict))
def test_hostile_names_neither_steer_the_terminal_nor_enter_the_notebook(verdict: nc.Verdict) -> None:
    made = nc.ScanResult.of(made_scans.result(verdict=verdict))
    for text in (str(made), repr(made)):
        assert text.isprintable() and len(text) < 600
    cell = made._repr_html_()
    assert "<script" not in cell and "onerror=alert(1)>" not in cell.replace("&#34;", '"').split("<img src=https")[0]
    assert "\u202e" not in cell and "\x1b" not in cell


def test_a_notebook_sees_verdict_chart_and_trigger(found: nc.ScanResult) -> None:
    cell = nc.ScanResult.of(found)._repr_html_()
    assert "Backdoor found" in cell and "<svg" in cell and cell.count("data:image/png;base64,") == 3


def test_what_is_saved_is_read_back(found: nc.ScanResult, tmp_path: Path) -> None:
    made = nc.ScanResult.of(found)
    made.save(tmp_path / "scan")
    again = nc.ScanResult.load(str(tmp_path / "scan"))
    assert str(again) == str(made) and again.labels == made.labels
    assert (again.trigger(3).mask == made.trigger(3).mask).all()
    assert (tmp_path / "scan" / "report.html").read_text(encoding="utf-8") == made.report()
    with pytest.raises(OutputError, match="pass overwrite=True"):
        made.save(tmp_path / "scan")
    made.save(tmp_path / "scan", overwrite=True)
    with pytest.raises(OutputError, match="is not a directory"):
        nc.ScanResult.load(tmp_path / "nothing")


def test_reports_are_of_many_kinds(found: nc.ScanResult) -> None:
    made = nc.ScanResult.of(found)
    assert made.report().lstrip().lower().startswith("<!doctype html")
    assert "2.1.0" in made.report("sarif") and "Backdoor found" in made.report("markdown") == made.report("md")
    with pytest.raises(SettingsError, match=r"no report 'pdf'. The kinds are html, markdown, json, sarif"):
        made.report("pdf")
    with pytest.raises(SettingsError, match="no trigger for label 77"):
        made.trigger(77)
