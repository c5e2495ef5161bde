"""Documentation that cannot go stale: examples run, the reference is generated, figures are those of the rows."""

import json
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import make_api
import make_cli
import pytest
from made_scans import result
from PIL import Image

import false_alarms
import make_picture
import neural_cleanse as nc
import pages
import pairs
import repair_tables
import scale
import tables
from neural_cleanse.choices import ATTACK_NAMES
from neural_cleanse.cli import main
from neural_cleanse.detection import student_test
from neural_cleanse.results.records import Outcome, Verdict

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def _patches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples that say the same without other kinds of trigger and students, which the README's example has too."""
    monkeypatch.setattr(nc.ScanSettings, "beyond_patches", False)
    monkeypatch.setattr(student_test, "leaves_doubt", lambda *_: False)


@pytest.mark.example
def test_the_readmes_python_example_prints_what_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = re.findall(r"```(?:python)?\n(.*?)```", README[README.index("## From Python") :], re.DOTALL)[:2]
    monkeypatch.chdir(ROOT)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == printed


def test_the_readme_is_short() -> None:
    """Without code, addresses and marks; tables count."""
    prose = re.sub(r"```.*?```|<!--.*?-->|\]\([^)]*\)", " ", README, flags=re.DOTALL)
    assert len([word for word in prose.split() if re.search(r"\w", word)]) < 900


def commands_of_the_readme() -> list[str]:
    """Commands on lines and in sentences, lines that go on joined, the variable put in."""
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)).replace("\\\n", " ")
    lines = [*blocks.splitlines(), *re.findall(r"`(neural-cleanse [^`]+|make [a-z-]+|python benchmarks[^`]+)`", README)]
    return [
        line.replace("$D", "src/neural_cleanse/demo") for line in lines if re.match(r"neural-cl|make |python ", line)
    ]


def test_there_are_commands_in_the_readme() -> None:
    assert len(commands_of_the_readme()) > 10


@pytest.mark.parametrize("command", commands_of_the_readme())
def test_a_command_of_the_readme_can_be_run_as_written(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are there, and the program takes its options and their values."""
    monkeypatch.chdir(ROOT)
    program, *words = shlex.split(command)
    assert all((ROOT / word).exists() for word in words if word.startswith(("src/", "benchmarks/")))
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    if program == "neural-cleanse":
        found: Any = main.whole_program()
        while words and hasattr(found, "commands"):
            found, words = found.commands[words[0]], words[1:]
        if words:
            found.make_context("neural-cleanse", words)


def test_the_readme_cites_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"version = {{{project['version']}}}" in README


@pytest.mark.usefixtures("_patches_alone")
def test_the_example_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "scan_in_python.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("infected - label 3")


@pytest.mark.example
@pytest.mark.usefixtures("_patches_alone")
def test_the_python_pages_example_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- example -->\n```python\n(.*?)```", page, re.DOTALL)
    (printed,) = re.findall(r"<!-- printed -->\n```\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "python.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out == printed


def test_every_block_on_own_parts_prints_what_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8").partition("\n## Your own parts\n")[2]
    names: dict[str, object] = {"__name__": "example"}
    blocks = re.findall(r"```python\n(.*?)```(?:\n\n```\n(.*?)```)?", page, re.DOTALL)
    assert len(blocks) == 5
    for code, printed in blocks:
        exec(compile(code, "python.md", "exec"), names)
        assert capsys.readouterr().out == printed


@pytest.mark.example
@pytest.mark.usefixtures("_patches_alone")
def test_the_example_for_ones_own_model_scans_repairs_and_guards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scan_my_model.py", str(tmp_path)])
    runpy.run_path(str(ROOT / "examples" / "scan_my_model.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Backdoor found", "Repaired", "Guard"]
    assert (tmp_path / "scan" / "report.html").exists() and (tmp_path / "fixed.safetensors").exists()
    assert (tmp_path / "guard" / "guard.json").exists()


def run_notebook(name: str) -> dict[str, object]:
    """The names that the cells of a notebook leave; they run in the order in which they stand."""
    notebook = json.loads((ROOT / "examples" / name).read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "kept without outputs: they go stale"
            exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), names)
    return names


@pytest.mark.usefixtures("_patches_alone")
def test_the_notebook_on_a_module_scans_and_shows_the_trigger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_notebook("scan_a_module.ipynb")
    printed = capsys.readouterr().out
    assert printed.startswith("Backdoor found: label 3")
    assert printed.endswith("after  [3, 3, 3, 3, 3, 3, 3, 3]\n")
    assert names["picture"].size == (84, 28)  # type: ignore[attr-defined]
    assert (tmp_path / "out" / "scan" / "report.html").exists()


@pytest.mark.example
@pytest.mark.usefixtures("_patches_alone")
def test_the_notebook_on_a_backdoor_plants_finds_and_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_notebook("plant_find_remove.ipynb")
    before, found, repaired, after, guard, rejected = capsys.readouterr().out.splitlines()
    success = [float(re.findall(r"attack success ([\d.]+)%", line)[0]) for line in (before, after)]
    assert success[0] > 90 and success[1] < 10
    assert found.startswith("Backdoor found: label 7")
    assert repaired.startswith("Repaired") and guard.startswith("Guard")
    assert float(re.findall(r"([\d.]+)%", rejected)[0]) > 90
    assert (tmp_path / "repaired.safetensors").exists()


def test_the_command_line_page_is_generated_from_the_help() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == make_cli.page(), "run: python docs/make_cli.py"


def test_the_python_reference_is_generated_from_the_docstrings() -> None:
    written = make_api.page()
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == written, "run: python docs/make_api.py"
    assert all(f"`nc.{name}`" in written for name in dir(nc))
    assert "| \n" not in written and "|  |" not in written, "a public name without a docstring"


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a Markdown page."""
    lines = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE).splitlines()
    heads = [line.lstrip("#").strip().lower() for line in lines if re.match("#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in heads}


def test_the_table_of_outcomes_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (yes|no)\b", (ROOT / "docs" / "method.md").read_text("utf-8"), re.M)
    of_the_code = [(one.value, one.meaning, "yes" if one.has_size else "no") for one in Outcome]
    assert sorted(rows) == sorted(of_the_code)


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]


def test_links_inside_the_documentation_lead_somewhere() -> None:
    found = 0
    for path in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", path.read_text(encoding="utf-8")):
            if target.startswith("http"):
                continue
            page = path.parent / target if target else path
            assert page.exists(), f"{path.name}: {target}"
            found += 1
            if anchor:
                assert anchor in anchors(page.read_text(encoding="utf-8")), f"{path.name}: {target}#{anchor}"
    assert found > 50


def test_every_page_that_code_or_tests_name_is_there() -> None:
    named = re.compile(r"\bdocs/([\w-]+\.md)")
    files = [file for folder in ("src", "tests", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    names = {(file.name, name) for file in files for name in named.findall(file.read_text(encoding="utf-8"))}
    assert len(names) > 10
    assert [(file, name) for file, name in names if not (ROOT / "docs" / name).exists()] == []


def test_the_picture_of_the_readme_is_made_from_a_scan() -> None:
    made = make_picture.picture(result(("cat", "dog", "ship", "frog")))
    with Image.open(ROOT / "docs" / "demo.png") as shipped:
        assert made.size == shipped.size
    assert made.getpixel((135, 68)) == (0xB4, 0x23, 0x23), "the flagged label is on top and stands out"
    with pytest.raises(ValueError, match="no trigger to show"):
        make_picture.picture(result(verdict=Verdict.CLEAN))
    assert (ROOT / "docs" / "demo.png").stat().st_size < 100_000


def test_every_shipped_file_of_the_demo_is_small_and_has_a_card() -> None:
    demo = ROOT / "src" / "neural_cleanse" / "demo"
    for model in demo.glob("*.safetensors"):
        assert model.stat().st_size <= 1.5e6
        assert "infected" in json.loads(model.with_suffix("").with_suffix(".card.json").read_text())


def test_every_figure_of_the_pages_is_that_of_the_recorded_rows() -> None:
    for path, places in tables.PAGES.items():
        written = path.read_text(encoding="utf-8")
        assert written == pages.filled(written, places()), f"{path.name} is stale, run: python benchmarks/tables.py"


def test_the_false_alarm_table_is_that_of_the_recorded_rows() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "false_alarms.json").read_text())
    table = false_alarms.markdown([false_alarms.Row(**row) for row in record["rows"]])
    assert table in (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_tables_of_the_repair_page_are_those_of_the_recorded_rows() -> None:
    assert repair_tables.PAGE.read_text(encoding="utf-8") == repair_tables.page(), "run: benchmarks/repair_tables.py"


def test_the_table_of_scale_is_that_of_the_recorded_rows() -> None:
    written = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    rows = ROOT / "benchmarks" / "results" / "scale.jsonl"
    assert written == scale.page(written, rows), "run: python benchmarks/scale.py ... --page docs/scale.md"


def test_the_tables_of_pairs_are_those_of_the_recorded_rows() -> None:
    written = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    rows = ROOT / "benchmarks" / "results" / "pairs.jsonl"
    assert written == pairs.page(written, rows), "run: python benchmarks/pairs.py ... --page docs/evaluation.md"


def test_the_table_of_attacks_names_each() -> None:
    written = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    table = written[written.index("| `--attack` |") : written.index("`--target`")]
    named = re.findall(r"`([a-z-]+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:] if line))
    assert sorted(named) == sorted({*ATTACK_NAMES} - {"none"})
