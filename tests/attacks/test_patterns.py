"""Triggers to attack with: each lies where its name says, on the 256 levels, and what cannot be is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import seeded
from PIL import Image

from neural_cleanse.attacks import patterns
from neural_cleanse.attacks.patterns import Shape
from neural_cleanse.choices import PLACES
from neural_cleanse.errors import DataError, SettingsError
from neural_cleanse.triggers.patch import PatchTrigger

SHAPES: list[Shape] = [(1, 28, 28), (3, 32, 32), (3, 55, 47), (3, 224, 224)]
GREY, COLOUR, TALL = SHAPES[:3]
SIZED = ("square", "noise", "checkerboard", "triangle")


def sized(kind: str, shape: Shape, size: int, place: str = "bottom-right", seed: int = 0) -> PatchTrigger:
    """One of the makers that take a size."""
    if kind == "noise":
        return patterns.noise(shape, size, seeded(seed), place)
    maker = {"square": patterns.square, "checkerboard": patterns.checkerboard, "triangle": patterns.triangle}[kind]
    return maker(shape, size, place)


def box(trigger: PatchTrigger) -> tuple[int, int, int, int]:
    """Top, left, bottom, right (both beyond the last) of what the mask covers."""
    rows, columns = (trigger.mask[0, 0].amax(dim).nonzero().squeeze(1) for dim in (1, 0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def on_levels(values: torch.Tensor) -> bool:
    """Bit for bit k / 255."""
    return torch.equal(values, torch.arange(256)[(values * 255).round().long()] / 255)


def check_law(trigger: PatchTrigger, shape: Shape) -> None:
    """What holds for every maker."""
    assert trigger.mask.shape == (1, 1, *shape[1:]) and trigger.pattern.shape == (1, *shape)
    assert on_levels(trigger.mask) and on_levels(trigger.pattern)
    assert trigger.size().item() > 0
    assert (trigger.pattern[:, :, trigger.mask[0, 0] == 0] == 0).all()


# --- places ---


@given(st.sampled_from(SIZED), st.tuples(st.sampled_from([1, 3]), *[st.integers(1, 40)] * 2), st.data())
@settings(deadline=None, max_examples=80)
def test_every_place_fits_every_size(kind: str, shape: Shape, data: st.DataObject) -> None:
    _, height, width = shape
    size = data.draw(st.integers(1, min(height, width)))
    place = data.draw(st.sampled_from(list(PLACES)))
    trigger = sized(kind, shape, size, place)
    check_law(trigger, shape)
    if kind != "checkerboard" and kind != "noise":
        assert (trigger.pattern[:, :, trigger.mask[0, 0] == 1] == 1).all()
    top, left, bottom, right = box(trigger)
    assert (bottom - top, right - left) == (size, size)
    row, column = place.split("-")
    for name, before, after in ((row, top, height - bottom), (column, left, width - right)):
        margin = 1 if before + after >= 2 else 0
        if name in ("top", "left"):
            assert before == margin
        elif name in ("bottom", "right"):
            assert after == margin
        else:
            assert abs(before - after) <= 1


@given(st.tuples(st.just(1), *[st.integers(1, 40)] * 2), st.data())
@settings(deadline=None, max_examples=40)
def test_row_and_column_place_exactly(shape: Shape, data: st.DataObject) -> None:
    _, height, width = shape
    size = data.draw(st.integers(1, min(height, width)))
    top, left = data.draw(st.integers(0, height - size)), data.draw(st.integers(0, width - size))
    assert box(patterns.square(shape, size, f"{top},{left}")) == (top, left, top + size, left + size)


def test_the_authors_square_lies_at_27_to_30() -> None:
    """4x4 white at rows and columns 27 to 30 of 32x32: the injection script."""
    trigger = patterns.square(COLOUR, 4)
    assert box(trigger) == (27, 27, 31, 31)
    assert trigger.size().item() == 16
    assert (trigger.pattern[:, :, 27:31, 27:31] == 1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_nine_places_are_nine(shape: Shape) -> None:
    masks = torch.cat([patterns.square(shape, 4, place).mask for place in PLACES])
    assert len(PLACES) == 9 and masks.sum(0).max() == 1


@pytest.mark.parametrize("place", PLACES)
def test_a_patch_may_be_as_large_as_the_image(place: str) -> None:
    assert (patterns.square(GREY, 28, place).mask == 1).all()


@pytest.mark.parametrize(
    "place", ["", "corner", "top", "left-top", "top_left", "1", "-1,2", "1,2,3", "1.5,2", "Top-Left"]
)
def test_an_unknown_place_is_refused(place: str) -> None:
    with pytest.raises(SettingsError, match=r"There is no place '.*bottom-right, or ROW,COLUMN of the top left pixel"):
        patterns.square(GREY, 4, place)


@pytest.mark.parametrize("place", ["25,0", "0,25", "28,28", "0,99999"])
def test_a_place_outside_is_refused(place: str) -> None:
    with pytest.raises(SettingsError, match=rf"4x4 pixels at {place} does not fit into 28x28"):
        patterns.square(GREY, 4, place)


# --- sizes ---


@pytest.mark.parametrize("size", [0, -1, -28, 29, 10**9])
@pytest.mark.parametrize("kind", SIZED)
def test_a_size_that_does_not_fit_is_refused(kind: str, size: int) -> None:
    with pytest.raises(SettingsError, match=rf"{size} pixels does not fit into images of 28x28"):
        sized(kind, GREY, size)


def test_the_shorter_side_limits_the_size() -> None:
    assert box(patterns.square(TALL, 47, "top-left")) == (1, 0, 48, 47)
    with pytest.raises(SettingsError, match=r"48 pixels does not fit into images of 55x47"):
        patterns.square(TALL, 48)


# --- colours ---


def test_one_value_is_grey_and_three_are_a_colour() -> None:
    grey = patterns.square(COLOUR, 2, "top-left", (0.4,)).pattern[0, :, 1, 1]
    assert torch.equal(grey, torch.full((3,), 102) / 255)
    yellow = patterns.square(COLOUR, 2, "top-left", (1, 1, 0)).pattern[0, :, 1, 1]
    assert yellow.tolist() == [1, 1, 0]
    assert torch.equal(patterns.square(GREY, 2, colour=(0,)).pattern, torch.zeros(1, *GREY))


@pytest.mark.parametrize("maker", [patterns.square, patterns.checkerboard, patterns.triangle])
@pytest.mark.parametrize(
    "colour", [(), (1.0, 1.0), (1.0,) * 4, (1.1,), (-0.1,), (0.0, 0.0, 255.0), (float("nan"),), (float("inf"),)]
)
def test_a_colour_that_does_not_fit_is_refused(maker: object, colour: tuple[float, ...]) -> None:
    assert callable(maker)
    with pytest.raises(SettingsError, match=r"The colour .* does not fit images of 3 channels.*one a channel"):
        maker(COLOUR, 4, "top-left", colour)


def test_three_values_do_not_colour_a_grey_image() -> None:
    with pytest.raises(SettingsError, match=r"The colour 1, 0, 0 does not fit images of 1 channels"):
        patterns.square(GREY, 4, colour=(1.0, 0.0, 0.0))


# --- the kinds ---


def test_noise_is_drawn_by_its_generator() -> None:
    first, again, other = (sized("noise", COLOUR, 8, seed=seed).pattern for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    inside = first[0, :, 23:31, 23:31]
    assert len(inside.unique()) > 100 and not torch.equal(inside[0], inside[1])


@given(st.integers(1, 28))
@settings(deadline=None, max_examples=10)
def test_a_checkerboard_alternates(size: int) -> None:
    trigger = patterns.checkerboard(GREY, size, "0,0")
    board = trigger.pattern[0, 0, :size, :size]
    assert board[0, 0] == 1
    assert ((board[1:] + board[:-1]) == 1).all() and ((board[:, 1:] + board[:, :-1]) == 1).all()
    assert trigger.size().item() == size**2  # black fields belong to it


@given(st.integers(1, 28))
@settings(deadline=None, max_examples=10)
def test_a_triangle_is_half_a_square_with_its_diagonal(size: int) -> None:
    trigger = patterns.triangle(GREY, size, "0,0")
    mask = trigger.mask[0, 0, :size, :size]
    assert trigger.size().item() == size * (size + 1) / 2
    assert (mask[-1] == 1).all() and (mask[:, -1] == 1).all()
    assert torch.equal(mask, mask.T)
    assert (mask.diff(dim=0) >= 0).all()


@pytest.mark.parametrize("share", [1 / 255, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_a_blend_has_a_constant_mask(share: float, shape: Shape) -> None:
    trigger = patterns.blend(shape, share, seeded())
    check_law(trigger, shape)
    assert (trigger.mask == trigger.mask[0, 0, 0, 0]).all()
    assert trigger.mask[0, 0, 0, 0].item() == pytest.approx(share, abs=0.501 / 255)
    assert trigger.pattern.mean().item() == pytest.approx(0.5, abs=0.05)
    assert not torch.equal(trigger.pattern, patterns.blend(shape, share, seeded(1)).pattern)


@pytest.mark.parametrize("share", [0.0, 0.001, -0.2, 1.01, float("nan"), float("inf")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    """0.001 would round to no trigger at all."""
    with pytest.raises(SettingsError, match=r"share of the blended pattern is .* to 1 is needed"):
        patterns.blend(GREY, share, seeded())


# --- masks by area ---


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("area", [0.02, 0.07, 0.5])
def test_masks_cover_the_area_asked_for(shape: Shape, area: float) -> None:
    """The watermark to the pixel, the square to half a pixel of its side."""
    _, height, width = shape
    watermark = patterns.watermark_mask(shape, area)
    assert watermark.shape == (1, height, width)
    assert set(watermark.unique().tolist()) == {0, 1}
    assert int(watermark.sum()) == round(area * height * width)
    square = patterns.square_mask(shape, area, "bottom-right")
    assert abs(square.sum().sqrt().item() - (area * height * width) ** 0.5) <= 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_a_watermark_spreads_over_the_whole_image(shape: Shape) -> None:
    """The ring passes all eight outer ninths; the cross in it needs more pixels than 7 % of a small image."""
    mask = patterns.watermark_mask(shape, 0.07)[0]
    ninths = [part for rows in mask.tensor_split(3, dim=0) for part in rows.tensor_split(3, dim=1)]
    centre = ninths.pop(4)
    assert all(part.any() for part in ninths)
    assert centre.any() == (shape[1] > 32)
    assert patterns.watermark_mask(shape, 0.2)[0].tensor_split(3, dim=0)[1].tensor_split(3, dim=1)[1].any()


@pytest.mark.parametrize("area", [0.0, -0.1, 0.51, 1.0, 7.0, float("nan"), float("inf")])
def test_an_area_out_of_range_is_refused(area: float) -> None:
    with pytest.raises(SettingsError, match=r"of the image: above 0 to 50% is possible"):
        patterns.checked_area(area)


def test_an_area_in_range_stays_as_it_is() -> None:
    assert [patterns.checked_area(area) for area in (1e-9, 0.07, 0.5)] == [1e-9, 0.07, 0.5]


def test_an_area_without_a_pixel_is_refused() -> None:
    with pytest.raises(SettingsError, match="has not one pixel"):
        patterns.watermark_mask(GREY, 0.0001)
    with pytest.raises(SettingsError, match="0 pixels does not fit"):
        patterns.square_mask(GREY, 0.0001, "bottom-right")


# --- tiles ---


@given(st.sampled_from(SHAPES[:3]), st.integers(1, 14), st.data())
@settings(deadline=None, max_examples=30)
def test_tiles_are_mutually_exclusive(shape: Shape, size: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, (shape[1] // size) * (shape[2] // size)))
    made = patterns.tiles(shape, min(count, 60), size, seeded(data.draw(st.integers(0, 99))))
    for trigger in made:
        check_law(trigger, shape)
        assert trigger.size().item() == size**2
    assert len(made) == min(count, 60)
    assert torch.cat([trigger.mask for trigger in made]).sum(0).max() == 1


def test_too_many_tiles_are_refused() -> None:
    assert len(patterns.tiles(GREY, 49, 4, seeded())) == 49
    with pytest.raises(SettingsError, match=r"50 triggers of 4x4 .*At most 49 do"):
        patterns.tiles(GREY, 50, 4, seeded())


@pytest.mark.parametrize("size", [0, -4, 29])
def test_tiles_of_no_size_are_refused(size: int) -> None:
    with pytest.raises(SettingsError, match=rf"{size} pixels does not fit"):
        patterns.tiles(GREY, 2, size, seeded())


# --- pictures ---


def saved(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


def pixels_of(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, size, dtype=np.uint8)


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_alpha_is_the_mask(shape: Shape, tmp_path: Path) -> None:
    array = pixels_of(6, 9, 4)
    array[0, 0, 3], array[2, 3, 3] = 0, 255
    trigger = patterns.picture(shape, saved(tmp_path / "picture.png", array), place="2,3")
    check_law(trigger, shape)
    assert torch.equal((trigger.mask[0, 0, 2:8, 3:12] * 255).round().to(torch.uint8), torch.from_numpy(array[..., 3]))
    if shape == COLOUR:
        expected = array[..., :3] * (array[..., 3:] > 0)
        inside = trigger.pattern[0, :, 2:8, 3:12].permute(1, 2, 0)
        assert torch.equal((inside * 255).round().to(torch.uint8), torch.from_numpy(expected))


@pytest.mark.parametrize("shape", [GREY, COLOUR])
@pytest.mark.parametrize("size", [(6, 9), (6, 9, 3)])
def test_a_picture_without_alpha_is_opaque(shape: Shape, size: tuple[int, ...], tmp_path: Path) -> None:
    array = pixels_of(*size)
    trigger = patterns.picture(shape, saved(tmp_path / "picture.png", array), place="0,0")
    check_law(trigger, shape)
    assert trigger.size().item() == 54 and box(trigger) == (0, 0, 6, 9)
    if shape[0] == len(size):  # three channels on three
        expected = torch.from_numpy(array).permute(2, 0, 1)
        assert torch.equal((trigger.pattern[0, :, :6, :9] * 255).round().to(torch.uint8), expected)


def test_a_grey_picture_is_the_same_in_every_channel(tmp_path: Path) -> None:
    pattern = patterns.picture(COLOUR, saved(tmp_path / "picture.png", pixels_of(6, 9))).pattern[0]
    assert torch.equal(pattern[0], pattern[1]) and torch.equal(pattern[0], pattern[2])


def test_grey_with_alpha_and_palette_transparency_are_masks(tmp_path: Path) -> None:
    layered = Image.merge("LA", (Image.new("L", (5, 5), 90), Image.new("L", (5, 5), 51)))
    layered.save(tmp_path / "la.png")
    assert patterns.picture(GREY, tmp_path / "la.png").size().item() == pytest.approx(5)
    palette = Image.new("P", (5, 5), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((2, 2), 0)
    palette.save(tmp_path / "p.png", transparency=0)
    assert patterns.picture(COLOUR, tmp_path / "p.png").size().item() == 24


@pytest.mark.parametrize(("size", "expected"), [(1, (1, 1)), (4, (2, 4)), (8, (4, 8)), (28, (14, 28))])
def test_size_is_the_longer_side(size: int, expected: tuple[int, int], tmp_path: Path) -> None:
    trigger = patterns.picture(GREY, saved(tmp_path / "picture.png", pixels_of(8, 16)), size, "top-left")
    check_law(trigger, GREY)
    top, left, bottom, right = box(trigger)
    assert (bottom - top, right - left) == expected


@pytest.mark.parametrize("size", [0, -1, 29, 10**9])
def test_a_picture_of_no_such_size_is_refused(size: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "picture.png", pixels_of(8, 16))
    with pytest.raises(SettingsError, match=rf"{size} pixels does not fit into images of 28x28"):
        patterns.picture(GREY, path, size)


def test_a_picture_larger_than_the_image_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "picture.png", pixels_of(8, 29))
    with pytest.raises(SettingsError, match=r"8x29 pixels at bottom-right does not fit into 28x28"):
        patterns.picture(GREY, path)
    assert patterns.picture(GREY, path, 28).size().item() == 8 * 28


def test_a_picture_larger_than_the_image_can_be_made_to_fit_a_tall_one(tmp_path: Path) -> None:
    trigger = patterns.picture(TALL, saved(tmp_path / "picture.png", pixels_of(110, 20)), 55)
    top, left, bottom, right = box(trigger)
    assert (bottom - top, right - left) == (55, 10)


def test_a_transparent_picture_is_refused(tmp_path: Path) -> None:
    array = pixels_of(6, 9, 4)
    array[..., 3] = 0
    with pytest.raises(DataError, match=r"picture\.png is transparent everywhere"):
        patterns.picture(GREY, saved(tmp_path / "picture.png", array))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.png", pixels_of(20, 20, 3)).read_bytes()
    for name, content in (("text.png", b"no picture"), ("empty.png", b""), ("cut.png", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(content)
    for name in ("text.png", "empty.png", "cut.png", "missing.png", "."):
        with pytest.raises(DataError, match=r"The trigger image .* cannot be read: "):
            patterns.picture(GREY, tmp_path / name)


def test_damaged_files_never_end_in_anything_but_a_refusal(tmp_path: Path) -> None:
    draw, path = np.random.default_rng(0), tmp_path / "damaged"
    for kind in ("png", "gif", "bmp", "jpeg", "tga"):
        Image.fromarray(pixels_of(12, 12, 3)).save(path, kind)
        whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        for _ in range(15):
            damaged = whole.copy()
            damaged[draw.integers(0, len(damaged), 4)] = draw.integers(0, 256, 4)
            path.write_bytes(damaged.tobytes())
            try:
                check_law(patterns.picture(COLOUR, path, 8), COLOUR)
            except (DataError, SettingsError) as error:
                assert "trigger image" in str(error)


@pytest.mark.parametrize("side", [10_000, 14_000])
def test_a_decompression_bomb_is_refused(side: int, tmp_path: Path) -> None:
    """Pillow warns of the first and refuses the second."""
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    with pytest.raises(DataError, match="decompression bomb"):
        patterns.picture(GREY, tmp_path / "bomb.png", 4)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_more_than_eight_bits_a_pixel_are_refused(kind: type, tmp_path: Path) -> None:
    """Pillow would clip them to white."""
    path = tmp_path / "deep.tiff"
    Image.fromarray((np.arange(64).reshape(8, 8) * 1000).astype(kind)).save(path)
    with pytest.raises(DataError, match="more than 8 bits a pixel"):
        patterns.picture(GREY, path)
