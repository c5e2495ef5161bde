"""`neural-cleanse zoo` as a script sees it. (A second tests/**/test_zoo.py would be one module too many for pytest.)"""

import json
import re
from pathlib import Path

import pytest
from shell import files_under, one_message, run

from neural_cleanse.evaluation import zoo

FAMILY = '[[family]]\ndataset = "digits"\narchitecture = "mnist_cnn_half"\nepochs = 1\n'


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(FAMILY + 'attack = ["none", "badnets"]\n')
    return path


def test_list_prints_parts_and_names_and_builds_nothing(spec: Path, tmp_path: Path) -> None:
    ran = run("zoo", "build", spec, "--data", tmp_path / "absent", "--output", tmp_path / "zoo", "--list")
    assert (ran.code, ran.err) == (0, "")
    names = [f"digits-mnist_cnn_half-{attack}-seed0" for attack in ("none", "badnets")]
    assert [line.split() for line in ran.out.splitlines()] == [[zoo.part_of(name), name] for name in names]
    assert not (tmp_path / "zoo").exists()


def test_a_zoo_is_built_completed_and_tabulated(
    spec: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURAL_CLEANSE_DATA", str(data_root))
    output = tmp_path / "zoo"
    command = ("zoo", "build", spec, "--output", output, "--workers", 1)
    ran = run(*command)
    assert (ran.code, ran.out) == (0, ""), ran.err
    assert "2 models, 2 to build" in ran.err
    assert re.search(r"2 of 2  digits-mnist_cnn_half-\w+-seed0: accuracy [\d.]+%", ran.err)
    files = files_under(output)
    assert set(files) == {
        f"digits-mnist_cnn_half-{attack}-seed0.{kind}"
        for attack in ("none", "badnets")
        for kind in ("safetensors", "card.json")
    }
    again = run(*command)
    assert again.code == 0
    assert "2 models, 0 to build" in again.err
    assert files_under(output) == files

    table = run("zoo", "table", output)
    assert (table.code, table.err) == (0, "")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.out.splitlines()]
    assert {len(row) for row in rows} == {8}
    assert [row[:4] for row in rows[2:]] == [
        ["digits", "mnist_cnn_half", "badnets", "1"],
        ["digits", "mnist_cnn_half", "none", "1"],
    ]
    card = json.loads(files["digits-mnist_cnn_half-badnets-seed0.card.json"])
    assert rows[2][5] == f"{100 * card['clean_accuracy']:.2f}"

    spec.write_text(FAMILY.replace("epochs = 1", "epochs = 2") + 'attack = ["none", "noise"]\n')
    other = run(*command)
    assert other.code == 2
    assert one_message(other) and "otherwise" in other.err
    assert files_under(output) == files


def test_a_model_that_fails_is_named_and_the_others_are_built(spec: Path, data_root: Path, tmp_path: Path) -> None:
    spec.write_text(FAMILY + 'attack = "badnets"\nsize = [99, 4]\n')
    output = tmp_path / "zoo"
    ran = run("zoo", "build", spec, "--data", data_root, "--output", output, "--workers", 1)
    assert (ran.code, ran.out) == (2, "")
    assert re.search(r"of 2  digits-mnist_cnn_half-badnets-size99-seed0: .*does not fit", ran.err)
    assert one_message(ran) and "1 of 2 models were not built" in ran.err
    assert set(files_under(output)) == {
        f"digits-mnist_cnn_half-badnets-size4-seed0.{kind}" for kind in ("safetensors", "card.json")
    }


BAD_COMMANDS: dict[str, tuple[object, ...]] = {
    "no spec": ("absent.toml",),
    "a directory for a spec": (".",),
    "no workers": ("SPEC", "--workers", 0),
    "device": ("SPEC", "--device", "nonsense"),
    "no such option": ("SPEC", "--best"),
}


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_bad_commands_end_in_one_message_and_leave_nothing(spec: Path, tmp_path: Path, case: str) -> None:
    words = [spec if word == "SPEC" else word for word in BAD_COMMANDS[case]]
    ran = run("zoo", "build", *words, "--data", tmp_path, "--output", tmp_path / "zoo")
    assert (ran.code, ran.out) == (2, "")
    assert one_message(ran), ran.err
    assert list(tmp_path.iterdir()) == [spec]


@pytest.mark.parametrize(
    "text",
    ["[[family", "[other]\n", FAMILY, FAMILY + 'attack = "best"\n', FAMILY + 'attack = "badnets"\nseed = "x"\n'],
)
def test_bad_specs_end_in_one_message_and_leave_nothing(spec: Path, tmp_path: Path, text: str) -> None:
    spec.write_text(text)
    for options in ((), ("--list",)):
        ran = run("zoo", "build", spec, "--data", tmp_path, "--output", tmp_path / "zoo", *options)
        assert (ran.code, ran.out) == (2, "")
        assert one_message(ran), ran.err
        assert list(tmp_path.iterdir()) == [spec]


def test_data_and_output_are_needed(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEURAL_CLEANSE_DATA", raising=False)
    assert run("zoo", "build", spec, "--output", tmp_path / "zoo").code == 2
    assert run("zoo", "build", spec, "--data", tmp_path).code == 2


def test_an_output_that_is_a_file_is_told(spec: Path, data_root: Path) -> None:
    text = spec.read_text()
    ran = run("zoo", "build", spec, "--data", data_root, "--output", spec)
    assert ran.code == 2
    assert one_message(ran) and "cannot be made" in ran.err
    assert spec.read_text() == text


@pytest.mark.parametrize("content", [None, "no JSON", '{"attack": "badnets"}'])
def test_a_table_of_what_is_no_card_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "m.card.json").write_text(content)
    ran = run("zoo", "table", tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert one_message(ran), ran.err
