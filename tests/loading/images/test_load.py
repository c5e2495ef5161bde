"""Clean images from every container, and what is said when they are broken."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet, balanced
from neural_cleanse.loading.images.load import load_data


def pixels(seed: int, height: int = 6, width: int = 5, channels: int = 3) -> Any:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, seed: int = 0, **form: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, **form)).save(path)
    return path


def encoded(seed: int, **form: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(seed, **form)).save(stream, "PNG")
    return stream.getvalue()


# --- folders ---


def test_class_folders_in_plain_order(tmp_path: Path) -> None:
    for seed, name in enumerate(["class 10", "class 9", "class 2"]):
        save(tmp_path / name / "b10.png", seed)
        save(tmp_path / name / "b9.PNG", seed + 10)
    (tmp_path / "class 9" / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    data = load_data(tmp_path)
    assert data.names == ("class 10", "class 2", "class 9", "empty"), "as torchvision and Keras count them"
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    expected = [pixels(seed).transpose(2, 0, 1) for seed in (10, 0, 12, 2, 11, 1)]
    assert np.array_equal(data.images.numpy(), np.stack(expected)), "b9 before b10, channels first"
    assert str(tmp_path) in data.origin


def test_folders_named_by_number_are_those_classes(tmp_path: Path) -> None:
    for seed, name in enumerate(["0", "03", "11"]):
        save(tmp_path / name / "x.png", seed)
    data = load_data(tmp_path)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 3, 11]
    assert data.names is not None
    assert len(data.names) == 12
    assert data.names[3] == "03"


def test_numbers_too_large_for_a_class_are_names(tmp_path: Path) -> None:
    for seed, name in enumerate(["02119789", "02100735"]):
        save(tmp_path / name / "x.png", seed)
    data = load_data(tmp_path)
    assert data.names == ("02100735", "02119789")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1]


@pytest.mark.parametrize("inside", ["", "all of them"])
def test_flat_folders_have_no_labels(tmp_path: Path, inside: str) -> None:
    for seed in range(3):
        save(tmp_path / inside / f"{seed}.png", seed)
    data = load_data(tmp_path)
    assert (len(data), data.labels, data.names) == (3, None, None)


def test_pictures_beside_class_folders_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.png")
    save(tmp_path / "y.png")
    with pytest.raises(DataError, match=r"both pictures \(y\.png\) and class folders \(a\)"):
        load_data(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures"):
        load_data(tmp_path)
    with pytest.raises(DataError, match="There is no"):
        load_data(tmp_path / "absent")
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="is empty"):
        load_data(tmp_path / "empty")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(DataError, match="no file of images"):
        load_data(tmp_path / "text")


# --- pictures ---


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3), ("CMYK", 3), ("YCbCr", 3)],
)
def test_every_kind_of_picture(tmp_path: Path, mode: str, channels: int) -> None:
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    Image.fromarray(pixels(1)).convert(mode).save(tmp_path / f"x.{suffix}")
    assert load_data(tmp_path).images.shape == (1, channels, 6, 5)


def test_black_and_white_is_0_and_255(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("1").save(tmp_path / "x.png")
    assert load_data(tmp_path).images.flatten().tolist() == [0, 255, 255, 0]


def test_palettes_with_transparency_warn_nobody(tmp_path: Path) -> None:
    image = Image.fromarray(pixels(1)).convert("P")
    image.save(tmp_path / "x.png", transparency=bytes(range(256)))
    assert load_data(tmp_path).shape == (3, 6, 5)


def test_one_coloured_picture_colours_the_set(tmp_path: Path) -> None:
    save(tmp_path / "a.png", channels=1)
    save(tmp_path / "b.png")
    images = load_data(tmp_path).images
    assert images.shape == (2, 3, 6, 5)
    assert torch.equal(images[0, 0], images[0, 2])


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_more_than_8_bits_are_refused_not_clipped(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(np.full((4, 4), 300, dtype=dtype)).save(tmp_path / "x.tiff")
    with pytest.raises(DataError, match="no range is guessed"):
        load_data(tmp_path)


def test_sizes_must_agree(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", height=8)
    with pytest.raises(DataError, match=r"2 different sizes \(6x5, 8x5\).*--resize"):
        load_data(tmp_path)
    assert load_data(tmp_path, resize=(4, 7)).shape == (3, 4, 7)


def test_resizing_smooths_and_says_so(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 90, dtype=np.uint8)).save(tmp_path / "x.png")
    data = load_data(tmp_path, resize=(3, 5))
    assert data.images.shape == (1, 1, 3, 5)
    assert (data.images == 90).all()
    assert "resized to 3x5" in data.origin


def test_pixel_arrays_are_resized_like_pictures(tmp_path: Path) -> None:
    images = np.stack([pixels(seed) for seed in range(4)])
    np.savez(tmp_path / "images.npz", images=images)
    for number, image in enumerate(images):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "pictures" / f"{number}.png")
    arrays = load_data(tmp_path / "images.npz", resize=(3, 8))
    assert torch.equal(arrays.images, load_data(tmp_path / "pictures", resize=(3, 8)).images)
    assert "resized to 3x8" in arrays.origin


@pytest.mark.parametrize("content", [b"", b"no picture", encoded(3)[:60], encoded(3)[:-30], b"BM" + bytes(20)])
def test_unreadable_pictures_are_named_or_skipped(tmp_path: Path, content: bytes) -> None:
    for label, name in enumerate("ab"):
        save(tmp_path / name / "good.png", label)
    (tmp_path / "a" / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.png.*--skip-unreadable"):
        load_data(tmp_path)
    data = load_data(tmp_path, skip_unreadable=True)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1]
    assert torch.equal(data.images[1], torch.from_numpy(pixels(1).transpose(2, 0, 1).copy()))
    assert "1 unreadable skipped" in data.origin


def test_only_unreadable_pictures(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="None of the 1 pictures"):
        load_data(tmp_path, skip_unreadable=True)


def test_a_decompression_bomb_is_an_unreadable_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "x.png", height=40, width=40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"x\.png.*bomb"):
        load_data(tmp_path)


# --- npz ---

NHWC = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("compress", [np.savez, np.savez_compressed])
def test_npz_in_every_order_of_axes(tmp_path: Path, compress: Callable[..., None]) -> None:
    path, expected = tmp_path / "data.bin", torch.from_numpy(NHWC.transpose(0, 3, 1, 2).copy())
    for images in (NHWC, NHWC.transpose(0, 3, 1, 2)):
        with path.open("wb") as file:
            compress(file, images=images, labels=np.array([0, 1, 1, 0], dtype=np.uint8))
        data = load_data(path)
        assert torch.equal(data.images, expected)
        assert data.labels is not None
        assert data.labels.dtype == torch.int64
        assert data.labels.tolist() == [0, 1, 1, 0]
    for images in (NHWC[..., 0], NHWC[..., :1], NHWC[:, None, :, :, 0]):
        with path.open("wb") as file:
            compress(file, images=images)
        data = load_data(path)
        assert torch.equal(data.images, expected[:, :1])
        assert data.labels is None


def test_npz_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=NHWC, labels=[0, 1, 1, 0], names=["cat", "dog"])
    assert load_data(tmp_path / "d.npz").names == ("cat", "dog")
    assert load_data(tmp_path / "d.npz", ignore_labels=True).labels is None
    assert load_data(tmp_path / "d.npz", ignore_labels=True).names is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": NHWC / 99}, "float64.*no range is guessed.*astype"),
        ({"images": NHWC / 99 - 1}, "float64.*no range is guessed.*undo it"),
        ({"images": NHWC.astype(np.int64) * 2}, "int64.*no range is guessed"),
        ({"images": NHWC[0, 0]}, "shape"),
        ({"images": NHWC[None]}, "shape"),
        ({"images": NHWC[:0]}, "not one image"),
        ({"pixels": NHWC}, "no array 'images'; it has pixels"),
        ({"images": NHWC, "labels": [0, 1]}, r"int64 of shape \(2,\).*4 images"),
        ({"images": NHWC, "labels": [0.0, 1.5, 1.0, 0.0]}, "float64.*whole number.*--ignore-labels"),
        ({"images": NHWC, "labels": np.eye(4, dtype=int) * 2}, "whole number"),
        ({"images": NHWC, "labels": [0, 1, -1, 0]}, "label -1.*--ignore-labels"),
        ({"images": NHWC, "labels": [0, 1, 2, 0], "names": ["cat", "dog"]}, "label 2 and names for 2 classes"),
    ],
)
def test_npz_that_does_not_fit(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "d.npz")
    if "labels" in arrays:
        assert len(load_data(tmp_path / "d.npz", ignore_labels=True)) == 4, "the cure must cure"


class Payload:
    """Unpickling it makes a directory."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("key", ["images", "labels", "names"])
def test_object_arrays_are_never_unpickled(tmp_path: Path, key: str) -> None:
    marker = tmp_path / "marker"
    evil = np.empty(4, dtype=object)
    evil[:] = [Payload(marker)] * 4
    np.savez(tmp_path / "d.npz", **{"images": NHWC, key: evil})
    with pytest.raises(DataError, match=r"d\.npz"):
        load_data(tmp_path / "d.npz")
    assert not marker.exists()
    with np.load(tmp_path / "d.npz", allow_pickle=True) as archive:
        archive[key]
    assert marker.exists(), "the payload must be a real one"


@pytest.mark.parametrize("compress", [np.savez, np.savez_compressed])
def test_broken_npz_ends_in_one_message(tmp_path: Path, compress: Callable[..., None]) -> None:
    path = tmp_path / "d.npz"
    compress(path, images=NHWC, labels=[0, 1, 1, 0])
    whole = path.read_bytes()
    for kept in (4, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(DataError):
            load_data(path)
    generator = np.random.default_rng(1)
    for _ in range(300):
        broken = bytearray(whole)
        for position in generator.integers(0, len(whole), 3):
            broken[position] = generator.integers(0, 256)
        path.write_bytes(broken)
        try:
            load_data(path)
        except DataError:
            continue


def test_an_encrypted_npz(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, images=NHWC)
    content = bytearray(path.read_bytes())
    content[6] |= 1  # local header, then central directory: encrypted
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError):
        load_data(path)


def test_zip_files_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("images/a.heic", encoded(1))
    with pytest.raises(DataError, match="images"):
        load_data(tmp_path / "d.zip")


# --- parquet ---

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write_parquet(path: Path, seeds: list[int], metadata: dict[str, str] | None = None, **columns: Any) -> Path:
    values = {"image": [{"bytes": encoded(seed), "path": f"{seed}.png"} for seed in seeds], **columns}
    table = pa.table({key: value for key, value in values.items() if value is not None})
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize(
    "metadata",
    [
        {"label_names": json.dumps(["cat", "dog"])},
        {
            "huggingface": json.dumps(
                {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
            )
        },
    ],
)
def test_parquet_names_its_labels(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = write_parquet(tmp_path / "d.bin", [1, 2, 3], metadata, label=[1, 0, 1])
    data = load_data(path)
    assert data.names == ("cat", "dog")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, 1]
    assert np.array_equal(data.images[2].numpy(), pixels(3).transpose(2, 0, 1))
    unlabelled = load_data(path, ignore_labels=True)
    assert (unlabelled.labels, unlabelled.names) == (None, None)


@pytest.mark.parametrize("text", ["", "[", "5", "{}", '{"info": 3}', "null"])
@pytest.mark.parametrize("key", ["label_names", "huggingface"])
def test_broken_metadata_names_nothing(tmp_path: Path, key: str, text: str) -> None:
    data = load_data(write_parquet(tmp_path / "d.parquet", [1, 2], {key: text}, label=[1, 0]))
    assert data.labels is not None
    assert not data.names


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "b.parquet", [3], label=[2])
    write_parquet(tmp_path / "a.parquet", [1, 2], label=[0, 1])
    data = load_data(tmp_path)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2]
    assert np.array_equal(data.images[2].numpy(), pixels(3).transpose(2, 0, 1))
    write_parquet(tmp_path / "c.parquet", [3])
    with pytest.raises(DataError, match="cannot be read as parquet"):
        load_data(tmp_path)


def test_parquet_without_labels_and_with_bare_bytes(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "d.parquet", [], image=[encoded(1), encoded(2)])
    data = load_data(path)
    assert data.labels is None
    assert np.array_equal(data.images[0].numpy(), pixels(1).transpose(2, 0, 1))


def test_parquet_without_images(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "d.parquet", [], image=None, drawing=[b"x"], label=[0])
    with pytest.raises(DataError, match="no column 'image'; its columns are drawing, label"):
        load_data(path)


@pytest.mark.parametrize("images", [[1, 2], ["a.png", "b.png"], [None, None], [[1, 2], [3, 4]], [{"path": "a"}] * 2])
def test_parquet_images_of_the_wrong_kind(tmp_path: Path, images: list[Any]) -> None:
    with pytest.raises(DataError, match="row 0"):
        load_data(write_parquet(tmp_path / "d.parquet", [], image=images))


@pytest.mark.parametrize("labels", [["cat", None], [0.5, 1.0], [None, 1], [[0], [1]], [-1, 0]])
def test_parquet_labels_of_the_wrong_kind(tmp_path: Path, labels: list[Any]) -> None:
    path = write_parquet(tmp_path / "d.parquet", [1, 2], label=labels)
    with pytest.raises(DataError, match="--ignore-labels"):
        load_data(path)
    assert load_data(path, ignore_labels=True).labels is None, "the cure must cure"


def test_broken_parquet_ends_in_one_message(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "d.parquet", [1, 2], label=[0, 1])
    whole = path.read_bytes()
    for kept in (4, 12, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(DataError):
            load_data(path)


def test_unreadable_rows_are_numbered(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "d.parquet", [], image=[encoded(1), b"broken", encoded(2)], label=[0, 1, 2])
    with pytest.raises(DataError, match="row 1"):
        load_data(path)
    data = load_data(path, skip_unreadable=True)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 2]


def region(left: int, top: int, right: int, bottom: int, width: int = 50, height: int = 60) -> dict[str, list[int]]:
    """ROI columns of one row; the stored picture is 5 wide and 6 high, a tenth of the original."""
    names = ("roi_x1", "roi_y1", "roi_x2", "roi_y2", "width", "height")
    return {name: [value] for name, value in zip(names, (left, top, right, bottom, width, height), strict=True)}


def test_the_region_of_interest_is_cut_in_shares_of_the_picture(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "d.parquet", [7], **region(10, 20, 40, 60))
    assert load_data(path).shape == (3, 6, 5)
    cropped = load_data(path, crop="roi", resize=(4, 3))
    assert np.array_equal(cropped.images[0].numpy(), pixels(7)[2:6, 1:4].transpose(2, 0, 1))
    assert "region of interest" in cropped.origin


@pytest.mark.parametrize("columns", [region(10, 20, 60, 60), region(40, 20, 10, 60), region(0, 0, 5, 5, width=0)])
def test_impossible_regions(tmp_path: Path, columns: dict[str, Any]) -> None:
    path = write_parquet(tmp_path / "d.parquet", [7], **columns)
    with pytest.raises(DataError, match="region of interest"):
        load_data(path, crop="roi", resize=(4, 3))
    assert load_data(path).shape == (3, 6, 5), "nobody asked for the region"


def test_crops_need_regions(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "d.parquet", [7])
    with pytest.raises(DataError, match="no region of interest"):
        load_data(path, crop="roi")
    save(tmp_path / "folder" / "x.png")
    with pytest.raises(DataError, match="no region of interest"):
        load_data(tmp_path / "folder", crop="roi")


# --- which images ---


def many(path: Path, labels: list[int] | None) -> Path:
    count = 100 if labels is None else len(labels)
    arrays = {"images": np.arange(count, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)}
    np.savez(path, **arrays, **({} if labels is None else {"labels": labels}))
    return path


def test_subsampling_is_balanced_and_seeded(tmp_path: Path) -> None:
    path = many(tmp_path / "d.npz", [0] * 70 + [1] * 20 + [2] * 3)
    first, again, other = (load_data(path, at_most=30, seed=seed) for seed in (1, 1, 2))
    assert first.labels is not None
    assert torch.bincount(first.labels).tolist() in ([14, 13, 3], [13, 14, 3])
    assert first.sha256() == again.sha256() != other.sha256()
    picked = first.images[:, 0, 0, 0]
    assert (picked[1:] > picked[:-1]).all(), "ascending, without repetition"
    assert len(load_data(path, at_most=1000)) == 93


def test_without_labels_more_are_kept_for_the_models_answers_to_balance(tmp_path: Path) -> None:
    data = load_data(many(tmp_path / "d.npz", None), at_most=10, seed=1)
    assert len(data) == 40
    assert data.sha256() == load_data(tmp_path / "d.npz", at_most=10, seed=1).sha256()


@pytest.mark.parametrize("count", [1, 2, 7, 50, 93])
def test_balanced_takes_no_class_twice_before_another_once(count: int) -> None:
    classes = torch.tensor([0] * 70 + [1] * 20 + [2] * 3)[
        torch.randperm(93, generator=torch.Generator().manual_seed(2))
    ]
    rows = balanced(classes, count, seed=5)
    taken, there = torch.bincount(classes[rows], minlength=3), torch.bincount(classes)
    assert len(rows.unique()) == len(rows) == count
    assert all(taken[label] >= taken.max() - 1 or taken[label] == there[label] for label in range(3))


def small(labels: list[int], names: tuple[str, ...] | None) -> ImageSet:
    return ImageSet(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), torch.tensor(labels), names)


def test_labels_follow_the_models_names() -> None:
    data = small([0, 1, 2, 1], ("cat", "dog", "eel")).in_order_of(("eel", "cat", "ant", "dog"))
    assert data.labels is not None
    assert data.labels.tolist() == [1, 3, 0, 3]
    assert data.names == ("eel", "cat", "ant", "dog")
    unnamed = small([0, 1], None)
    assert unnamed.in_order_of(("a", "b")) is unnamed


def test_numbers_already_are_the_models_order() -> None:
    data = small([2, 0], ("00000", "00001", "00002")).in_order_of(("ant", "bee", "cat"))
    assert data.labels is not None
    assert data.labels.tolist() == [2, 0]
    assert data.names == ("ant", "bee", "cat")
    with pytest.raises(DataError, match="label 2"):
        small([2, 0], ("0", "1", "2")).in_order_of(("ant", "bee"))
    shifted = small([1, 3], ("0", "1", "2", "3")).in_order_of(("1", "2", "3"))
    assert shifted.labels is not None
    assert shifted.labels.tolist() == [0, 2], "the model's own names come first, and unused ones do not matter"


def test_classes_that_the_model_does_not_name() -> None:
    with pytest.raises(DataError, match=r"does not name: dog.*--ignore-labels"):
        small([0, 1], ("cat", "dog")).in_order_of(("cat", "ant"))


# --- real data, where there are any ---

DATA_ROOT = os.environ.get("NEURAL_CLEANSE_DATA")
SETS = sorted(path for path in Path(DATA_ROOT).glob("*/*.parquet")) if DATA_ROOT else []


@pytest.mark.skipif(not SETS, reason="NEURAL_CLEANSE_DATA names no directory of image sets")
@pytest.mark.parametrize("path", SETS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_set_there_is(path: Path) -> None:
    data = load_data(path, at_most=20)
    assert data.labels is not None
    assert len(data) == len(data.labels) == 20
    assert data.names is not None
    assert int(data.labels.max()) < len(data.names)
    assert data.shape[0] in (1, 3)
    assert data.images.float().std() > 1


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 40), (30, 30), (41, 30), (7, 5)])
def test_a_centre_crop_keeps_the_middle_of_the_resized_picture(tmp_path: Path, width: int, height: int) -> None:
    """As torchvision: shorter side to 20, then the middle 15x15; a ramp says which pixels were kept."""
    across = np.linspace(0, 250, width).astype(np.uint8)
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    Image.fromarray(np.broadcast_to(across, (height, width)).copy()).save(folder / "0.png")
    found = load_data(tmp_path / "images", centre_crop=(20, 15)).images
    assert found.shape == (1, 1, 15, 15)
    wide = 20 if width <= height else int(20 * width / height)
    whole = Image.fromarray(np.broadcast_to(across, (height, width)).copy()).resize(
        (wide, 20 if height <= width else int(20 * height / width)), Image.Resampling.BILINEAR
    )
    left = round((wide - 15) / 2)
    assert found[0, 0, 7].tolist() == np.asarray(whole)[10, left : left + 15].tolist()
    np.savez(tmp_path / "same.npz", images=np.broadcast_to(across, (1, height, width)), labels=np.zeros(1, np.int64))
    assert load_data(tmp_path / "same.npz", centre_crop=(20, 15)).images.equal(found)


def test_a_picture_too_narrow_for_a_centre_crop_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    Image.new("L", (30_000, 2)).save(folder / "0.png")
    np.savez(tmp_path / "same.npz", images=np.zeros((1, 2, 30_000), np.uint8), labels=np.zeros(1, np.int64))
    for path in (tmp_path / "images", tmp_path / "same.npz"):
        with pytest.raises(DataError, match="too long and narrow"):
            load_data(path, centre_crop=(256, 224))


def test_arrays_of_objects_or_with_nan_are_told_as_what_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", images=np.array([1, "a", None], object))
    np.save(tmp_path / "objects.npy", np.array([1, "a", None], object))
    for name in ("objects.npz", "objects.npy"):
        with pytest.raises(DataError, match=r"holds Python objects, and nothing is unpickled.*savez"):
            load_data(tmp_path / name)
    images = np.zeros((4, 6, 5), np.float32)
    images[1, 2, 3] = np.nan
    np.savez(tmp_path / "nan.npz", images=images)
    with pytest.raises(DataError, match="hold NaN or Inf"):
        load_data(tmp_path / "nan.npz")
