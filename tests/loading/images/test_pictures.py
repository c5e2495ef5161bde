"""Pictures as cameras, browsers and tools leave them: right, or one message that says what they are."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from neural_cleanse.errors import DataError
from neural_cleanse.loading.images.load import load_data

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
DARK, LIGHT = (Image.new("RGB", (5, 6), (level,) * 3) for level in (10, 250))


def planes(pixels: Any) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def png(width: int, height: int, depth: int, rows: bytes) -> bytes:
    """A PNG file in colour, its sizes as claimed."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_16_bits_a_colour_are_read_by_their_high_byte(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + (row.astype(np.uint16) * 256 + 7).astype(">u2").tobytes() for row in COLOURS)
    (tmp_path / "x.png").write_bytes(png(5, 6, 16, rows))
    assert torch.equal(load_data(tmp_path).images[0], planes(COLOURS))


def test_transparency_is_left_out_as_training_left_it_out(tmp_path: Path) -> None:
    clear = np.dstack([COLOURS, np.zeros((6, 5), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "x.png")
    assert torch.equal(load_data(tmp_path).images[0], planes(COLOURS))
    (tmp_path / "x.png").unlink()
    indexed = Image.fromarray(COLOURS).quantize(8)
    indexed.save(tmp_path / "x.png", transparency=0)
    assert torch.equal(load_data(tmp_path).images[0], planes(np.asarray(indexed.convert("RGB"))))


def test_a_camera_turned_by_90_degrees_is_not_undone_as_training_did_not_undo_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOURS).save(tmp_path / "x.png", exif=exif)
    assert torch.equal(load_data(tmp_path).images[0], planes(COLOURS))


def test_printers_colours_become_red_green_and_blue(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 100, 0)).convert("CMYK").save(tmp_path / "x.jpg", quality=100)
    assert (load_data(tmp_path).images.float().mean((0, 2, 3)) - torch.tensor([200.0, 100.0, 0.0])).abs().max() < 3


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_of_several_frames_the_first_is_read(tmp_path: Path, suffix: str) -> None:
    DARK.save(
        tmp_path / f"x.{suffix}", save_all=True, append_images=[LIGHT], **{"lossless": True} if suffix == "webp" else {}
    )
    assert load_data(tmp_path).images.unique().tolist() == [10]


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    Image.fromarray(COLOURS[:1, :1]).save(tmp_path / "x.png")
    assert load_data(tmp_path).shape == (3, 1, 1)
    assert torch.equal(load_data(tmp_path, resize=(4, 4)).images[0], planes(COLOURS[:1, :1]).expand(3, 4, 4))


def test_what_browsers_on_windows_save_as_jfif_is_a_picture(tmp_path: Path) -> None:
    DARK.save(tmp_path / "x.jfif", format="JPEG")
    assert load_data(tmp_path).shape == (3, 6, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(50_000, 50_000, 8, b""), r"bomb.*--skip-unreadable"),
        (png(2**31 - 1, 1, 8, b""), "bomb"),
        (png(9_000, 9_000, 8, b"\0" * 100), "truncated"),
        (png(0, 0, 8, b""), "damaged, or none of PNG"),
        (b"", "it is empty"),
        (b"hello", "damaged, or none of PNG, JPEG"),
        (b"\n <html>404</html>", "a web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
    ],
)
def test_what_is_no_picture_is_told_as_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataError, match=message) as refused:
        load_data(tmp_path)
    assert "BytesIO" not in str(refused.value)


def test_more_than_8_bits_of_grey_are_refused_with_what_to_do(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 300, np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"more than 8 bits.*Convert the pictures to 8 bits"):
        load_data(tmp_path)


def test_postscript_under_the_name_of_a_picture_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    Image.init()
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(DataError, match="PostScript"):
        load_data(tmp_path)
