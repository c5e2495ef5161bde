"""Training, validation and test images: disjoint, the same every time, and of one kind."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images.splits import load_parts

# 3 classes; image number n is all of one value, and no two are the same.
Pictures = tuple[list[int], list[int]]
TRAIN: Pictures = (list(range(60)), [n % 3 for n in range(60)])
TEST: Pictures = (list(range(100, 130)), [n % 3 for n in range(30)])


def pixels(value: int, height: int = 4, width: int = 5) -> np.ndarray:
    return np.full((height, width), value, dtype=np.uint8)


def encoded(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(value)).save(stream, "PNG")
    return stream.getvalue()


def write_npz(path: Path, pictures: Pictures) -> None:
    values, labels = pictures
    np.savez(path.with_suffix(".npz"), images=np.stack([pixels(value) for value in values]), labels=labels)


def write_parquet(path: Path, pictures: Pictures) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    values, labels = pictures
    rows = {"image": [{"bytes": encoded(value), "path": None} for value in values], "label": labels}
    pq.write_table(pa.table(rows), path.with_suffix(".parquet"))


def write_folder(path: Path, pictures: Pictures) -> None:
    for value, label in zip(*pictures, strict=True):
        (path / f"class {label}").mkdir(parents=True, exist_ok=True)
        (path / f"class {label}" / f"{value}.png").write_bytes(encoded(value))


def write_folder_of_parquet(path: Path, pictures: Pictures) -> None:
    path.mkdir()
    write_parquet(path / "0000", pictures)


WRITERS = pytest.mark.parametrize("write", [write_npz, write_parquet, write_folder, write_folder_of_parquet])


def said(data: ImageSet | None) -> set[tuple[int, int]]:
    """Every image by its value, with its label."""
    assert data is not None and data.labels is not None
    pairs = list(zip(data.images[:, 0, 0, 0].tolist(), data.labels.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


def pairs(pictures: Pictures) -> set[tuple[int, int]]:
    return set(zip(*pictures, strict=True))


@WRITERS
def test_a_tenth_of_the_training_part_is_held_out(tmp_path: Path, write: Callable[[Path, Pictures], None]) -> None:
    write(tmp_path / "train", TRAIN)
    write(tmp_path / "test", TEST)
    parts = load_parts(tmp_path)
    assert (len(parts.train), len(parts.validation), parts.num_classes) == (54, 6, 3)
    assert not said(parts.train) & said(parts.validation)
    assert said(parts.train) | said(parts.validation) == pairs(TRAIN)
    assert said(parts.test) == pairs(TEST)
    assert parts.measured is parts.test


@WRITERS
def test_one_set_has_no_test_part(tmp_path: Path, write: Callable[[Path, Pictures], None]) -> None:
    write(tmp_path / "single", TRAIN)
    (path,) = tmp_path.iterdir()
    parts = load_parts(path)
    assert parts.test is None
    assert parts.measured is parts.validation
    assert said(parts.train) | said(parts.validation) == pairs(TRAIN)


@WRITERS
def test_a_training_part_alone_is_one_set(tmp_path: Path, write: Callable[[Path, Pictures], None]) -> None:
    write(tmp_path / "train", TRAIN)
    parts = load_parts(tmp_path)
    assert parts.test is None
    assert said(parts.train) | said(parts.validation) == pairs(TRAIN)


@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("training", "validation"), ("train", "val"), ("training", "test")]
)
def test_parts_have_their_usual_names(tmp_path: Path, train: str, test: str) -> None:
    write_npz(tmp_path / train, TRAIN)
    write_folder(tmp_path / "notes", TEST)
    write_npz(tmp_path / test, TEST)
    parts = load_parts(tmp_path)
    assert said(parts.test) == pairs(TEST)
    assert said(parts.train) < pairs(TRAIN)


def test_the_same_images_are_held_out_every_time_at_every_size(tmp_path: Path) -> None:
    write_npz(tmp_path / "train", TRAIN)
    first, again, larger = load_parts(tmp_path), load_parts(str(tmp_path)), load_parts(tmp_path, resize=(8, 9))
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.validation.images, again.validation.images)
    assert said(first.validation) == said(larger.validation)
    assert larger.train.shape == larger.validation.shape == (1, 8, 9)
    assert sorted(said(first.validation)) == [(2, 2), (3, 0), (19, 1), (44, 2), (47, 2), (49, 1)], "in later releases"
    state = torch.get_rng_state()
    load_parts(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_classes_are_those_of_the_names_or_of_either_part(tmp_path: Path) -> None:
    write_npz(tmp_path / "train", TRAIN)
    write_npz(tmp_path / "test", (TEST[0], [*TEST[1][:-1], 6]))
    assert load_parts(tmp_path).num_classes == 7
    values = np.stack([pixels(value) for value in TRAIN[0]])
    names = np.array([f"class {label}" for label in range(9)])
    np.savez(tmp_path / "named.npz", images=values, labels=TRAIN[1], names=names)
    assert load_parts(tmp_path / "named.npz").num_classes == 9


def test_parts_of_different_sizes_are_refused_unless_resized(tmp_path: Path) -> None:
    write_npz(tmp_path / "train", TRAIN)
    larger = np.stack([pixels(value, 6, 6) for value in TEST[0]])
    np.savez(tmp_path / "test.npz", images=larger, labels=TEST[1])
    with pytest.raises(DataError, match="differ in size or in the names"):
        load_parts(tmp_path)
    parts = load_parts(tmp_path, resize=(6, 6))
    assert parts.test is not None
    assert parts.train.shape == parts.test.shape == (1, 6, 6)


def test_parts_of_different_channels_are_refused_even_when_resized(tmp_path: Path) -> None:
    write_npz(tmp_path / "train", TRAIN)
    coloured = np.stack([pixels(value) for value in TEST[0]])[:, None].repeat(3, axis=1)
    np.savez(tmp_path / "test.npz", images=coloured, labels=TEST[1])
    with pytest.raises(DataError, match="differ in size"):
        load_parts(tmp_path, resize=(6, 6))


@pytest.mark.parametrize("label", [0, 5])
def test_parts_with_different_classes_are_refused(tmp_path: Path, label: int) -> None:
    """A test part that lacks a class, or has another: labels would be numbered otherwise."""
    write_folder(tmp_path / "train", TRAIN)
    write_folder(tmp_path / "test", (TEST[0], [label if known == 2 else known for known in TEST[1]]))
    with pytest.raises(DataError, match="differ in size or in the names"):
        load_parts(tmp_path)


@pytest.mark.parametrize("part", ["train", "test"])
def test_images_without_labels_are_refused(tmp_path: Path, part: str) -> None:
    for name, pictures in (("train", TRAIN), ("test", TEST)):
        write_npz(tmp_path / name, pictures)
    np.savez(tmp_path / f"{part}.npz", images=np.stack([pixels(value) for value in TRAIN[0]]))
    with pytest.raises(DataError, match=rf"{part}\.npz has no labels"):
        load_parts(tmp_path)


@pytest.mark.parametrize("count", [1, 5])
def test_too_few_images_to_hold_one_out_are_refused(tmp_path: Path, count: int) -> None:
    write_npz(tmp_path / "d", (TRAIN[0][:count], TRAIN[1][:count]))
    with pytest.raises(DataError, match=f"has {count} training images: too few"):
        load_parts(tmp_path / "d.npz")


def test_images_of_one_class_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "d", (TRAIN[0], [0] * 60))
    with pytest.raises(DataError, match="one class"):
        load_parts(tmp_path / "d.npz")


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no data set .*absent"):
        load_parts(tmp_path / "absent")
    with pytest.raises(DataError, match="no pictures"):
        load_parts(tmp_path)
    (tmp_path / "train.npz").write_text("no archive")
    with pytest.raises(DataError, match=r"train\.npz"):
        load_parts(tmp_path)
