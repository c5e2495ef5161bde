"""The benchmark on the demo's two models: rows once, resumed, honest about what could not be scanned."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from shell import run

from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.engines import InProcess
from neural_cleanse.errors import OutputError
from neural_cleanse.evaluation import suite as module
from neural_cleanse.evaluation.cards import read_card, read_cards
from neural_cleanse.evaluation.suite import Case, read_rows, read_suite, rows_of, scan_case
from neural_cleanse.evaluation.suite import run as run_suite

ROOT = Path(__file__).parents[2]
QUICK = ScanSettings(patches_only=True, restarts=1, samples=300)
KEYS = {
    "model", "part", "settings", "truth", "verdict", "flagged", "p_value", "alpha", "detection_limit", "paper_index",
    "paper_flagged", "labels", "sizes", "log_size_sd", "asr", "image_passes", "wall_s", "reason", "tests",
    "model_sha256",
    "hardware", "device", "threads", "torch", "commit",
}  # fmt: skip


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """(cards and models, data): the demo's two models, and its digits under the name of their data set."""
    root = tmp_path_factory.mktemp("suite")
    demo = ROOT / "src" / "neural_cleanse" / "demo"
    (root / "cards").mkdir()
    for path in [*demo.glob("*.card.json"), *demo.glob("*.safetensors")]:
        shutil.copy(path, root / "cards")
    (root / "data" / "mnist").mkdir(parents=True)
    shutil.copy(demo / "digits.npz", root / "data" / "mnist" / "test.npz")
    yield root / "cards", root / "data"


@pytest.fixture(scope="module")
def rows(suite: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of both models."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    list(run_suite(read_suite(*suite), QUICK, path, InProcess()))
    return path


def remembered(case: Case, *, rows: Path, settings: ScanSettings) -> dict[str, Any]:
    """Stands for scanning a model again: the row that it has in `rows`."""
    return next(row for row in rows_of(rows, settings) if row["model"] == case.name)


def test_a_row_holds_truth_answer_cost_and_surroundings(rows: Path) -> None:
    read = {row["model"]: row for row in read_rows(rows)}
    assert set(read) == {"clean", "infected"}
    for row in read.values():
        assert set(row) == KEYS
        assert len(row["sizes"]) == len(row["labels"]) == 10
        assert row["image_passes"] > 0
    assert read["infected"]["truth"]["targets"] == read["infected"]["flagged"] == [3]
    assert not read["clean"]["flagged"]


def test_rows_from_before_a_setting_are_those_of_its_default(rows: Path, tmp_path: Path) -> None:
    known = [json.loads(line) for line in rows.read_text().splitlines()]
    settings = ScanSettings(**{name: value for name, value in known[0]["settings"].items() if name != "labels"})
    for row in known:
        del row["settings"]["plan"]
    older = tmp_path / "older.jsonl"
    older.write_text("".join(json.dumps(row) + "\n" for row in known))
    assert len(rows_of(older, settings)) == len(rows_of(rows, settings)) > 0
    assert rows_of(older, ScanSettings(**{**vars(settings), "plan": "full"})) == ()


def test_what_is_there_is_not_scanned_again(suite: tuple[Path, Path], rows: Path) -> None:
    before = rows.read_bytes()
    assert list(run_suite(read_suite(*suite), QUICK, rows, InProcess())) == []
    assert rows.read_bytes() == before
    assert rows_of(rows, ScanSettings(patches_only=True, restarts=2)) == ()


def test_the_same_scan_gives_the_same_row(suite: tuple[Path, Path], rows: Path) -> None:
    case = next(case for case in read_suite(*suite) if case.name == "infected")
    known = next(row for row in read_rows(rows) if row["model"] == "infected")
    again = scan_case(case, settings=QUICK)
    assert all(again[key] == known[key] for key in again if key != "wall_s")


def test_a_model_that_cannot_be_scanned_is_a_row_with_its_error(suite: tuple[Path, Path], tmp_path: Path) -> None:
    cards = tmp_path / "cards"
    shutil.copytree(suite[0], cards)
    (cards / "clean.safetensors").write_bytes(b"no model")
    broken = next(case for case in read_suite(cards, suite[1]) if case.name == "clean")
    assert "no model" not in scan_case(broken, settings=QUICK)["error"]
    assert "clean.safetensors" in scan_case(broken, settings=QUICK)["error"]


def test_missing_pieces_are_named(suite: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no model card"):
        read_suite(tmp_path, suite[1])
    with pytest.raises(OutputError, match=r"no test images .*mnist"):
        read_suite(suite[0], tmp_path)
    with pytest.raises(OutputError, match="is not there"):
        read_suite(suite[0], suite[1], models=tmp_path)


def test_damaged_rows_are_refused_not_overwritten(tmp_path: Path) -> None:
    damaged = tmp_path / "rows.jsonl"
    damaged.write_text('{"model": "a", "settings": {}}\n{"model": "a", "settings"\n')
    with pytest.raises(OutputError, match=r"Line 2 of .* is damaged"):
        read_rows(damaged)
    assert read_rows(tmp_path / "none.jsonl") == ()


def test_a_torn_last_line_is_scanned_again(
    suite: tuple[Path, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "scan_case", partial(remembered, rows=rows))
    torn = tmp_path / "rows.jsonl"
    torn.write_bytes(rows.read_bytes()[:-50])
    assert len(read_rows(torn)) == 1
    assert len(list(run_suite(read_suite(*suite), QUICK, torn, InProcess()))) == 1
    assert {row["model"] for row in read_rows(torn)} == {"clean", "infected"}


def test_errors_and_changed_models_are_scanned_again(
    suite: tuple[Path, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "scan_case", partial(remembered, rows=rows))
    known = {row["model"]: row for row in read_rows(rows)}
    failed = {key: known["clean"][key] for key in ("model", "part", "settings", "truth")} | {"error": "damaged"}
    stale = known["infected"] | {"model_sha256": "of another file"}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (failed, stale)))
    assert len(list(run_suite(read_suite(*suite), QUICK, path, InProcess()))) == 2
    assert {row["model"]: row.get("error") for row in read_rows(path)} == {"clean": None, "infected": None}
    assert len(path.read_text().splitlines()) == 4


def test_rows_that_cannot_be_written_are_refused_before_a_scan(suite: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        next(run_suite(read_suite(*suite), QUICK, tmp_path / "nowhere" / "rows.jsonl", InProcess()))


def test_two_models_of_one_name_are_refused(suite: tuple[Path, Path], tmp_path: Path) -> None:
    for folder in ("a", "b"):
        shutil.copytree(suite[0], tmp_path / folder)
    with pytest.raises(OutputError, match="Two cards"):
        read_suite(tmp_path, suite[1])


def test_two_lines_of_one_name_are_refused(suite: tuple[Path, Path], lines: Path) -> None:
    lines.write_text(lines.read_text() * 2)
    with pytest.raises(OutputError, match="Two cards"):
        read_suite(lines, suite[1], models=suite[0])


def test_the_command_prints_tables_and_writes_the_page(suite: tuple[Path, Path], rows: Path, tmp_path: Path) -> None:
    """It scans the one model that the rows lack, in a process of its own."""
    page, some = tmp_path / "page.html", tmp_path / "rows.jsonl"
    whole = rows.read_text()
    some.write_text("".join(line for line in whole.splitlines(True) if json.loads(line)["model"] == "infected"))
    arguments = ("--data", suite[1], "--rows", some, "--restarts", 1, "--samples", 300, "--html", page)
    ran = run("benchmark", suite[0], *arguments, "--patches-only", "--workers", 1)
    assert ran.code == 0 and ran.err.splitlines()[0].startswith("1  clean: clean []") and "2  " not in ran.err
    scanned = {row["model"]: row["sizes"] for row in read_rows(some)}
    assert scanned == {row["model"]: row["sizes"] for row in read_rows(rows)}
    assert "2 models, 1 of them clean" in ran.out
    text = page.read_text(encoding="utf-8")
    assert text.count("<circle") == 2
    assert "<script" not in text
    nothing = run("benchmark", tmp_path / "nowhere", "--data", suite[1], "--rows", rows)
    assert (nothing.code, nothing.out) == (2, "")


@pytest.fixture
def lines(suite: tuple[Path, Path], tmp_path: Path) -> Path:
    """The same cards as one file of JSON lines, in a directory without models."""
    path = tmp_path / "elsewhere" / "suite.jsonl"
    path.parent.mkdir()
    cards = [read_card(card) | {"name": card.name.split(".")[0]} for card in sorted(suite[0].glob("*.card.json"))]
    path.write_text("".join(json.dumps(card) + "\n" for card in cards))
    return path


def test_cards_in_one_file_make_the_same_suite(suite: tuple[Path, Path], lines: Path) -> None:
    beside, elsewhere = read_suite(*suite), read_suite(lines, suite[1], models=suite[0])
    key = [(case.name, case.model, case.images) for case in beside]
    assert [(case.name, case.model, case.images) for case in elsewhere] == key
    with pytest.raises(OutputError, match=r"card clean is not there.*--models"):
        read_suite(lines, suite[1])


def test_code_is_looked_for_beside_the_cards_and_then_among_the_models(suite: tuple[Path, Path], lines: Path) -> None:
    (card, *_) = (json.loads(line) for line in lines.read_text().splitlines())
    card["scan"] = {"file": "clean.safetensors", "architecture": "nets.py:network"}
    lines.write_text(json.dumps(card) + "\n")
    models = lines.parent.parent / "models"
    shutil.copytree(suite[0], models)
    (models / "nets.py").write_text("")
    (case,) = read_suite(lines, suite[1], models=models)
    assert case.architecture == f"{models / 'nets.py'}:network"
    (lines.parent / "nets.py").write_text("")
    (case,) = read_suite(lines, suite[1], models=models)
    assert case.architecture == f"{lines.parent / 'nets.py'}:network"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.jsonl")), ids=lambda path: path.stem)
def test_the_cards_of_other_people_s_models_are_complete(path: Path) -> None:
    cards = read_cards(path)
    for card in cards:
        truth = card.truth
        assert all(0 <= target < truth["num_classes"] for target in truth["targets"])
        assert truth["infected"] == bool(truth["targets"])
        assert truth["source"]
        assert not card.file.is_absolute()
    assert len(cards) >= 7


def test_recorded_models_need_not_be_there(rows: Path, lines: Path, tmp_path: Path) -> None:
    """So that whoever has the rows alone can tabulate them."""
    names = {row["model"] for row in rows_of(rows, QUICK)}
    cases = read_suite(lines, tmp_path, models=tmp_path, recorded=names)
    assert {case.name for case in cases} == names and list(run_suite(cases, QUICK, rows, InProcess())) == []
    with pytest.raises(OutputError, match="clean is not there"):
        read_suite(lines, tmp_path, models=tmp_path, recorded=names - {"clean"})
