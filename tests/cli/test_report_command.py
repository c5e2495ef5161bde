"""`report --format` and `scan --sarif`: one document, on stdout or in a file, and nothing else touched."""

import json
from pathlib import Path

import pytest
from made_scans import repaired, result
from shell import files_under, run

from neural_cleanse.report import output_dir as directory
from neural_cleanse.results.records import Verdict


@pytest.fixture
def written(tmp_path: Path) -> Path:
    directory.write(result(), tmp_path / "scan")
    return tmp_path / "scan"


BEGINNINGS = {"html": "<!doctype html>", "markdown": "# Backdoor found", "sarif": "{", "json": "{"}


@pytest.mark.parametrize("form", BEGINNINGS)
def test_a_document_goes_to_stdout_or_to_a_file_and_the_scan_stays_as_it_is(written: Path, form: str) -> None:
    before = files_under(written)
    ran = run("report", written, "--format", form)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(BEGINNINGS[form])
    file = written.parent / "document"
    again = run("report", written, "--format", form, "--output", file)
    assert (again.code, again.out, again.err) == (0, "", "")
    assert file.read_text(encoding="utf-8") == ran.out
    assert files_under(written) == before


def test_the_pages_in_the_directory_are_made_anew(written: Path) -> None:
    for name in ("report.html", "report.md"):
        (written / name).unlink()
    assert run("report", written).code == 0
    assert (written / "report.html").read_text(encoding="utf-8") == run("report", written, "--format", "html").out
    pages = (written / "report.md").read_text(encoding="utf-8")
    assert "![mask](label_0/mask.png)" in pages
    assert (written / "label_0" / "mask.png").exists()


def test_json_is_what_it_was(written: Path) -> None:
    assert run("report", written, "--json").out == (written / "scan.json").read_text(encoding="utf-8")


def test_contradictions_are_refused(written: Path) -> None:
    for options in (("--json", "--format", "html"), ("--output", written / "x")):
        ran = run("report", written, *options)
        assert (ran.code, ran.out) == (2, "")
        assert "Traceback" not in ran.err


def test_a_repair_is_shown_first(tmp_path: Path) -> None:
    directory.write(result(verdict=Verdict.CLEAN), tmp_path / "repair", repaired())
    assert run("report", tmp_path / "repair", "--format", "markdown").out.startswith("# Repaired")
    assert json.loads(run("report", tmp_path / "repair", "--format", "sarif").out)["runs"][0]["results"] == []


def test_a_scan_writes_sarif_beside_its_answer(demo_files: Path, tmp_path: Path) -> None:
    file = tmp_path / "found.sarif"
    scan = (
        "scan",
        "--patches-only",
        demo_files / "infected.safetensors",
        "--data",
        demo_files / "digits.npz",
        "--restarts",
        1,
    )
    ran = run(*scan, "--samples", 200, "--labels", "2,3", "--sarif", file)
    assert ran.code == 3
    (found,) = json.loads(file.read_text())["runs"][0]["results"]
    assert (found["ruleId"], found["level"]) == ("NC002", "warning")
    truncated = run(*scan, "--sarif", tmp_path / "no" / "folder.sarif")
    assert (truncated.code, truncated.out) == (2, "")
