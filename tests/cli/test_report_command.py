"""`--format` of report and scan: documents on stdout or in files, and nothing else touched."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_scans import repaired, result
from shell import deny_writing, files_under, refused, run

from neural_cleanse.cli import formats
from neural_cleanse.report import output_dir as directory
from neural_cleanse.report.documents import DOCUMENTS
from neural_cleanse.results.records import Verdict


@pytest.fixture
def written(tmp_path: Path) -> Path:
    one = result()
    model = {**one.provenance.model, "sha256": SHA}
    made = dataclasses.replace(one, provenance=dataclasses.replace(one.provenance, model=model))
    directory.write(made, tmp_path / "scan")
    return tmp_path / "scan"


BEGINNINGS = {
    "html": "<!doctype html>", "markdown": "# Backdoor found", "sarif": "{", "json": "{", "junit": "<?xml",
    "cyclonedx": "{", "in-toto": "{", "model-card": "## Backdoor scan",
}  # fmt: skip
SHA = "0123456789abcdef" * 4


def test_every_document_has_a_name_that_the_command_takes() -> None:
    assert tuple(DOCUMENTS) == formats.NAMES
    assert set(BEGINNINGS) == set(DOCUMENTS)


def test_markdown_may_be_called_by_the_ending_of_its_files(written: Path) -> None:
    assert run("report", written, "--format", "md").out == run("report", written, "--format", "markdown").out != ""


@pytest.mark.parametrize("form", BEGINNINGS)
def test_a_document_goes_to_stdout_or_to_a_file_and_the_scan_stays_as_it_is(written: Path, form: str) -> None:
    before = files_under(written)
    ran = run("report", written, "--format", form)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(BEGINNINGS[form])
    file = written.parent / "document"
    again = run("report", written, "--format", f"{form}={file}")
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


def test_many_documents_are_written_at_once(written: Path) -> None:
    files = {name: written.parent / f"found.{name}" for name in BEGINNINGS}
    options = [word for name, file in files.items() for word in ("--format", f"{name}={file}")]
    ran = run("report", written, *options, "--format", "markdown")
    assert ran.code == 0 and ran.out.startswith("# Backdoor found")
    for name, file in files.items():
        assert file.read_text(encoding="utf-8").startswith(BEGINNINGS[name])


def test_contradictions_are_refused(written: Path) -> None:
    twice = ("--format", f"html={written.parent / 'x'}", "--format", f"json={written.parent / 'x'}")
    for options in (
        ("--json", "--format", "html"), ("--format", "xml"), ("--format", "html="), twice,
        ("--format", f"html={written}"), ("--format", f"html={written / 'no' / 'folder'}"),
    ):  # fmt: skip
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
        "scan", "--patches-only", demo_files / "infected.safetensors", "--data", demo_files / "digits.npz",
        "--restarts", 1,
    )  # fmt: skip
    junit = tmp_path / "junit.xml"
    ran = run(*scan, "--samples", 200, "--labels", "2,3", "--format", f"sarif={file}", "--format", f"junit={junit}")
    assert ran.code == 3
    assert ran.out.startswith("Could not tell")
    (found,) = json.loads(file.read_text())["runs"][0]["results"]
    assert (found["ruleId"], found["kind"]) == ("NC002", "open")
    assert 'errors="1"' in junit.read_text()
    truncated = run(*scan, "--format", f"sarif={tmp_path / 'no' / 'folder.sarif'}")
    assert (truncated.code, truncated.out) == (2, "")


def test_a_scan_directory_that_takes_nothing_more_names_another_way_to_write(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deny_writing(monkeypatch, written)
    ran = run("report", written)
    assert ran.code == 2 and "--format html=FILE" in ran.err


def test_an_answer_that_stdout_does_not_take_names_no_option_that_is_not_there(written: Path) -> None:
    with (written / "scan.json").open("rb") as unwritable:
        ran = subprocess.run(
            [sys.executable, "-m", "neural_cleanse", "report", str(written), "--json"],
            stdout=unwritable, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert ran.returncode == 2 and "send it elsewhere" in ran.stderr and "--output" not in ran.stderr


@pytest.mark.parametrize("name", ["scan.json", "triggers.safetensors"])
def test_a_document_takes_the_place_of_nothing_that_is_read(written: Path, name: str) -> None:
    before = (written / name).read_bytes()
    refused(run("report", written, "--format", f"html={written / name}"), "it is what is read")
    assert (written / name).read_bytes() == before
