"""A batch of models: found by content, named one to one, scanned by itself, kept when nothing changed."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_cleanse.cli.batch.models import ModelEntry, find, is_batch, name_of, run, settings_hash, write_summary
from neural_cleanse.engines import Engine, InProcess, J, Processes, R
from neural_cleanse.errors import ModelError, SettingsError, WorkerLost
from neural_cleanse.results import storage
from neural_cleanse.results.records import ScanResult


@pytest.fixture
def models(demo_files: Path, tmp_path: Path) -> Path:
    """A directory of two models, cards, images, a damaged model, and a Hugging Face directory below."""
    collection = tmp_path / "models"
    (collection / "sub" / "vit").mkdir(parents=True)
    for name in ("infected.safetensors", "infected.card.json", "digits.npz"):
        shutil.copy(demo_files / name, collection)
    shutil.copy(demo_files / "clean.safetensors", collection / "sub" / "model")  # told by content: it has no suffix
    (collection / "bad.onnx").write_text("no model")
    (collection / "readme.txt").write_text("models of ours")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(demo_files / "clean.safetensors", collection / "sub" / "vit" / name)
    return collection


class Scan:
    """Stands for a scan: answers with a recorded result, as the file's hash wants it, and counts."""

    def __init__(self, result: ScanResult, truncated: str = "") -> None:
        self.result, self.truncated, self.asked = result, truncated, list[str]()

    def __call__(self, model: ModelEntry) -> ScanResult:
        self.asked.append(model.name)
        if model.name == self.truncated:
            raise ModelError("broken\x1b[2J", cure="Mend it.")
        if model.name == "odd":
            raise ZeroDivisionError("by zero")
        return self.result


def grouped(directory: Path, *names: str) -> tuple[ModelEntry, ...]:
    """Files that hold what the recorded result was found on."""
    return tuple(ModelEntry(name, directory / name) for name in names)


@pytest.fixture
def copies(demo_files: Path, tmp_path: Path) -> tuple[ModelEntry, ...]:
    """Three copies of the infected model."""
    for name in ("a", "b", "c"):
        shutil.copy(demo_files / "infected.safetensors", tmp_path / name)
    return grouped(tmp_path, "a", "b", "c")


# --- which models ---


def test_models_are_found_by_content_and_what_looks_like_one_is_not_passed_over(models: Path) -> None:
    assert [model.name for model in find(models)] == [
        "bad.onnx",
        "infected.safetensors",
        "sub__model",
        "sub__vit",
    ]


def test_a_pattern_finds_what_it_names(models: Path) -> None:
    assert [model.name for model in find(models / "sub" / "*")] == ["model", "vit"]
    assert [model.name for model in find(models / "*" / "m*")] == ["sub__model"]
    with pytest.raises(SettingsError, match="no model in"):
        find(models / "*.txt")


def test_the_output_directory_is_not_scanned(models: Path) -> None:
    shutil.copytree(models / "sub", models / "out" / "infected.safetensors")
    assert {model.name for model in find(models, leave_out=models / "out")} == {
        model.name for model in find(models)
    } - {
        "out__infected.safetensors__model",
        "out__infected.safetensors__vit",
    }


def test_a_directory_of_models_is_a_batch_and_a_model_in_a_directory_is_not(models: Path) -> None:
    assert is_batch(models)
    assert is_batch(models / "*.onnx")
    assert not is_batch(models / "sub" / "vit")
    assert not is_batch(models / "bad.onnx")
    assert not is_batch(models / "absent.onnx")
    (models / "odd[1].onnx").touch()
    assert not is_batch(models / "odd[1].onnx"), "a file that is there is no pattern"


# --- names ---

part = st.text(st.sampled_from(["a", "B", ".", "_", "-", "é", " ", "\n", "0"]), min_size=1, max_size=6).filter(
    lambda text: text not in (".", "..")
)
places = st.lists(part, min_size=1, max_size=3).map(lambda parts: Path(*parts))


@given(places, places)
def test_names_are_safe_and_one_to_one(one: Path, other: Path) -> None:
    assert (name_of(one) == name_of(other)) == (one == other)
    assert re.fullmatch(r"[A-Za-z0-9+=@_][A-Za-z0-9+=@._-]*", name_of(one))


@pytest.mark.parametrize(
    ("place", "name"), [("x.onnx", "x.onnx"), ("x.keras", "x.keras"), ("id-1/model.pt", "id-1__model.pt")]
)
def test_an_ordinary_name_stays_as_it_is(place: str, name: str) -> None:
    assert name_of(Path(place)) == name


@pytest.mark.parametrize(
    "place", ["index.html", "summary.json", "a__b", "../x", "x" * 200, f"x-{'0' * 16}", "-x", ".x"]
)
def test_a_name_that_could_be_anothers_gets_a_hash(place: str) -> None:
    assert re.fullmatch(r".{1,100}-[0-9a-f]{16}", name_of(Path(place)))


# --- runs ---


def test_a_model_that_fails_is_a_row_and_stops_no_other(copies: tuple[ModelEntry, ...], found: ScanResult) -> None:
    rows = {row.name: row for row in run((*copies, ModelEntry("odd", Path("odd"))), Scan(found, "b"), InProcess())}
    assert {name: row.answer for name, row in rows.items()} == {
        "a": "infected",
        "b": "error",
        "c": "infected",
        "odd": "error",
    }
    assert rows["b"].error == "broken\x1b[2J. Mend it."
    assert rows["odd"].error == "ZeroDivisionError: by zero (a fault of neural-cleanse, please report it)"
    assert [label.target for label in rows["a"].flagged] == [3]


def test_only_what_changed_is_scanned_again(copies: tuple[ModelEntry, ...], found: ScanResult, tmp_path: Path) -> None:
    output, key = tmp_path / "out", settings_hash({"alpha": 0.01})
    first = Scan(found, "c")
    rows = list(run(copies, first, InProcess(), output=output, key=key, resume=True))
    assert (first.asked, [row.kept for row in rows]) == (["a", "b", "c"], [False] * 3)

    again = Scan(found)
    rows = list(run(copies, again, InProcess(), output=output, key=key, resume=True))
    assert again.asked == ["c"], "an error is tried again"
    assert {row.name: row.kept for row in rows} == {"a": True, "b": True, "c": False}

    with copies[0].path.open("ab") as file:
        file.write(b"\0")
    (output / "b" / storage.TENSOR_FILE).unlink()
    mended = Scan(found)
    list(run(copies, mended, InProcess(), output=output, key=key, resume=True))
    assert mended.asked == ["a", "b"], "another file, and a result that is not whole"

    other = Scan(found)
    list(run(copies, other, InProcess(), output=output, key=settings_hash({"alpha": 0.05}), resume=True))
    assert other.asked == ["a", "b", "c"]

    anew = Scan(found)
    list(run(copies, anew, InProcess(), output=output, key=settings_hash({"alpha": 0.05})))
    assert anew.asked == ["a", "b", "c"], "nobody asked to keep anything"


def test_a_written_model_is_as_if_scanned_alone(
    copies: tuple[ModelEntry, ...], found: ScanResult, tmp_path: Path
) -> None:
    list(run(copies[:1], Scan(found), InProcess(), output=tmp_path / "out"))
    assert storage.dumps(storage.load_result(tmp_path / "out" / "a")) == storage.dumps(found)
    assert (tmp_path / "out" / "a" / "report.html").is_file()


class Losing(Engine):
    """Loses its worker at model `b`, and once more whenever asked for it."""

    def map(self, function: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
        for job in jobs:
            if getattr(job, "name", None) == "b":
                raise WorkerLost("A worker process was killed.")
            yield function(job)


def test_a_model_that_kills_its_process_is_the_only_one_without_an_answer(
    copies: tuple[ModelEntry, ...], found: ScanResult
) -> None:
    scan = Scan(found)
    rows = {row.name: row for row in run(copies, scan, Losing())}
    assert {name: row.answer for name, row in rows.items()} == {"a": "infected", "b": "error", "c": "infected"}
    assert rows["b"].error == "A worker process was killed."
    assert scan.asked == ["a", "c"]


def kill_at_b(model: ModelEntry) -> ScanResult:
    if model.name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ModelError("alive")


def test_the_same_of_a_real_process() -> None:
    rows = {row.name: row.error for row in run(grouped(Path(), "a", "b", "c"), kill_at_b, Processes(1))}
    assert rows["a"] == rows["c"] == "alive"
    assert "killed" in str(rows["b"])


# --- the summary ---


def test_the_page_links_every_report_and_escapes_what_models_say(
    copies: tuple[ModelEntry, ...], found: ScanResult, tmp_path: Path
) -> None:
    hostile = ModelEntry("x-0123456789abcdef", Path("<script>\u202e.onnx"))
    output = tmp_path / "out"
    rows = list(run((*copies[:1], hostile), Scan(found, hostile.name), InProcess(), output=output))
    write_summary(rows, output, models=3, command="neural-cleanse scan '<b>'")
    page = (output / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'href="([^"]*)"', page)
    assert links == ["a/report.html"]
    assert all((output / link).is_file() for link in links)
    assert not {"<script", "<b>", "\u202e", "\x1b", "http"} & set(
        re.findall(r"<script|<b>|\u202e|\x1b|https?(?=:)", page)
    )
    assert "default-src 'none'" in page
    summary: dict[str, Any] = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    assert summary["finished"] is False
    assert summary["counts"] == {"infected": 1, "error": 1, "inconclusive": 0, "clean": 0}
    assert [model["verdict"] for model in summary["models"]] == ["infected", "error"]
    assert summary["models"][0]["flagged"][0]["target"] == 3
