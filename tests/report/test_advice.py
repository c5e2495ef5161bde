"""What to do now: for every verdict, and with commands that can be typed as they stand."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
from made_scans import repaired, result

from neural_cleanse.cli.main import whole_program
from neural_cleanse.report.advice import after_repair, what_now
from neural_cleanse.report.markdown import markdown
from neural_cleanse.report.page import html
from neural_cleanse.report.tables import class_table, try_table
from neural_cleanse.results.records import Outcome, ScanResult, Verdict
from neural_cleanse.results.repair import RepairStatus

COMMAND = "neural-cleanse scan m.onnx --data 'my images' --budget 10s --labels 0-3 --bgr --output out/a --overwrite"
WHERE = Path("out/a")


def scan(verdict: Verdict, command: str | None = COMMAND, **changes: Any) -> ScanResult:
    made = result(("a", "b", "c", "d", "e", "f", "g"), verdict)
    given = dataclasses.replace(
        made.provenance, command=command, model={"path": "m.onnx"}, settings=changes.pop("settings", {}),
        data=changes.pop("data", {"images_used": 500}),
    )  # fmt: skip
    return dataclasses.replace(made, provenance=given, **changes)


def commands(of: ScanResult, directory: Path | None = WHERE) -> list[str]:
    return [step.command for step in what_now(of, directory) if step.command]


def _known(command: str) -> None:
    """Every command and option is one of the program's."""
    program: Any = whole_program()
    name, *words = shlex.split(command)
    assert name == "neural-cleanse"
    while words[0] in getattr(program, "commands", {}):
        program = program.commands[words.pop(0)]
    known = {option for parameter in program.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("command", [COMMAND, "neural-cleanse demo --output out"])
@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_something_to_do_with_commands_that_exist(verdict: Verdict, command: str) -> None:
    steps = what_now(scan(verdict, command), WHERE)
    assert len(steps) >= 2
    for step in steps:
        if step.command:
            _known(step.command)
        assert (step.command is not None) == step.what.endswith(":")


def test_an_infected_model_is_repaired_or_guarded() -> None:
    found = commands(scan(Verdict.INFECTED))
    assert found[0] == (
        "neural-cleanse scan m.onnx --data 'my images' --budget 10s --labels 0-3 --bgr --seed 1 --plan full "
        "--output out/a-again"
    )
    assert found[1] == "neural-cleanse repair m.onnx --scan out/a --output out/a-repaired.onnx"
    assert found[2] == "neural-cleanse guard fit m.onnx --scan out/a --output out/a-guard"


def test_a_scan_that_its_budget_ended_is_gone_on_with() -> None:
    found = commands(scan(Verdict.INCONCLUSIVE, cut_off=True))
    assert found == [
        "neural-cleanse scan m.onnx --data 'my images' --labels 0-3 --bgr --output out/a --resume",
    ]
    nowhere = COMMAND.replace("--output out/a --overwrite", "")
    assert "--resume" not in commands(scan(Verdict.INCONCLUSIVE, nowhere, cut_off=True))[0]


def test_what_an_inconclusive_scan_lacked_is_asked_for() -> None:
    poor = commands(scan(Verdict.INCONCLUSIVE, data={"clean_accuracy": 0.2, "images_used": 10}))
    assert poor == ["neural-cleanse inspect m.onnx"]
    (some,) = commands(scan(Verdict.INCONCLUSIVE, settings={"labels": [0, 1]}))
    assert "--labels" not in some
    one = scan(Verdict.INCONCLUSIVE)
    starved = dataclasses.replace(one.labels[0], outcome=Outcome.NOT_ENOUGH_IMAGES)
    found = commands(dataclasses.replace(one, labels=(starved, *one.labels[1:])))
    assert "--data MORE_IMAGES" in found[0] and "my images" not in found[0]
    assert "--samples 1000 --restarts 8" in found[1]
    assert "--baseline BASELINE_SCAN" in found[2]
    screened = dataclasses.replace(one.labels[0], outcome=Outcome.SCREENED)
    assert "--plan full" in commands(dataclasses.replace(one, labels=(screened, *one.labels[1:])))[0]


def test_a_scan_from_python_is_gone_on_with_in_python() -> None:
    steps = what_now(scan(Verdict.INFECTED, None))
    assert [step.command for step in steps if step.command] == [
        "result = neural_cleanse.scan(model, images, neural_cleanse.ScanSettings(seed=1, plan='full'))",
        "repaired = neural_cleanse.repair(model, result, images)",
        "guard = neural_cleanse.fit_guard(model, result, images)",
    ]


def test_a_second_scan_leaves_the_documents_of_the_first_alone() -> None:
    command = "neural-cleanse scan m.onnx --data d --format sarif=out.sarif --format=junit=out.xml --output out"
    again = next(text for text in commands(scan(Verdict.INFECTED, command)) if text.startswith("neural-cleanse scan"))
    assert again == "neural-cleanse scan m.onnx --data d --seed 1 --plan full --output out-again"


def test_no_word_of_a_record_becomes_shell() -> None:
    odd = scan(Verdict.INFECTED, "rm -rf / ; neural-cleanse scan x")
    made = dataclasses.replace(odd.provenance, model={"path": "-m; rm -rf ~ $(id)"})
    for command in commands(dataclasses.replace(odd, provenance=made)):
        words = shlex.split(command)
        assert words[0] == "neural-cleanse" and "./-m; rm -rf ~ $(id)" in words
    assert commands(scan(Verdict.INFECTED, "neural-cleanse scan 'open"))  # a quote that is never closed


@pytest.mark.parametrize("status", list(RepairStatus))
def test_a_repair_says_what_comes_next(status: RepairStatus) -> None:
    first = after_repair(repaired(status), scan(Verdict.CLEAN))[0].what
    begins = {
        RepairStatus.REPAIRED: "Use the repaired file, m.onnx, in every place",
        RepairStatus.FAILED: "Do not use the model",
        RepairStatus.NOTHING_TO_REPAIR: "Leave the model as it is",
    }
    assert first.startswith(begins[status])


def test_after_a_repair_it_is_said_what_that_does_not_prove() -> None:
    whole = [step.what for step in after_repair(repaired(), scan(Verdict.CLEAN))]
    assert "no proof that nothing else is there" in whole[-1] and "repair.json" in whole[-1]
    patches = [step.what for step in after_repair(repaired(), scan(Verdict.CLEAN, settings={"patches_only": True}))]
    assert [what for what in patches if what not in whole] == [
        "Only patches were looked for. Scan it for the other kinds of trigger too."
    ]


def test_classes_as_before_are_left_out() -> None:
    fixed = repaired()
    same = tuple(dataclasses.replace(one, right_after=one.right_before) for one in fixed.classes)
    one = dataclasses.replace(fixed, classes=(*same[:-1], fixed.classes[-1]))
    assert len(class_table(one).rows) == 1 < len(same)
    none = dataclasses.replace(fixed, classes=same)
    assert "accuracy of every class is as before" in html(scan(Verdict.CLEAN), none)
    assert "Classes that changed most" not in markdown(scan(Verdict.CLEAN), none)


def test_what_became_of_every_try_stands_in_the_table() -> None:
    fixed = repaired()
    trace = tuple(
        dataclasses.replace(point, outcome=f"try {number}") for number, point in enumerate(fixed.rounds[0].trace)
    )
    told = dataclasses.replace(fixed, rounds=(dataclasses.replace(fixed.rounds[0], trace=trace),))
    assert [row[-1] for row in try_table(told).rows] == [point.outcome for point in trace]


def test_every_step_that_announces_a_command_has_one_in_python_too() -> None:
    for verdict in Verdict:
        steps = what_now(scan(verdict, None))
        assert all(step.command for step in steps if step.what.endswith(":"))
    commands = [step.command for step in what_now(scan(Verdict.INCONCLUSIVE, None))]
    assert any(command and "baseline=baseline_scan" in command for command in commands)


def test_another_start_is_another_than_the_one_of_the_scan() -> None:
    first = scan(Verdict.INFECTED)
    again = dataclasses.replace(first, provenance=dataclasses.replace(first.provenance, seed=1))
    told = [next(step.command for step in what_now(one) if step.command) for one in (first, again)]
    assert told[0] and told[1] and "--seed 1" in told[0] and "--seed 2" in told[1]
