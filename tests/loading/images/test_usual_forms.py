"""Images as hubs, libraries and people hand them out: other names, other nesting, other orders of classes."""

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.class_order import in_fitting_order
from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images.load import load_data


def pixels(seed: int, channels: int = 3) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (6, 5, channels), dtype=np.uint8)


def encoded(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(seed)).save(stream, "PNG")
    return stream.getvalue()


def put(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(seed))


def labels_of(data: ImageSet) -> list[int]:
    assert data.labels is not None
    return data.labels.tolist()


# --- folders ---


def test_an_empty_class_folder_keeps_its_number_and_deeper_pictures_are_found(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png", 1)
    (tmp_path / "b").mkdir()
    put(tmp_path / "c" / "more" / "deeper" / "1.png", 2)
    put(tmp_path / "c" / "0.png", 3)
    data = load_data(tmp_path)
    assert data.names == ("a", "b", "c") and labels_of(data) == [0, 2, 2]


def test_hidden_folders_and_files_and_what_systems_leave_are_no_classes(tmp_path: Path) -> None:
    for place in ("a/1.png", "b/1.png", ".ipynb_checkpoints/1.png", "__MACOSX/1.png", "a/.thumbs/1.png", "b/._1.png"):
        put(tmp_path / place, 1)
    data = load_data(tmp_path)
    assert data.names == ("a", "b") and labels_of(data) == [0, 1]


@pytest.mark.parametrize("above", ["test", "data/images", "dataset/validation", "Train"])
def test_class_folders_may_lie_below_other_folders(tmp_path: Path, above: str) -> None:
    for label in range(3):
        put(tmp_path / above / f"c{label}" / "1.png", label)
    data = load_data(tmp_path)
    assert data.names == ("c0", "c1", "c2") and labels_of(data) == [0, 1, 2]
    assert above in data.origin


def test_of_several_parts_of_a_data_set_the_test_part_is_read(tmp_path: Path) -> None:
    for part, seed in (("train", 1), ("test", 5)):
        for label in range(2):
            put(tmp_path / part / f"c{label}" / "1.png", seed + label)
    data = load_data(tmp_path)
    assert np.array_equal(data.images[0].numpy(), pixels(5).transpose(2, 0, 1))
    assert str(tmp_path / "test") in data.origin


def test_a_class_folder_may_be_a_link(tmp_path: Path) -> None:
    put(tmp_path / "store" / "1.png", 1)
    put(tmp_path / "data" / "a" / "1.png", 2)
    (tmp_path / "data" / "b").symlink_to(tmp_path / "store")
    assert labels_of(load_data(tmp_path / "data")) == [0, 1]


def test_a_zip_of_pictures_is_read_as_if_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for name, seed in (("set/b/1.png", 1), ("set/a/1.png", 2), ("__MACOSX/set/a/._1.png", 3), ("set/c/", 0)):
            archive.writestr(name, b"" if name.endswith("/") else encoded(seed))
    data = load_data(tmp_path / "d.zip")
    assert data.names == ("a", "b", "c") and labels_of(data) == [0, 1] and data.files is None
    assert np.array_equal(data.images[0].numpy(), pixels(2).transpose(2, 0, 1))


# --- arrays and parquet ---


@pytest.mark.parametrize(
    "arrays",
    [
        {"x_train": [9], "y_train": [9], "x_test": [1, 2], "y_test": [1, 0]},
        {"X_test": [1, 2], "Y_test": [[1], [0]]},
        {"train_images": [9], "test_images": [1, 2], "test_labels": [[1], [0]]},
        {"x": [1, 2], "y": [[0, 1], [1, 0]]},
        {"data": [1, 2], "labels": [1, 0]},
        {"arr_0": [1, 2], "arr_1": [1, 0]},
        {"images": [1, 2], "labels": [[0.0, 1.0], [1.0, 0.0]]},
    ],
)
def test_usual_names_of_arrays_and_shapes_of_labels(tmp_path: Path, arrays: dict[str, Any]) -> None:
    first = next(name for name, seeds in arrays.items() if seeds == [1, 2])
    stored = {
        name: np.stack([pixels(seed) for seed in value]) if name == first or value == [9] else np.array(value)
        for name, value in arrays.items()
    }
    np.savez(tmp_path / "d.npz", **stored)
    data = load_data(tmp_path / "d.npz")
    assert labels_of(data) == [1, 0]
    assert np.array_equal(data.images[1].numpy(), pixels(2).transpose(2, 0, 1))


def test_an_npy_array_takes_the_labels_beside_it(tmp_path: Path) -> None:
    np.save(tmp_path / "x_test.npy", np.stack([pixels(1), pixels(2)]))
    assert load_data(tmp_path / "x_test.npy").labels is None
    np.save(tmp_path / "y_test.npy", np.array([[1], [0]]))
    assert labels_of(load_data(tmp_path / "x_test.npy")) == [1, 0]
    assert load_data(tmp_path / "x_test.npy", ignore_labels=True).labels is None
    (tmp_path / "y_test.npy").write_bytes(np.array([1], dtype=object).dumps())
    with pytest.raises(DataError, match="y_test"):
        load_data(tmp_path / "x_test.npy")


@pytest.mark.parametrize("channels", [2, 4, 5, 10])
def test_any_number_of_channels(tmp_path: Path, channels: int) -> None:
    images = np.stack([np.random.default_rng(i).integers(0, 256, (20, 20, channels), dtype=np.uint8) for i in (0, 1)])
    for stored in (images, images.transpose(0, 3, 1, 2)):
        np.savez(tmp_path / "d.npz", images=stored)
        assert np.array_equal(load_data(tmp_path / "d.npz").images.numpy(), images.transpose(0, 3, 1, 2))


def test_flat_rows_of_a_square_are_pictures(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x_test=images.reshape(3, 784), y_test=[0, 1, 2])
    assert np.array_equal(load_data(tmp_path / "d.npz").images[:, 0].numpy(), images)


@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "labels"), ("img", "fine_label")])
def test_usual_columns_and_their_names(tmp_path: Path, image: str, label: str) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    features = {label: {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pa.table({image: [{"bytes": encoded(seed), "path": None} for seed in (1, 2)], label: [1, 0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    place = tmp_path / "plain_text"
    place.mkdir()
    for part in ("train", "test"):
        parquet.write_table(table if part == "test" else table.slice(1), place / f"{part}-00000-of-00001.parquet")
    data = load_data(tmp_path)
    assert labels_of(data) == [1, 0] and data.names == ("cat", "dog")


# --- the order of classes ---


class Brightness(nn.Module):
    """Answers the class of an image by its brightness, as numbered in `order`."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor(order))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = images.mean((1, 2, 3), keepdim=False)[:, None] * 10
        return -((level - torch.arange(len(self.order))[self.order.argsort()]) ** 2)


def bright_folders(path: Path, names: list[str], each: int = 4) -> None:
    """The class at position i has brightness i / 10."""
    for level, name in enumerate(names):
        (path / name).mkdir(parents=True)
        for number in range(each):
            image = np.full((4, 4, 3), round(level * 25.5), dtype=np.uint8)
            image[0, 0, 0] = number
            Image.fromarray(image).save(path / name / f"{number}.png")


@pytest.mark.parametrize(
    ("names", "trained"),
    [
        (["c1", "c2", "c10"], ["c1", "c2", "c10"]),  # natural
        (["c1", "c2", "c10"], ["c1", "c10", "c2"]),  # plain
        (["1", "2", "3"], ["1", "2", "3"]),  # from one
        (["0", "1", "2", "10"], ["0", "1", "10", "2"]),  # numbers in plain order
        (["a", "b", "z"], ["a", "b", "z"]),
    ],
)
def test_the_order_that_the_model_was_trained_with_is_found(
    tmp_path: Path, names: list[str], trained: list[str]
) -> None:
    bright_folders(tmp_path, names)
    model = Brightness([trained.index(name) for name in names])
    classifier = Classifier(model, (3, 4, 4), len(names))
    data, said = in_fitting_order(classifier, load_data(tmp_path), 0)
    assert data.names == tuple(trained)
    assert torch.equal(classifier(data.images.float() / 255).argmax(1), data.labels)
    assert (said is None) == (load_data(tmp_path).names == data.names)


def test_a_model_that_fits_no_order_better_changes_nothing(tmp_path: Path) -> None:
    bright_folders(tmp_path, ["c1", "c2", "c10"])
    data = load_data(tmp_path)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    nn.init.zeros_(model[1].weight)  # one answer for all images: a random network may fit some order by chance
    same, said = in_fitting_order(Classifier(model, (3, 4, 4), 3), data, 0)
    assert said is None and same is data


def test_grey_images_change_their_channels_and_coloured_ones_do_not() -> None:
    grey = ImageSet(torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8))
    three = grey.in_channels(3)
    assert three is not None and three.shape == (3, 4, 4)
    back = three.in_channels(1)
    assert back is not None and torch.equal(back.images, grey.images)
    assert ImageSet(torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)).in_channels(1) is None


@pytest.mark.parametrize("suffix", [".webp", ".jpg", ".png"])
def test_grey_pictures_stay_grey_through_lossy_compression(tmp_path: Path, suffix: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (12, 32, 32), dtype=np.uint8)
    for number, value in enumerate(values):
        Image.fromarray(value).convert("RGB").save(tmp_path / f"{number:02}{suffix}")
    read = load_data(tmp_path)
    grey = read.in_channels(1)
    assert read.shape == (3, 32, 32)
    assert grey is not None and grey.shape == (1, 32, 32)
    assert (grey.images.int() - read.images.int()).abs().max() <= 2


def test_a_tint_is_a_colour() -> None:
    tinted = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    tinted[1, 2, 3, 3] = 103
    assert ImageSet(tinted).in_channels(1) is None


WORDS = ["dog", "cat", "dog", "owl"]


def test_labels_in_words_are_numbered_in_plain_order(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    np.savez(tmp_path / "words.npz", images=np.stack([pixels(seed) for seed in range(4)]), labels=np.array(WORDS))
    content = [{"bytes": encoded(seed), "path": None} for seed in range(4)]
    pq.write_table(pa.table({"image": content, "label": WORDS}), tmp_path / "words.parquet")
    for name in ("words.npz", "words.parquet"):
        data = load_data(tmp_path / name)
        assert labels_of(data) == [1, 0, 1, 2]
        assert data.names == ("cat", "dog", "owl")


def test_labels_in_words_follow_the_names_beside_them(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "m.npz",
        images=np.zeros((4, 5, 5), np.uint8),
        labels=np.array(WORDS),
        names=np.array(["owl", "dog", "cow", "cat"]),
    )
    data = load_data(tmp_path / "m.npz")
    assert labels_of(data) == [1, 3, 1, 0]
    assert data.names == ("owl", "dog", "cow", "cat")


def test_labels_are_found_under_any_usual_name_beside_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", data=np.zeros((4, 64), np.uint8), target=np.array([3, 1, 0, 2]))
    assert labels_of(load_data(tmp_path / "m.npz")) == [3, 1, 0, 2]


def test_a_damaged_header_of_an_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.zeros((20, 8, 8), np.uint8))
    content = (tmp_path / "d.npy").read_bytes()
    (tmp_path / "d.npy").write_bytes(content.replace(b"(20, ", b"\xff\xff\xff\x7f ", 1))
    with pytest.raises(DataError, match="cannot be read as an"):
        load_data(tmp_path / "d.npy")


@pytest.mark.parametrize("word", [b"a column", b"its path"])
def test_words_that_are_no_text_in_parquet_are_a_fault_of_the_file(tmp_path: Path, word: bytes) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    content = [{"bytes": encoded(seed), "path": "its path"} for seed in range(4)]
    table = pa.table({"image": content, "label": [0, 1, 0, 1], "a column": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "d.parquet", compression="none", store_schema=False)
    damaged = (tmp_path / "d.parquet").read_bytes().replace(word, b"\xff" + word[1:])
    (tmp_path / "d.parquet").write_bytes(damaged)
    with pytest.raises(DataError, match="cannot be read as"):
        load_data(tmp_path / "d.parquet")


# --- tar archives ---


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("above", ["", "./", "./data/val/"])
def test_a_tar_of_pictures_is_read_as_if_unpacked(tmp_path: Path, mode: Any, above: str) -> None:
    with tarfile.open(tmp_path / "data.tar", mode) as archive:
        for name, seed in (("b/2.png", 2), ("a/10.png", 1), ("a/9.png", 0), ("a/._9.png", 9), ("__MACOSX/a/1.png", 9)):
            member = tarfile.TarInfo(above + name)
            member.size = len(encoded(seed))
            archive.addfile(member, io.BytesIO(encoded(seed)))
    data = load_data(tmp_path / "data.tar")
    assert data.names == ("a", "b") and labels_of(data) == [0, 0, 1]
    assert all(np.array_equal(data.images[row].numpy(), pixels(row).transpose(2, 0, 1)) for row in range(3))


def test_a_tar_that_is_damaged_or_without_pictures_ends_in_one_message(tmp_path: Path) -> None:
    path = tmp_path / "data.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("a/1.png")
        member.size = 100_000
        archive.addfile(member, io.BytesIO(np.random.default_rng(0).bytes(100_000)))
    whole = path.read_bytes()
    path.write_bytes(whole[:50_000])
    with pytest.raises(DataError):
        load_data(path)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("readme.txt"))
    with pytest.raises(DataError, match="holds no pictures"):
        load_data(path)
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("a/1.png")
        member.size = 2**60
        archive.fileobj.write(member.tobuf())  # type: ignore[union-attr]
    with pytest.raises(DataError, match="unpacks to more"):
        load_data(path)


# --- lists of labels ---


@pytest.mark.parametrize(
    ("header", "rows", "names", "labels"),
    [
        ("Filename;Width;Roi.X1;ClassId", "00000.png;9;1;16\n00001.png;9;1;1\n00002.png;9;1;38\n", None, [16, 1, 38]),
        ("id,label", "0,frog\n1,cat\n2,frog\n7,dog\n", ("cat", "frog"), [1, 0, 1]),
        ("path,class", "train\\2.png,1\ntrain\\0.png,0\ntrain\\1.png,5\n", None, [0, 5, 1]),
    ],
)
def test_flat_pictures_take_the_labels_of_a_list_beside_them(
    tmp_path: Path, header: str, rows: str, names: Any, labels: list[int]
) -> None:
    width = 5 if "00000" in rows else 1
    for number in range(3):
        put(tmp_path / "images" / f"{number:0{width}}.png", number)
    (tmp_path / "list.csv").write_text(f"{header}\n{rows}")
    data = load_data(tmp_path)
    assert (data.names, labels_of(data)) == (names, labels) and "labels from list.csv" in data.origin
    assert load_data(tmp_path, ignore_labels=True).labels is None


@pytest.mark.parametrize(
    "rows", ["0.png,1\n", "0.png,1\n1.png,\n", "0.png,1\n1.png,2\n0.png,3\n", "0.png\n1.png\n", "", "\0"]
)
def test_a_list_that_does_not_say_every_label_once_is_not_used(tmp_path: Path, rows: str) -> None:
    for number in range(2):
        put(tmp_path / f"{number}.png", number)
    (tmp_path / "list.csv").write_text(f"file,label\n{rows}")
    assert load_data(tmp_path).labels is None


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.bool_])
def test_whole_numbers_0_and_1_are_black_and_white(tmp_path: Path, kind: type) -> None:
    np.savez(tmp_path / "ink.npz", images=np.stack([np.eye(4), 1 - np.eye(4)]).astype(kind), labels=np.arange(2))
    found = load_data(tmp_path / "ink.npz")
    assert found.images.unique().tolist() == [0, 255] and "black and white" in found.origin
