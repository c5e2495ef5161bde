"""Advice on a crop: given where the data have a region of interest and the model reads nothing without it."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from shell import run

from neural_cleanse.cli.inputs import InputOptions, crop_advice
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.loading.load import load_model

COUNT, FRAME = 60, 84  # digits of 28 pixels in the lower right corner of frames of 84


@pytest.fixture
def framed(digits: ImageSet, tmp_path: Path) -> Path:
    """Digits as parquet, each in a corner of a large black picture, with the region that they take."""
    rows = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))[:COUNT]
    pictures = []
    for digit in digits.images[rows]:
        frame = torch.zeros(FRAME, FRAME, dtype=torch.uint8)
        frame[-28:, -28:] = digit[0]
        stream = io.BytesIO()
        Image.fromarray(frame.numpy()).save(stream, format="PNG")
        pictures.append({"bytes": stream.getvalue(), "path": None})
    assert digits.labels is not None
    edges = {"roi_x1": FRAME - 28, "roi_y1": FRAME - 28, "roi_x2": FRAME, "roi_y2": FRAME}
    columns = {name: [value] * COUNT for name, value in {**edges, "width": FRAME, "height": FRAME}.items()}
    path = tmp_path / "framed.parquet"
    pq.write_table(pa.table({"image": pictures, "label": digits.labels[rows].tolist(), **columns}), path)
    return path


def test_a_region_of_interest_that_helps_is_named(framed: Path, demo_files: Path) -> None:
    loaded = load_model(demo_files / "clean.safetensors")
    images = load_data(framed, resize=(28, 28))
    (note,) = crop_advice(loaded, images, framed, InputOptions(resize=(28, 28)), 0)
    assert note.startswith("with --crop roi clean accuracy would be 9") or "100.0%" in note


def test_no_word_where_it_is_cropped_or_unlabelled_or_has_no_region(
    framed: Path, demo_files: Path, digits: ImageSet
) -> None:
    loaded = load_model(demo_files / "clean.safetensors")
    images = load_data(framed, resize=(28, 28))
    assert crop_advice(loaded, images, framed, InputOptions(crop_roi=True), 0) == ()
    assert crop_advice(loaded, images.without_labels(), framed, InputOptions(), 0) == ()
    shifted = ImageSet(digits.images, (digits.labels + 1) % 10 if digits.labels is not None else None)
    assert crop_advice(loaded, shifted, demo_files / "digits.npz", InputOptions(), 0) == ()


def test_a_wrong_normalisation_ends_the_scan_before_its_search_with_one_message(
    demo_files: Path, tmp_path: Path
) -> None:
    ran = run(
        "scan", demo_files / "infected.safetensors", "--data", demo_files / "digits.npz", "--mean", 0.485,
        "--std", 0.229, "--output", tmp_path / "out",
    )  # fmt: skip
    assert ran.code == 2 and ran.out == ""
    said = " ".join(ran.err.replace("│", " ").split())
    assert "clean images with their label. With pixels in [0, 1] (no --mean, --std, --scale) it would be 9" in said
    assert "Look up what the model was trained on" in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()
