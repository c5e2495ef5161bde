"""Images that torch.save wrote, Arrow tables as save_to_disk of Hugging Face leaves them, and labels in words."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images.load import load_data

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def pictures() -> Tensor:
    return torch.randint(0, 256, (6, 5, 7), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def same(data: ImageSet) -> bool:
    return torch.equal(data.images[:, 0], pictures()) and data.labels is not None and torch.equal(data.labels, LABELS)


@pytest.mark.parametrize(
    "held",
    [
        (pictures(), LABELS),
        (pictures(), LABELS, 3),
        [pictures()[:, None].float() / 255, LABELS[:, None]],
        {"data": pictures(), "targets": LABELS, "meta": {"epoch": 3}},
        {"images": pictures(), "labels": LABELS.tolist()},
    ],
)
def test_pairs_and_dictionaries_of_tensors_are_read(tmp_path: Path, held: Any) -> None:
    torch.save(held, tmp_path / "test.pt")
    assert same(load_data(tmp_path / "test.pt"))
    assert load_data(tmp_path / "test.pt", ignore_labels=True).labels is None


def test_a_tensor_alone_has_no_labels(tmp_path: Path) -> None:
    torch.save(pictures(), tmp_path / "x.pt")
    data = load_data(tmp_path / "x.pt")
    assert torch.equal(data.images[:, 0], pictures()) and data.labels is None


class Runs:
    """A pickle that makes a directory when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_file_of_tensors_is_refused_unrun(tmp_path: Path) -> None:
    torch.save((pictures(), LABELS, Runs(tmp_path / "marker")), tmp_path / "x.pt")
    with pytest.raises(DataError, match="Nothing of it was run"):
        load_data(tmp_path / "x.pt")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("held", [{"a": torch.ones(3)}, 3, pictures()[:1, :1, :1].expand(10**6, 1000, 1000)])
def test_tensors_that_are_no_images_end_in_one_message(tmp_path: Path, held: Any) -> None:
    torch.save(held, tmp_path / "x.pt")
    with pytest.raises(DataError, match=r"x\.pt"):
        load_data(tmp_path / "x.pt")


# --- Arrow ---


def table() -> pa.Table:
    cells = []
    for picture in pictures().numpy():
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "PNG")
        cells.append({"bytes": stream.getvalue(), "path": None})
    return pa.table({"image": cells, "label": LABELS.tolist()})


def written(path: Path, *, stream: bool) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, kind = table(), pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, kind(sink, rows.schema) as out:
        out.write_table(rows)
    return path


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("inside", ["data-00000-of-00001.arrow", "test/data-00000-of-00001.arrow"])
def test_a_data_set_saved_to_disk_is_read(tmp_path: Path, stream: bool, inside: str) -> None:
    written(tmp_path / "set" / inside, stream=stream)
    (tmp_path / "set" / "dataset_info.json").write_text("{}")
    if "test" in inside:
        written(tmp_path / "set" / "train" / "data-00000-of-00001.arrow", stream=stream)
    assert same(load_data(tmp_path / "set")) and same(load_data(tmp_path / "set" / inside))


@pytest.fixture(scope="module")
def arrow(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("arrow") / "x.arrow", stream=True).read_bytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_changed_bytes_of_arrow_end_in_one_message(
    tmp_path_factory: pytest.TempPathFactory, arrow: bytes, data: st.DataObject
) -> None:
    changed = bytearray(arrow)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(8, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("changed") / "x.arrow"
    path.write_bytes(changed[: data.draw(st.integers(8, len(changed)))])
    try:
        found = load_data(path)
    except DataError:
        return
    assert found.images.dtype is torch.uint8


# --- arrays and labels ---


def test_black_and_white_arrays_are_0_and_255(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=pictures().numpy() > 100, labels=LABELS.numpy())
    found = load_data(tmp_path / "x.npz").images[:, 0]
    assert torch.equal(found, (pictures() > 100).byte() * 255)


@pytest.mark.parametrize("form", ["npz", "parquet"])
def test_numbers_written_as_words_are_those_classes(tmp_path: Path, form: str) -> None:
    words = [str(number) for number in (0, 2, 10, 11, 1, 3)]
    if form == "npz":
        np.savez(tmp_path / "x.npz", images=pictures().numpy(), labels=np.array(words))
    else:
        pq.write_table(table().set_column(1, "cls", [words]), tmp_path / "x.parquet")
    data = load_data(tmp_path / f"x.{form}")
    assert data.labels is not None and data.labels.tolist() == [0, 2, 10, 11, 1, 3] and data.names is None


def test_labels_of_flat_pictures_come_from_the_metadata_of_hugging_face(tmp_path: Path) -> None:
    for number, picture in enumerate(pictures().numpy()):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    lines = [f'{{"file_name": "{number}.png", "label": {label}}}' for number, label in enumerate(LABELS.tolist())]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert same(load_data(tmp_path))
    (tmp_path / "metadata.jsonl").write_text("[1]\n")
    assert load_data(tmp_path).labels is None
