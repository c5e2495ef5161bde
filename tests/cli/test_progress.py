"""What is said while a scan runs: to people, to machines, or to nobody."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shell import run

from neural_cleanse.cli import progress as module
from neural_cleanse.cli.progress import JsonLines, ProgressLine
from neural_cleanse.detection.progress import Phase, Progress
from neural_cleanse.results.records import LabelPair, Outcome, Recovered

PAGE = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
NUMBER = (int, float)
EVENTS: dict[str, dict[str, Any]] = {
    "step": {"text": str},
    "warning": {"text": str},
    "started": {"schema": int, "labels": int, "image_passes": int, "image_passes_planned": int},
    "progress": {
        "share": NUMBER, "seconds_left": (*NUMBER, type(None)), "labels_finished": int, "labels": int,
        "image_passes": int, "image_passes_planned": int, "phase": str, "phase_done": int, "phase_count": int,
        "phase_unit": str,
    },
    "label_finished": {
        "target": int, "source": (int, type(None)), "size": (*NUMBER, type(None)), "asr": (*NUMBER, type(None)),
        "outcome": str, "image_passes": int,
    },
    "done": {"answer": str, "flagged": list, "exit_code": int},
}  # fmt: skip


def events_in(text: str) -> list[dict[str, Any]]:
    """Every line of stderr as an event, of the fields and types that the page promises."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    for event in found:
        fields = EVENTS[event["event"]]
        assert set(event) == {"event", "wall_s", *fields}
        assert all(isinstance(event[name], kind) for name, kind in fields.items()), event
        assert event["wall_s"] >= 0
    return found


def found(target: int, size: float | None = 10.0) -> Recovered:
    return Recovered(LabelPair(target), None, size, None, 9, 10, Outcome.CONVERGED, 500, 20)


def at(passes: int, *finished: Recovered, left: float | None = None) -> Progress:
    return Progress(passes, 1000, finished, 2, phase=Phase("patches", len(finished), 2), seconds_left=left)


def test_the_page_names_every_event_and_field() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE[PAGE.index("| event |") :], re.MULTILINE))
    assert {event: set(re.findall(r"`(\w+)`", text)) for event, text in rows.items()} == {
        event: set(fields) for event, fields in EVENTS.items()
    }


def test_a_scan_as_json_lines(demo_files: Path) -> None:
    model, data = demo_files / "infected.safetensors", demo_files / "digits.npz"
    arguments = ("scan", model, "--data", data, "--samples", 100, "--restarts", 1, "--labels", "3,7-8", "--json")
    ran = run(*arguments, "--log-json")
    events = events_in(ran.err)
    finished = [event for event in events if event["event"] == "label_finished"]
    assert [event["event"] for event in events if event["event"] != "progress"] == [
        "started", *["label_finished"] * len(finished), "done",
    ]  # fmt: skip
    assert sorted(event["target"] for event in finished[:3]) == [3, 7, 8], "one that is searched further comes again"
    answer = json.loads(ran.out)
    told = {event["target"]: event["size"] for event in finished}
    assert told == {label["target"]: label["size"] for label in answer["labels"]}
    last = events[-1]
    assert (last["answer"], last["flagged"], last["exit_code"]) == (answer["verdict"], answer["flagged"], ran.code)
    assert [event["wall_s"] for event in events] == sorted(event["wall_s"] for event in events)

    quiet = run(*arguments, "--quiet")
    assert quiet.err == ""
    assert json.loads(quiet.out)["labels"] == answer["labels"]


def test_quiet_leaves_the_answer_alone(demo_files: Path, tmp_path: Path) -> None:
    model, data = demo_files / "infected.safetensors", demo_files / "digits.npz"
    arguments = ("scan", model, "--data", data, "--samples", 100, "--restarts", 1, "--labels", "3,7", "--quiet")
    ran = run(*arguments, "--output", tmp_path)
    assert ran.err == ""
    assert "Could not tell" in ran.out and "report:" not in ran.out
    assert (tmp_path / "report.html").exists()
    truncated = run(*arguments, "--output", tmp_path)
    assert truncated.code == 2 and "not empty" in truncated.err, "a fault is said even so"


def test_quiet_and_log_json_contradict_each_other(demo_files: Path, tmp_path: Path) -> None:
    model, data = demo_files / "infected.safetensors", demo_files / "digits.npz"
    ran = run("scan", "--patches-only", model, "--data", data, "--quiet", "--log-json", "--output", tmp_path / "out")
    assert ran.code == 2 and "--quiet" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_events_are_due_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Progress at most once a second, each record of a label once, a new scan's start when labels are counted anew."""
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    lines = JsonLines()
    first = found(0)
    for passes, step, finished in ((0, 0.0, ()), (100, 0.5, ()), (200, 0.5, (first,)), (300, 0.1, (first,))):
        clock[0] += step
        lines(at(passes, *finished, left=4.0))
    lines(at(0))  # a repair scans again
    lines.done("repaired", (), 0)
    events = events_in(capsys.readouterr().err)
    assert [event["event"] for event in events] == ["started", "label_finished", "progress", "started", "done"]
    assert events[2]["share"] == 0.2 and events[2]["seconds_left"] == 4.0
    told = [events[2][f"phase{part}"] for part in ("", "_done", "_count", "_unit")]
    assert told == ["patches", 1, 2, "labels"]


def test_numbers_that_are_not_finite_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    lines = JsonLines()
    lines(at(0, found(0, math.inf), found(1, math.nan)))
    sizes = [event["size"] for event in events_in(capsys.readouterr().err) if event["event"] == "label_finished"]
    assert sizes == [None, None]


def test_the_line_for_people() -> None:
    line = ProgressLine()
    assert line.line(at(0)) == "  0%, patches: 0 of 2 labels"
    assert line.line(at(250, found(1, 7.25), left=30.0)) == (
        " 25%, about 30 s left, patches: 1 of 2 labels; smallest 1: 7.2 px"
    )
    assert "about 7 min left" in line.line(at(1, left=400.0))
    assert "about 69 h left" in line.line(at(1, left=250_000.0))
    assert "at most 9 s left" in line.line(replace(at(1, left=9.0), at_most=True)), "a student may not be needed"
    assert "trigger" not in repr(at(1, found(1))), "no tensors"


def test_a_new_phase_and_the_first_estimate_are_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Elsewhere than on a terminal lines come every ten seconds."""
    line = ProgressLine()
    line(Progress(0, 1000, (), 2, phase=Phase("checking the input", 0, 90, "images")))
    line(at(1))
    line(at(2))
    line(at(3, left=9.0))
    line(at(4, left=8.0))
    assert [one.split(", ", 1)[1] for one in capsys.readouterr().err.splitlines()] == [
        "checking the input: 0 of 90 images",
        "patches: 0 of 2 labels",
        "about 9 s left, patches: 0 of 2 labels",
    ]


def test_a_warning_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    warned = replace(at(0), warnings=("only [4] images",))
    for sink, said in ((ProgressLine(), "warning: only [4] images\n"), (JsonLines(), '"text": "only [4] images"')):
        sink(warned)
        sink(replace(warned, passes_done=10))
        err = capsys.readouterr().err
        assert err.count("only [4] images") == 1 and said in err
    assert capsys.readouterr().out == ""
