"""`repair` as a script sees it: exit codes, what is written and what never is."""

import dataclasses
import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from shell import Ran, deny_writing, files_under, refused, run

from neural_cleanse.detection.progress import Phase, Progress
from neural_cleanse.errors import OutputError
from neural_cleanse.loading import save
from neural_cleanse.loading.load import load_model
from neural_cleanse.mitigation.repair import Repaired
from neural_cleanse.report.page import html
from neural_cleanse.results import storage
from neural_cleanse.results.records import SCHEMA_VERSION
from neural_cleanse.results.repair import RepairRound, RepairStatus, TracePoint

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)>\x1b[2J\u202e'


@dataclasses.dataclass(frozen=True)
class Done:
    """One real repair of the infected demo model, with --json and the card to verify."""

    ran: Ran
    directory: Path


@pytest.fixture(scope="module")
def done(demo_files: Path, scanned_infected: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    directory = tmp_path_factory.mktemp("repaired")
    ran = run(
        "repair", demo_files / "infected.safetensors", "--scan", scanned_infected, "--data", demo_files / "digits.npz",
        "--samples", 500, "--output", directory / "better.safetensors", "--json", "--log-json",
        "--verify-trigger", demo_files / "infected.card.json",
    )  # fmt: skip
    return Done(ran, directory)


@pytest.fixture
def asked(demo_files: Path, scanned_infected: Path, tmp_path: Path) -> list[object]:
    """The shortest command that repairs the demo's infected model into a directory `out`."""
    (tmp_path / "out").mkdir()
    return [
        "repair", demo_files / "infected.safetensors", "--scan", scanned_infected, "--data", demo_files / "digits.npz",
        "--samples", 200, "--output", tmp_path / "out" / "better.safetensors",
    ]  # fmt: skip


Ended = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def ended(done: Done, monkeypatch: pytest.MonkeyPatch) -> Ended:
    """Let the repair end at once, in that status, with every weight halved; returns what it was called with."""
    kept = storage.load_repair(done.directory / "better.safetensors.repair")
    scan = storage.load_result(done.directory / "better.safetensors.repair")
    assert kept is not None

    def end(status: RepairStatus, **changes: Any) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def at_once(classifier: Any, result: Any, images: Any, settings: Any, **others: Any) -> Repaired:
            calls.append({"settings": settings, "images": images, **others})
            with torch.no_grad():
                for parameter in classifier.module.parameters():
                    parameter.mul_(0.5)
            return Repaired(classifier, dataclasses.replace(kept, status=status, **changes), scan)

        monkeypatch.setattr("neural_cleanse.mitigation.repair.repair", at_once)
        return calls

    return end


# --- repaired ---


def test_repaired_is_exit_code_0_and_pure_json(done: Done) -> None:
    assert done.ran.code == 0, done.ran.err + done.ran.out
    told = json.loads(done.ran.out)
    assert told["status"] == "repaired" and told["schema_version"] == SCHEMA_VERSION
    events = [json.loads(line) for line in done.ran.err.splitlines()]
    scans = sum(one["verdict"] is not None for one in told["rounds"])
    assert [event["event"] for event in events].count("started") == scans > 0, "one a scan"
    last = events[-1]
    assert (last["event"], last["answer"], last["flagged"], last["exit_code"]) == ("done", "repaired", [], 0)
    (verified,) = told["verified"]
    assert verified["hits_before"] > 0.95 * verified["trials"] and verified["hits_after"] < 0.05 * verified["trials"]
    assert told["provenance"]["command"].startswith("neural-cleanse repair ")
    assert told["provenance"]["settings"]["samples"] == 500
    again = storage.load_result(done.directory / "better.safetensors.repair").provenance
    assert again.command == told["provenance"]["command"] and again.date and told["provenance"]["date"]
    assert set(told) >= {"triggers", "classes", "rounds", "num_images", "clean_accuracy", "max_drop", "max_asr"}


def test_the_model_and_its_report_are_written_and_nothing_else(done: Done) -> None:
    written = files_under(done.directory)
    pages = {
        name.removeprefix("better.safetensors.repair/")
        for name in written
        if name.startswith("better.safetensors.repair/")
    }
    assert {"repair.json", "report.html", "scan.json", "triggers.safetensors", "options.json"} <= pages
    assert {name for name in written if "/" not in name} == {"better.safetensors"}
    assert written["better.safetensors.repair/repair.json"].decode() == done.ran.out


def test_the_repaired_file_is_described_as_the_original_and_scans_clean(done: Done, demo_files: Path) -> None:
    before, after = (
        load_model(path) for path in (demo_files / "infected.safetensors", done.directory / "better.safetensors")
    )
    assert dataclasses.replace(after.origin, path="", sha256="", num_bytes=0) == dataclasses.replace(
        before.origin, path="", sha256="", num_bytes=0
    )
    assert storage.load_result(done.directory / "better.safetensors.repair").flagged == ()


def test_the_page_holds_before_and_after(done: Done) -> None:
    text = (done.directory / "better.safetensors.repair" / "report.html").read_text()
    assert "Repaired" in text and "Triggers before and after" in text
    assert "recovered, scan 1" in text and "attacker&#x27;s own</td>" in text
    assert re.search(r"Clean accuracy [\d.]+% before, [\d.]+% after", text)
    assert "The scan of the repaired model" in text and "repair of" in text.split("</header>")[0]
    scanned = done.ran.out
    assert json.loads(scanned)["provenance"]["model"]["sha256"] in text.split("<nav")[0]
    assert "--verify-trigger measures" not in text and "the row of the trigger that was given" in text


def test_a_repaired_model_is_gone_on_with_without_typing_its_options_again(
    done: Done, ended: Ended, tmp_path: Path
) -> None:
    calls = ended(RepairStatus.FAILED)
    repaired, again = done.directory / "better.safetensors", tmp_path / "again.safetensors"
    ran = run("repair", repaired, "--scan", f"{repaired}.repair", "--output", again, "--samples", 200)
    assert ran.code == 3, ran.err
    assert len(calls[0]["images"]) == 200


def test_report_shows_a_repair_again(done: Done) -> None:
    pages = done.directory / "better.safetensors.repair"
    before = (pages / "report.html").read_bytes()
    (pages / "report.html").unlink()
    ran = run("report", pages)
    assert ran.code == 0 and ran.out.startswith("Repaired\n") and "success before" in ran.out
    assert "Model that was repaired: " in ran.out and "The scan of the repaired model:\nNothing found" in ran.out
    assert (pages / "report.html").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema_version": 99}', b'{"schema_version": 1}', b"\xff"])
def test_a_damaged_repair_is_refused(done: Done, tmp_path: Path, content: bytes) -> None:
    for name in ("scan.json", "triggers.safetensors"):
        (tmp_path / name).write_bytes((done.directory / "better.safetensors.repair" / name).read_bytes())
    (tmp_path / "repair.json").write_bytes(content)
    refused(run("report", tmp_path), "The repair in")


def test_the_page_holds_the_pruning_curve_and_escapes_hostile_names(done: Done) -> None:
    kept = storage.load_repair(done.directory / "better.safetensors.repair")
    scan = storage.load_result(done.directory / "better.safetensors.repair")
    assert kept is not None
    points = tuple(TracePoint("pruning, features", share / 10, 0.9, 1 - share / 10) for share in range(4))
    named = dataclasses.replace(
        kept,
        reason=f"label {HOSTILE}",
        triggers=tuple(dataclasses.replace(change, name=HOSTILE) for change in kept.triggers),
        classes=tuple(dataclasses.replace(change, name=HOSTILE) for change in kept.classes),
        rounds=(RepairRound(1, (3,), HOSTILE, points, None, ()),),
        provenance=dataclasses.replace(kept.provenance, notes=(HOSTILE,), command=HOSTILE),
    )
    text = html(scan, named)
    assert "against the share of neurons pruned" in text
    assert "<script" not in text and "<img src=x" not in text
    assert not set(text) & set("\x1b\u202e")
    assert "against the share of neurons pruned" not in html(scan, dataclasses.replace(kept, rounds=()))


# --- not repaired ---


@pytest.mark.parametrize("status", [RepairStatus.FAILED, RepairStatus.NOTHING_TO_REPAIR])
def test_what_is_not_repaired_is_exit_code_3_and_no_model(
    asked: list[object], ended: Ended, tmp_path: Path, status: RepairStatus
) -> None:
    ended(status)
    ran = run(*asked)
    assert ran.code == 3, ran.err
    assert not (tmp_path / "out" / "better.safetensors").exists()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"better.safetensors.repair"}, (
        "the report is, with what was tried"
    )
    assert "written" not in ran.out


def test_a_scan_that_flagged_nothing(demo_files: Path, scanned_infected: Path, tmp_path: Path) -> None:
    for name in ("scan.json", "triggers.safetensors"):
        (tmp_path / name).write_bytes((scanned_infected / name).read_bytes())
    raw = json.loads((tmp_path / "scan.json").read_text())
    (tmp_path / "scan.json").write_text(json.dumps(raw | {"flagged": [], "evidence": [], "verdict": "clean"}))
    (tmp_path / "out").mkdir()
    ran = run(
        "repair", demo_files / "infected.safetensors", "--scan", tmp_path, "--data", demo_files / "digits.npz",
        "--samples", 120, "--output", tmp_path / "out" / "b", "--json",
    )  # fmt: skip
    assert ran.code == 3, ran.err
    assert json.loads(ran.out)["status"] == "nothing_to_repair"
    assert not (tmp_path / "out" / "b").exists()


# --- where it is written ---


def test_a_name_of_another_container_is_refused_before_the_work(
    asked: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neural_cleanse.mitigation.repair.repair", None)
    ran = run(*asked, "--output", tmp_path / "out" / "better.onnx")
    assert ran.code == 2 and "would hold a safetensors file" in ran.err and "better.safetensors" in ran.err
    assert not list((tmp_path / "out").iterdir())


def test_the_original_is_never_overwritten(
    asked: list[object], demo_files: Path, scanned_infected: Path, tmp_path: Path
) -> None:
    model, link, hard = tmp_path / "m.safetensors", tmp_path / "link.safetensors", tmp_path / "hard.safetensors"
    model.write_bytes((demo_files / "infected.safetensors").read_bytes())
    link.symlink_to(model)
    hard.hardlink_to(model)
    before = model.read_bytes()
    asked[1] = model
    for output in (model, link, hard, tmp_path / "out" / ".." / "m.safetensors"):
        refused(run(*asked[:-1], output, "--overwrite"), "never overwritten")
    assert model.read_bytes() == before and link.is_symlink()
    asked[1] = link
    refused(run(*asked[:-1], model, "--overwrite"), "never overwritten")


def test_an_output_that_exists_needs_overwrite(asked: list[object], ended: Ended, tmp_path: Path) -> None:
    ended(RepairStatus.REPAIRED)
    (tmp_path / "out" / "better.safetensors").write_bytes(b"mine")
    refused(run(*asked), "--overwrite")
    assert files_under(tmp_path / "out") == {"better.safetensors": b"mine"}
    assert run(*asked, "--overwrite").code == 0
    assert (tmp_path / "out" / "better.safetensors").read_bytes() != b"mine"
    refused(
        run(*asked[:-1], tmp_path / "out" / "other", "--report", tmp_path / "out" / "better.safetensors.repair"),
        "not empty",
    )


def test_places_that_cannot_be_written_are_refused_before_the_work(
    asked: list[object], scanned_infected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neural_cleanse.mitigation.repair.repair", lambda *_, **__: pytest.fail("work began"))
    refused(run(*asked[:-1], tmp_path / "absent" / "m"), "no directory")
    refused(run(*asked[:-1], tmp_path / "out", "--overwrite"), "is a directory")
    refused(run(*asked[:-1], ".", "--overwrite"), "is a directory")
    refused(run(*asked, "--report", asked[-1]), "cannot lie where the model does")
    refused(run(*asked, "--report", Path(str(asked[-1])) / "x"), "cannot lie where the model does")
    refused(run(*asked, "--report", scanned_infected, "--overwrite"), "which it reads")
    refused(run(*asked[:-1], scanned_infected / "triggers.safetensors", "--overwrite"), "which it reads")
    refused(run(*asked[:-1], tmp_path / f"{'x' * 252}.safetensors"), "too long")
    (tmp_path / "file").touch()
    refused(run(*asked[:-1], tmp_path / "file" / "m"), "no directory")
    refused(run(*asked, "--report", tmp_path / "file"), "Name another directory with --report")
    deny_writing(monkeypatch, tmp_path / "out")
    refused(run(*asked), "Permission denied")
    assert files_under(tmp_path) == {"file": b""}


def test_a_model_that_cannot_be_written_leaves_the_report(
    asked: list[object], ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(RepairStatus.REPAIRED)

    unchanged = save.save_like

    def full(origin: Any, state: Any, output: Path) -> str:
        if output.parent == tmp_path / "out":
            raise OutputError("The disk is full.", cure="Free some.")
        return unchanged(origin, state, output)

    monkeypatch.setattr("neural_cleanse.loading.save.save_like", full)
    ran = run(*asked)
    assert ran.code == 2 and "The disk is full" in ran.err
    assert {"repair.json", "report.html"} <= set(files_under(tmp_path / "out" / "better.safetensors.repair"))


def test_two_containers_of_one_name_have_two_reports(asked: list[object], ended: Ended, tmp_path: Path) -> None:
    ended(RepairStatus.REPAIRED)
    for name in ("better.safetensors", "better.st"):
        assert run(*asked[:-1], tmp_path / "out" / name).code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "better.safetensors", "better.safetensors.repair", "better.st", "better.st.repair",
    }  # fmt: skip


@pytest.mark.parametrize("status", [RepairStatus.REPAIRED, RepairStatus.FAILED])
def test_a_full_disk_leaves_no_model_and_nothing_is_called_repaired(
    asked: list[object], ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: RepairStatus
) -> None:
    ended(status)

    at_once = importlib.import_module("neural_cleanse.mitigation.repair").repair

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    def then_full(*given: Any, **named: Any) -> Repaired:
        monkeypatch.setattr("os.fsync", full)
        repaired: Repaired = at_once(*given, **named)
        return repaired

    monkeypatch.setattr("neural_cleanse.mitigation.repair.repair", then_full)
    ran = run(*asked)
    assert ran.code == 2 and "No space left" in ran.err and "Traceback" not in ran.err
    assert ran.out.startswith("Not repaired") if status is RepairStatus.FAILED else ran.out == ""
    assert files_under(tmp_path / "out") == {}


def test_an_interrupted_repair_leaves_nothing(
    asked: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("neural_cleanse.mitigation.repair.repair", interrupt)
    ran = run(*asked)
    assert ran.code == 130 and "interrupted: nothing is kept, and the same command begins again" in ran.err
    assert files_under(tmp_path / "out") == {}


# --- the container ---


def test_a_checkpoint_keeps_nesting_and_half_precision(
    asked: list[object], ended: Ended, demo_files: Path, scanned_infected: Path, tmp_path: Path
) -> None:
    weights = safetensors.torch.load((demo_files / "infected.safetensors").read_bytes())
    halves = {f"module.{name}": tensor.half() for name, tensor in weights.items()}
    model = tmp_path / "m.pth"
    torch.save({"epoch": 3, "state_dict": halves, "note": "kept"}, model)
    scan = tmp_path / "scan"
    scan.mkdir()
    (scan / "triggers.safetensors").write_bytes((scanned_infected / "triggers.safetensors").read_bytes())
    raw = json.loads((scanned_infected / "scan.json").read_text())
    raw["provenance"]["model"]["sha256"] = load_model(model, architecture="mnist_cnn").origin.sha256
    (scan / "scan.json").write_text(json.dumps(raw))
    asked[1], asked[3] = model, scan
    calls = ended(RepairStatus.REPAIRED)
    ran = run(*asked[:-1], tmp_path / "out" / "better.pth", "--architecture", "mnist_cnn")
    assert ran.code == 0, ran.err
    saved = torch.load(tmp_path / "out" / "better.pth", weights_only=True)
    assert list(saved) == ["epoch", "state_dict", "note"] and (saved["epoch"], saved["note"]) == (3, "kept")
    assert list(saved["state_dict"]) == list(halves)
    for name, tensor in saved["state_dict"].items():
        assert tensor.dtype is torch.float16
        assert torch.equal(tensor, (halves[name].float() / 2).half())
    changed = load_model(demo_files / "infected.safetensors").classifier  # in single precision
    for name, tensor in calls[0]["as_written"](changed).module.state_dict().items():
        assert torch.equal(tensor, weights[name].half().float())


def test_a_container_that_cannot_be_written_says_so_before_the_work(
    asked: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise OutputError("A program cannot be written back.")

    monkeypatch.setattr("neural_cleanse.mitigation.repair.repair", lambda *_, **__: pytest.fail("work began"))
    monkeypatch.setattr("neural_cleanse.loading.save.rewrite_file", refuse)
    refused(run(*asked), "cannot be written back")
    assert files_under(tmp_path / "out") == {}


def test_the_baseline_goes_along(asked: list[object], ended: Ended, scanned_infected: Path, tmp_path: Path) -> None:
    calls = ended(RepairStatus.REPAIRED)
    assert run(*asked, "--baseline", scanned_infected).code == 0
    assert calls[0]["baseline"].flagged == (3,), "read as it is"
    refused(run(*asked, "--overwrite", "--baseline", tmp_path / "absent"), "no finished scan")


def test_the_progress_names_the_step(
    asked: list[object], ended: Ended, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("neural_cleanse.detection.progress.SECONDS_BETWEEN_LINES", {True: 0.0, False: 0.0})
    calls = ended(RepairStatus.REPAIRED)
    assert run(*asked).code == 0
    capsys.readouterr()
    calls[0]["on_step"]("round 1: scanning again")
    calls[0]["progress"](Progress(0, 100, (), 10, phase=Phase("checking the input", 0, 10)))
    calls[0]["progress"](Progress(50, 100, (), 10, phase=Phase("patches", 0, 10)))
    first, second = capsys.readouterr().err.splitlines()
    assert first == "round 1: scanning again" and second == "round 1: scanning again:  50%, patches: 0 of 10 labels"


def test_how_a_try_ended_is_said_at_once_and_epochs_now_and_then(
    asked: list[object], ended: Ended, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = ended(RepairStatus.REPAIRED)
    assert run(*asked).code == 0
    capsys.readouterr()
    steps = [f"try {number}{what}" for number in (1, 2) for what in (", epoch 1 of 9", ", epoch 2 of 9", ": kept")]
    for step in steps:
        calls[0]["on_step"](step)
    assert capsys.readouterr().err.splitlines() == ["try 1, epoch 1 of 9", "try 1: kept", "try 2: kept"]


# --- what cannot be repaired ---


def test_the_scan_of_another_model_is_refused(asked: list[object], demo_files: Path) -> None:
    asked[1] = demo_files / "clean.safetensors"
    refused(run(*asked), "Scan this model first")


def test_another_normalisation_is_refused(asked: list[object]) -> None:
    refused(run(*asked, "--mean", "0.5"), "Pass the same --mean")


def test_the_scan_of_other_images_is_refused(asked: list[object], tmp_path: Path, scanned_infected: Path) -> None:
    raw = json.loads((scanned_infected / "scan.json").read_text())
    (tmp_path / "scan.json").write_text(json.dumps(raw | {"image_shape": [1, 32, 32]}))
    tensors = safetensors.torch.load((scanned_infected / "triggers.safetensors").read_bytes())
    larger = {name: torch.nn.functional.pad(tensor, (2, 2, 2, 2)) for name, tensor in tensors.items()}
    safetensors.torch.save_file(larger, tmp_path / "triggers.safetensors")
    asked[3] = tmp_path
    refused(run(*asked), "Pass the same --resize")


@pytest.mark.parametrize("damage", ["absent", "cut", "no tensors", "text alpha", "other tensors"])
def test_a_damaged_scan_is_refused(
    asked: list[object], scanned_infected: Path, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = tmp_path / "scan"
    scan.mkdir()
    text = (scanned_infected / "scan.json").read_text()
    if damage != "absent":
        (scan / "scan.json").write_text(text[:200] if damage == "cut" else text)
        (scan / "triggers.safetensors").write_bytes((scanned_infected / "triggers.safetensors").read_bytes())
    if damage == "no tensors":
        (scan / "triggers.safetensors").write_bytes(b"")
    if damage == "text alpha":
        raw = json.loads(text)
        raw["provenance"]["settings"]["alpha"] = "x"
        (scan / "scan.json").write_text(json.dumps(raw))
    if damage == "other tensors":
        named = safetensors.torch.load((scan / "triggers.safetensors").read_bytes())
        named["trigger.3.mask"] = torch.ones(1, 1, 4, 4)
        safetensors.torch.save_file(named, scan / "triggers.safetensors")
    asked[3] = scan
    if damage == "text alpha":
        asked += ["--method", "prune", "--max-drop", "0.5", "--max-asr", "0.9"]
    ran = run(*asked)
    refused(ran, "no finished scan" if damage == "absent" else "damaged")
    assert files_under(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("card", "words"),
    [
        (None, "cannot be read"),
        ({}, "no card with triggers"),
        ({"poisons": []}, "clean model"),
        ({"poisons": [{"trigger": {"kind": "warp"}}]}, "cannot be read"),
        ({"poisons": 5}, "no card"),
        ("size", "not (1, 28, 28)"),
        ({"targets": 10}, "labels 0 to 9"),
        ({"targets": -1}, "labels 0 to 9"),
        ({"targets": 3, "sources": [12]}, "from 12"),
        ({"targets": "abc"}, "no card"),
        ({"targets": None}, "no card"),
    ],
    ids=str,
)
def test_a_card_that_does_not_fit_is_refused_before_the_work(
    asked: list[object], demo_files: Path, tmp_path: Path, card: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neural_cleanse.mitigation.repair.repair", lambda *_, **__: pytest.fail("work began"))
    raw = json.loads((demo_files / "infected.card.json").read_text())
    if card == "size":
        raw["poisons"][0]["trigger"]["image"] = [1, 32, 32]
    elif isinstance(card, dict):
        raw = card if "targets" not in card and card else raw if card else {}
        if "targets" in card:
            raw["poisons"][0] |= card
    if card is not None:
        (tmp_path / "card.json").write_text(json.dumps(raw))
    for option in ("--verify-trigger", "--with"):
        refused(run(*asked, option, tmp_path / "card.json"), words)
    assert files_under(tmp_path / "out") == {}


@pytest.mark.parametrize(("typed", "labels"), [("flagged", "flagged"), ("all", "all"), ("3,7-8", (3, 7, 8))])
def test_labels_are_a_name_or_numbers(asked: list[object], ended: Ended, typed: str, labels: object) -> None:
    calls = ended(RepairStatus.FAILED)
    assert run(*asked, "--labels", typed).code == 3
    assert calls[0]["settings"].labels == labels


def test_a_picture_needs_its_target(asked: list[object], ended: Ended, tmp_path: Path, demo_files: Path) -> None:
    calls = ended(RepairStatus.REPAIRED)
    square = np.zeros((28, 28, 2), np.uint8)
    square[23:27, 23:27] = 255
    Image.fromarray(square, "LA").save(tmp_path / "square.png")
    refused(run(*asked, "--verify-trigger", tmp_path / "square.png"), "--verify-target")
    refused(run(*asked, "--verify-trigger", tmp_path / "square.png", "--verify-target", 10), "labels 0 to 9")
    (tmp_path / "text.png").write_text("no picture")
    refused(
        run(*asked, "--verify-trigger", tmp_path / "text.png", "--verify-target", 3),
        "neither a model card nor a picture",
    )
    refused(run(*asked, "--verify-target", 3), "none is given")
    assert calls == []
    assert run(*asked, "--verify-trigger", tmp_path / "square.png", "--verify-target", 3).code == 0
    (backdoor,) = calls[0]["verify"]
    assert backdoor.pair.target == 3 and backdoor.trigger.size().item() == 16
    assert backdoor.trigger.mask[0, 0, 23:27, 23:27].all()


def test_what_the_mitigation_works_with(asked: list[object], ended: Ended, demo_files: Path) -> None:
    calls = ended(RepairStatus.REPAIRED)
    for options in ([], ["--with", "clean"], ["--with", demo_files / "infected.card.json"], ["--ignore-labels"]):
        assert run(*asked, *options, "--overwrite").code == 0
    recovered, clean, card, bare = calls
    assert recovered["settings"].with_triggers is None and clean["settings"].with_triggers == ()
    assert [one.pair.target for one in card["settings"].with_triggers] == [3]
    assert bare["images"].labels is None and recovered["images"].labels is not None


@pytest.mark.parametrize(
    "options",
    [
        ("--max-drop", "nan"), ("--max-drop", "-0.1"), ("--max-drop", "1"), ("--max-asr", "nan"), ("--rounds", "0"),
        ("--seed", "-1"), ("--samples", "0"), ("--samples", "99"), ("--method", "magic"), ("--labels", "some"),
        ("--device", "nonsense"), ("--features", "0"), ("--resize", "20x20"), ("--architecture", "gtsrb_cnn"),
        ("--method", "prune", "--with", "clean"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_bad_options_end_in_one_message_and_leave_nothing(
    asked: list[object], tmp_path: Path, options: tuple[str, ...]
) -> None:
    refused(run(*asked, *options), "")
    assert files_under(tmp_path / "out") == {} and list((tmp_path / "out").iterdir()) == []
