"""Lists of labels beside flat pictures, in the forms that data sets come in; what is no such list labels nothing."""

import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from neural_cleanse.loading.images.load import load_data
from neural_cleanse.loading.images.names import numbered

NAMES = [f"p{number}" for number in range(6)]
WORDS = ["cat", "dog", "cat", "bird", "dog", "cat"]
NUMBERS = [1, 2, 1, 0, 2, 1]


def pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(NAMES):
        Image.new("RGB", (4, 4), (40 * number, 0, 0)).save(folder / f"{name}.png")


def lines(form: str, header: str = "", labels: list[str] | list[int] = WORDS) -> str:
    rows = [form.format(name=name, label=label) for name, label in zip(NAMES, labels, strict=True)]
    return "\n".join([*([header] if header else []), *rows]) + "\n"


def one_hot() -> str:
    cells = [["1.0" if word == one else "0.0" for one in ("dog", "cat", "bird")] for word in WORDS]
    rows = [",".join([name, *row]) for name, row in zip(NAMES, cells, strict=True)]
    return "\n".join(["image,dog,cat,bird", *rows])


FORMS = {
    "Kaggle, without endings": ("labels.csv", lines("{name},{label}", "id,breed")),
    "paths of another machine": ("train.csv", lines("/home/me/{name}.png,{label}", "filepath,label")),
    "Windows' paths": ("train.csv", lines("data\\{name}.png,{label}", "image_path,class")),
    "tabs and more columns, no header": ("val_annotations.txt", lines("{name}.png\t{label}\t0\t0\t9\t9")),
    "spaces, no header": ("val.txt", lines("images/{name}.png {label}")),
    "TSV": ("labels.tsv", lines("{name}.png\t{label}", "file\tcategory")),
    "JSON by name": ("labels.json", json.dumps(dict(zip([f"{name}.png" for name in NAMES], WORDS, strict=True)))),
    "JSON rows": ("a.json", json.dumps([{"file_name": f"{n}.png", "label": w} for n, w in zip(NAMES, WORDS)])),  # noqa: B905
    "one-hot": ("truth.csv", one_hot()),
}


@pytest.mark.parametrize("place", ["", "images"])
@pytest.mark.parametrize("form", FORMS)
def test_a_list_beside_the_pictures_says_their_labels(tmp_path: Path, form: str, place: str) -> None:
    name, text = FORMS[form]
    pictures(tmp_path / "val" / place if place else tmp_path / "val")
    (tmp_path / "val" / name).write_text(text, encoding="utf-8")
    found = load_data(tmp_path / "val")
    assert found.labels is not None and found.names is not None and f"labels from {name}" in found.origin
    by_red = dict(zip(found.images[:, 0, 0, 0].tolist(), found.labels.tolist(), strict=True))
    assert [found.names[by_red[40 * number]] for number in range(6)] == WORDS
    assert found.names == (("dog", "cat", "bird") if form == "one-hot" else ("bird", "cat", "dog"))


@pytest.mark.parametrize("ending", ["", ".0"])
def test_numbers_are_the_classes_themselves(tmp_path: Path, ending: str) -> None:
    pictures(tmp_path / "val")
    (tmp_path / "val" / "list.txt").write_text(lines("{name}.png {label}" + ending, labels=NUMBERS), encoding="utf-8")
    found = load_data(tmp_path / "val")
    assert found.names is None and found.labels is not None
    by_red = dict(zip(found.images[:, 0, 0, 0].tolist(), found.labels.tolist(), strict=True))
    assert torch.tensor([by_red[40 * number] for number in range(6)]).tolist() == NUMBERS


OTHERS = {
    "captions, each once": lines("{name}.png,a picture of {name}", "file,text"),
    "scores": lines("{name}.png,0.5", "file,score"),
    "one picture left out": "\n".join(lines("{name}.png {label}").splitlines()[1:]),
    "two labels of one picture": lines("{name}.png,{label}", "file,label") + "p0.png,bird\n",
    "two of one-hot": one_hot().replace("1.0,0.0,0.0", "1.0,1.0,0.0"),
    "two columns of one name": one_hot().replace("dog,cat", "dog,dog"),
    "numbers below 0": lines("{name}.png,{label}", "file,label", [-1, 0, 1, -1, 0, 1]),
    "no numbers": lines("{name}.png,nan", "file,label"),
    "fractions": lines("{name}.png,{label}", "file,label", [0.5, 1.5, 0.5, 1.5, 0.5, 1.5]),
    "JSON without a label": json.dumps([{"file": f"{name}.png", "label": None} for name in NAMES]),
    "JSON with lists": json.dumps([{"file": f"{name}.png", "label": [1]} for name in NAMES]),
    "names alone": lines("{name}.png"),
    "words": "These are pictures of animals.\nThey are free.\n",
    "nothing": "",
}


@pytest.mark.parametrize("name", ["notes.csv", "notes.txt", "notes.json"])
@pytest.mark.parametrize("other", OTHERS)
def test_what_lists_no_classes_labels_nothing(tmp_path: Path, other: str, name: str) -> None:
    pictures(tmp_path / "val")
    (tmp_path / "val" / name).write_text(OTHERS[other], encoding="utf-8")
    found = load_data(tmp_path / "val")
    assert found.labels is None and len(found) == 6


def test_two_lists_that_both_fit_label_nothing(tmp_path: Path) -> None:
    pictures(tmp_path / "val")
    (tmp_path / "val" / "a.csv").write_text(lines("{name}.png,{label}", "file,label"), encoding="utf-8")
    (tmp_path / "val" / "b.txt").write_text(lines("{name}.png {label}"), encoding="utf-8")
    assert load_data(tmp_path / "val").labels is None


def test_a_pipe_named_as_a_list_is_not_waited_for(tmp_path: Path) -> None:
    pictures(tmp_path / "val")
    os.mkfifo(tmp_path / "val" / "labels.csv")
    assert load_data(tmp_path / "val").labels is None


def test_a_label_of_thousands_of_digits_is_a_word() -> None:
    """Python refuses to read so long a number."""
    long = "9" * 5000
    assert numbered([long, "1", long], None) == ([1, 0, 1], ("1", long))


def test_a_folder_of_an_archive_with_a_name_of_thousands_of_digits_is_no_class(tmp_path: Path) -> None:
    pictures(tmp_path / "val")
    with zipfile.ZipFile(tmp_path / "val.zip", "w") as archive:
        for number, name in enumerate(NAMES):
            archive.write(tmp_path / "val" / f"{name}.png", f"{number % 2}/{name}.png")
        archive.write(tmp_path / "val" / "p0.png", "9" * 5000 + "/p0.png")
    found = load_data(tmp_path / "val.zip")
    assert found.labels is not None and sorted(found.labels.tolist()) == [0, 0, 0, 1, 1, 1]
