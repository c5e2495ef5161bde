"""The GitHub action, the hooks and the completion, as far as they run without their hosts."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from neural_cleanse.cli import main

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
WORKFLOW = yaml.safe_load((ROOT / "examples" / "ci" / "workflow.yml").read_text(encoding="utf-8"))
CONFIG = yaml.safe_load((ROOT / "examples" / "ci" / "pre-commit-config.yaml").read_text(encoding="utf-8"))
BASH = shutil.which("bash") or ""
needs_bash = pytest.mark.skipif(not BASH or os.name != "posix", reason="no bash on this system")


def options_of(command: str) -> set[str]:
    """The long options of a command."""
    found: Any = main.whole_program()
    for name in command.split():
        found = found.commands[name]
    return {option for parameter in found.params for option in parameter.opts if option.startswith("--")}


def step(name: str) -> dict[str, Any]:
    (found,) = [one for one in ACTION["runs"]["steps"] if one["name"] == name]
    assert isinstance(found, dict)
    return found


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A directory with `neural-cleanse` and `python` in it, as an installation leaves them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = f"#!{sys.executable}\nfrom neural_cleanse.cli.main import run\nrun()\n"
    (folder / "neural-cleanse").write_text(script)
    (folder / "neural-cleanse").chmod(0o755)
    (folder / "python").symlink_to(sys.executable)
    return folder


# --- the action ---


def test_no_input_reaches_a_script_as_text() -> None:
    for one in ACTION["runs"]["steps"]:
        assert "${{" not in one.get("run", "")
        assert ("run" in one) == (one.get("shell") == "bash")
    assert set(step("Scan")["env"].values()) == {f"${{{{ inputs.{name} }}}}" for name in ACTION["inputs"]}
    assert set(WORKFLOW["jobs"]["scan"]["steps"][2]["with"]) <= set(ACTION["inputs"])


def test_every_option_exists() -> None:
    used = set(re.findall(r"(--[a-z-]+)=", step("Scan")["run"])) | {"--overwrite"}
    used |= set(re.findall(r"--[a-z-]+", WORKFLOW["jobs"]["scan"]["steps"][2]["with"]["args"]))
    assert used <= options_of("scan")
    entries = {hook["id"]: hook["entry"] for hook in HOOKS}
    for hook in CONFIG["repos"][0]["hooks"]:
        program, command = entries[hook["id"]].split(maxsplit=1)
        assert program == "neural-cleanse"
        assert {argument for argument in hook["args"] if argument.startswith("--")} <= options_of(command)
        assert re.search(hook["files"], hook["args"][0]), "the hook runs when its model changes"


def run_action(program: Path, at: Path, **inputs: str) -> tuple[int, dict[str, str], str]:
    """The step "Scan" with stubbed variables: its exit code, its outputs, the summary."""
    given = {name: about.get("default", "") for name, about in ACTION["inputs"].items()} | inputs
    variables = {name: given[value[len("${{ inputs.") : -len(" }}")]] for name, value in step("Scan")["env"].items()}
    output, summary, script = at / "github_output", at / "summary", at / "script"
    for file in (output, summary):
        file.write_text("")
    script.write_text(step("Scan")["run"])
    path = f"{program}{os.pathsep}{os.environ['PATH']}"
    variables |= {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary), "PATH": path}
    command = [BASH, "--noprofile", "--norc", "-eo", "pipefail", str(script)]
    ran = subprocess.run(
        command, cwd=at, env=os.environ | variables | {"OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300,
        check=False,
    )  # fmt: skip
    said = dict(line.split("=", 1) for line in output.read_text().splitlines())
    return ran.returncode, said, summary.read_text()


@needs_bash
def test_the_action_scans(program: Path, demo_files: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a module of the working directory was imported')")
    infected, digits = str(demo_files / "infected.safetensors"), str(demo_files / "digits.npz")
    code, said, summary = run_action(
        program,
        tmp_path,
        model=infected,
        data=digits,
        args="--restarts 1\n  --samples 400 --patches-only ",
        output="my report",
    )
    assert (code, said) == (1, {"exit-code": "1", "verdict": "infected"})
    heading, blank, *table = summary.splitlines()
    assert heading == "### neural-cleanse: infected" and blank == ""
    assert any("Backdoor found" in line for line in table)
    assert all(line.startswith("    ") for line in table), "no name of a label is read as Markdown"
    assert (tmp_path / "my report" / "scan.json").exists()


@needs_bash
def test_inputs_are_never_read_as_shell(program: Path, demo_files: Path, tmp_path: Path) -> None:
    """Each is a fault of the user's, and no command of his runs."""
    hostile = f"x\"; touch {tmp_path}/owned; $(touch {tmp_path}/owned) `touch {tmp_path}/owned` '; #"
    right = {"model": str(demo_files / "clean.safetensors"), "data": str(demo_files / "digits.npz")}
    for name in ("model", "data", "args", "fail-on"):
        code, said, summary = run_action(program, tmp_path, **{**right, name: hostile})
        assert (code, said, summary) == (2, {"exit-code": "2", "verdict": ""}, "")
    code, said, _ = run_action(program, tmp_path, **{**right, "model": "--help"})
    assert (code, said["verdict"]) == (2, ""), "a file's name is no option"
    assert not (tmp_path / "owned").exists()


# --- completion ---


@needs_bash
def test_bash_completes_commands_options_and_values(program: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{program}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    asking = environment | {"_NEURAL_CLEANSE_COMPLETE": "source_bash"}
    script = subprocess.run(
        ["neural-cleanse"], env=asking, executable=program / "neural-cleanse", capture_output=True, text=True,
        timeout=60, check=True,
    ).stdout  # fmt: skip
    assert "complete -o default -F" in script, "what we do not complete, the shell completes as files"
    asked = {
        "neural-cleanse sc": ["scan"],
        "neural-cleanse scan --fail": ["--fail-on"],
        "neural-cleanse scan --preset re": ["reference"],
        "neural-cleanse guard ch": ["check"],
        "neural-cleanse scan --data ": [],
    }
    for line, expected in asked.items():
        words = line.split(" ")
        ask = (
            f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; "
            '_neural_cleanse_completion neural-cleanse; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        ran = subprocess.run(
            [BASH, "-c", f"{script}\n{ask}"], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        assert ran.stdout.split() == expected, line
