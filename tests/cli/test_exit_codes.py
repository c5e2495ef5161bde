"""Exit codes: the page, the help and the commands say the same."""

import re
from pathlib import Path

import pytest
from shell import run

from neural_cleanse.cli import exit_codes, main
from neural_cleanse.cli.exit_codes import FailOn
from neural_cleanse.results.records import Verdict
from neural_cleanse.results.repair import RepairStatus

PAGE = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")


def commands() -> dict[str, str]:
    """Name to help of every command, those of groups with the group's name before."""
    top = main.whole_program()
    found: dict[str, str] = {}
    for name, command in top.commands.items():
        below = getattr(command, "commands", None)
        named = {name: command} if below is None else {f"{name} {inner}": one for inner, one in below.items()}
        found |= {full: one.help for full, one in named.items()}
    return found


def test_the_page_has_every_command_in_the_words_of_its_help() -> None:
    rows = dict(re.findall(r"^\| `([a-z ]+)` \| (\d.+) \|$", PAGE, re.MULTILINE))
    said = {name: re.search(r"Exit code: (.+?)\.(?:\s|$)", help_, re.DOTALL) for name, help_ in commands().items()}
    assert {name: " ".join(found[1].split()) if found else None for name, found in said.items()} == rows


def test_no_help_breaks_a_line_before_the_terminal_does() -> None:
    broken = [name for name, help_ in commands().items() for part in help_.split("\n\n") if "\n" in part]
    assert broken == []


@pytest.mark.parametrize("fail_on", FailOn)
def test_an_inconclusive_scan_fails_a_job_unless_told_otherwise(fail_on: FailOn) -> None:
    assert exit_codes.of_scan("clean", fail_on) == 0
    assert exit_codes.of_scan("infected", fail_on) == 1
    assert exit_codes.of_scan("inconclusive", fail_on) == {"infected": 0, "inconclusive": 3}[fail_on.value]


def test_every_verdict_and_status_has_a_code_that_is_no_faults() -> None:
    assert set(exit_codes.SCAN) == {verdict.value for verdict in Verdict}
    assert set(exit_codes.REPAIR) == {status.value for status in RepairStatus}
    assert not {*exit_codes.SCAN.values(), *exit_codes.REPAIR.values()} & {exit_codes.ERROR, 130}


def test_fail_on_of_a_command(demo_files: Path) -> None:
    model, data = demo_files / "infected.safetensors", demo_files / "digits.npz"
    arguments = ("scan", model, "--data", data, "--samples", 100, "--restarts", 1, "--labels", "3,7", "--quiet")
    ends = {}
    for options in ((), ("--fail-on", "inconclusive"), ("--fail-on", "infected")):
        ran = run(*arguments, *options)
        assert "Could not tell" in ran.out, "the verdict stays what it is"
        ends[options[-1:]] = ran.code
    assert ends == {(): 3, ("inconclusive",): 3, ("infected",): 0}
    assert run(*arguments, "--fail-on", "never").code == 2
    assert run(*arguments, "--labels", "99", "--fail-on", "infected").code == 2
