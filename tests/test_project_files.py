"""Files for hosts, packagers and citers agree with the project: versions, dependencies, commands, paths."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in (ROOT / ".github" / "workflows").glob("*.yml")
}


def steps(workflow: Any) -> list[Any]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["preferred-citation"]["authors"][0]["family-names"] == "Wang"


def test_the_matrix_is_that_of_the_classifiers() -> None:
    named = [line.rpartition(" ")[2] for line in PROJECT["project"]["classifiers"] if "Python :: 3." in line]
    assert WORKFLOWS["test"]["jobs"]["test"]["strategy"]["matrix"]["python"] == named == ["3.11", "3.12", "3.13"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_runs_targets_that_exist_and_reads_no_input_as_shell(name: str) -> None:
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    for step in steps(workflow):
        command = step.get("run", "")
        assert "${{" not in command
        assert set(re.findall(r"\bmake ([a-z-]+)", command)) <= TARGETS
        assert re.search(r"@(v\d+|release/v\d+)$", step["uses"]) if "uses" in step else command


def test_a_release_is_tested_first() -> None:
    jobs = WORKFLOWS["release"]["jobs"]
    assert jobs["publish"]["needs"] == "test"
    assert (ROOT / jobs["test"]["uses"]).exists()
    assert WORKFLOWS["release"][True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` as true


def test_the_issue_forms_are_whole() -> None:
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert len(forms) == 3
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form)
        identities = [field["id"] for field in form["body"]]
        assert len(identities) == len(set(identities)) > 1
        assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_the_recipe_asks_for_what_the_package_asks_for() -> None:
    text = (ROOT / "recipe" / "meta.yaml").read_text(encoding="utf-8")
    assert f'set version = "{PROJECT["project"]["version"]}"' in text
    plain = re.sub(r"^\{%.*%\}\n", "", text, flags=re.MULTILINE).replace("{{ ", "<").replace(" }}", ">")
    recipe = yaml.safe_load(plain)
    wanted = {Requirement(line) for line in PROJECT["project"]["dependencies"]}
    names = {"torch": "pytorch"}
    assert set(recipe["requirements"]["run"]) == {
        f"python {PROJECT['project']['requires-python']}",
        *(f"{names.get(one.name, one.name)} {one.specifier}" for one in wanted),
    }
    (script,) = PROJECT["project"]["scripts"].items()
    assert recipe["build"]["entry_points"] == [" = ".join(script)]


def test_the_image_is_made_of_files_that_it_is_given() -> None:
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        name.removeprefix("./")
        for line in re.findall(r"^COPY (?!--from)(.+)$", docker, re.MULTILINE)
        for name in line.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    assert "--network none" in docker and "USER scanner" in docker


def test_the_hooks_run_programs_that_exist() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    for hook in config["repos"][0]["hooks"]:
        program, *words = hook["entry"].split()
        assert program.startswith(".venv/bin/")
        assert all((ROOT / word).exists() for word in words if word.endswith(".py"))
        assert program.rpartition("/")[2] in ("python", "ruff", "lint-imports")


def test_the_archive_holds_files_that_exist() -> None:
    for name in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert (ROOT / name).exists(), name


def test_every_page_is_in_the_menu_of_the_site() -> None:
    class Loader(yaml.SafeLoader):
        """mkdocs' own tags are read as nothing."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    menu = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"]
    named = {page for entry in menu for value in entry.values() for page in _pages(value)}
    above = {"index.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md"}
    assert named == above | {path.name for path in (ROOT / "docs").glob("*.md")}


def _pages(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [page for entry in value for page in entry.values()]


def test_the_site_is_built_without_a_broken_link(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed: make docs")
    ran = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    pages = list((tmp_path / "site").glob("*.html"))
    assert len(pages) > 15
    for page in pages:
        outside = re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text(encoding="utf-8")
        )
        assert outside == [], page.name
