"""Triggers on a card: each comes back bit for bit, and what is none is refused."""

import base64
import copy
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from neural_cleanse.attacks import patterns
from neural_cleanse.attacks.base import AttackContext
from neural_cleanse.attacks.by_name import attack
from neural_cleanse.attacks.patterns import Shape
from neural_cleanse.attacks.trigger_json import trigger_from_json as from_json
from neural_cleanse.attacks.trigger_json import trigger_to_json as to_values
from neural_cleanse.choices import PLACES
from neural_cleanse.errors import OutputError
from neural_cleanse.triggers.base import Trigger
from neural_cleanse.triggers.generated import GeneratedTrigger
from neural_cleanse.triggers.patch import PatchTrigger

KINDS = ("square", "noise", "checkerboard", "triangle", "blend", "tiles", "masks")


def written(trigger: Trigger) -> dict[str, Any]:
    """The trigger through the text of a JSON file."""
    values = json.loads(json.dumps(to_values(trigger), allow_nan=False))
    assert isinstance(values, dict)
    return values


def equal(one: Trigger, other: Trigger) -> bool:
    first, second = one.tensors(), other.tensors()
    return (
        type(one) is type(other)
        and one.image_shape == other.image_shape
        and first.keys() == second.keys()
        and all(torch.equal(first[name], second[name]) for name in first)
    )


# --- patches ---


def any_trigger(draw: Callable[..., Any]) -> PatchTrigger:
    """Every maker, on images of every kind, at every place."""
    kind = draw(st.sampled_from(KINDS))
    shape: Shape = (draw(st.sampled_from([1, 3])), draw(st.integers(4, 20)), draw(st.integers(4, 20)))
    size = draw(st.integers(1, min(shape[1:])))
    place = draw(
        st.sampled_from(list(PLACES))
        | st.builds(lambda top, left: f"{top},{left}", st.integers(0, shape[1] - size), st.integers(0, shape[2] - size))
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    colour = tuple(draw(st.lists(st.floats(0, 1), min_size=shape[0], max_size=shape[0])))
    if kind == "noise":
        return patterns.noise(shape, size, generator, place)
    if kind == "blend":
        return patterns.blend(shape, draw(st.floats(1 / 255, 1)), generator)
    if kind == "tiles":
        return patterns.tiles(shape, 1, size, generator)[0]
    if kind == "masks":  # as the Trojan attack fills them
        area = draw(st.floats(0.1, 0.5))
        mask = draw(st.sampled_from([patterns.watermark_mask(shape, area), torch.ones(1, *shape[1:])]))
        return PatchTrigger(mask[None], torch.randint(256, (1, *shape), generator=generator) / 255 * mask)
    makers = {"square": patterns.square, "checkerboard": patterns.checkerboard, "triangle": patterns.triangle}
    return makers[kind](shape, size, place, colour)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_a_trigger_comes_back_bit_for_bit(data: st.DataObject) -> None:
    trigger = any_trigger(data.draw)
    assert equal(from_json(written(trigger)), trigger)


@given(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_a_picture_with_transparent_borders_comes_back_bit_for_bit(
    channels: int, height: int, width: int, seed: int
) -> None:
    """What lies under no mask is no part of the trigger."""
    draw = np.random.default_rng(seed)
    array = draw.integers(0, 256, (height, width, 4), dtype=np.uint8)
    array[..., 3] *= draw.random((height, width)) < 0.3
    array[draw.integers(height), draw.integers(width), 3] = 255
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "picture.png"
        Image.fromarray(array).save(path)
        trigger = patterns.picture((channels, 12, 12), path, place="middle-centre")
    assert equal(from_json(written(trigger)), trigger)


def test_a_card_holds_the_box_around_the_mask() -> None:
    values = written(patterns.square((1, 8, 8), 2, "3,4", (0.2,)))
    assert values == {
        "kind": "patch",
        "image": [1, 8, 8],
        "corner": [3, 4],
        "mask": [[255, 255], [255, 255]],
        "pattern": [[[51, 51], [51, 51]]],
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_an_empty_mask_comes_back_empty(channels: int) -> None:
    empty = PatchTrigger(torch.zeros(1, 1, 6, 5), torch.zeros(1, channels, 6, 5))
    assert equal(from_json(written(empty)), empty)


def changed(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda values: values.__setitem__(key, value)


GOOD = written(patterns.square((3, 8, 8), 2, "3,4"))
MALFORMED = {
    **{f"no {key}": (lambda values, key=key: values.pop(key)) for key in GOOD},
    **{
        f"{key} {value!r}": changed(key, value)
        for key in ("image", "corner", "mask", "pattern")
        for value in (None, 5, "text", [], {}, [[]], [None, None, None], ["a", "b"], [1.5, 1.5, 1.5])
    },
    **{f"image {value}": changed("image", value) for value in ([3, 8], [3, 8, 8, 8], [-3, 8, 8], [0, 0, 0], [1, 8, 8])},
    "image beyond memory": changed("image", [3, 10**12, 10**12]),
    "image beyond integers": changed("image", [3, 10**30, 8]),
    **{
        f"corner {value}": changed("corner", value)
        for value in ([7, 4], [3, 7], [-4, 4], [3, -5], [100, 0], [10**30, 0], [1])
    },
    **{
        f"mask {value}": changed("mask", value)
        for value in ([[255]], [[255, 255], [255]], [[256, 0], [0, 0]], [[-1, 0], [0, 0]], [[float("nan"), 0], [0, 0]])
    },
    **{
        f"pattern {value}": changed("pattern", value)
        for value in (255, [[[255]]], [[[255, 255], [255, 255]]], [[[300, 0], [0, 0]]] * 3, [[[10**30, 0], [0, 0]]] * 3)
    },
    "kind": changed("kind", "warp"),
    "unknown kind": changed("kind", "spell"),
    "no kind of text": changed("kind", ["patch"]),
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_trigger_is_refused(what: str) -> None:
    values = copy.deepcopy(GOOD)
    MALFORMED[what](values)
    with pytest.raises(OutputError, match=r"The card's trigger cannot be read"):
        from_json(values)


def test_the_demos_card_holds_its_trigger(demo_files: Path) -> None:
    """A white 4x4 square, one pixel from the bottom right corner, sends digits to 3."""
    (one,) = json.loads((demo_files / "infected.card.json").read_text(encoding="utf-8"))["poisons"]
    assert equal(from_json(one["trigger"]), patterns.square((1, 28, 28), 4))
    assert one["targets"] == 3


# --- every other kind ---

WHOLE_IMAGE = ("filter", "input-aware", "low-frequency", "quantised", "sinusoidal", "wanet")
SHAPES: list[Shape] = [(1, 12, 12), (3, 10, 16)]


def planned(name: str, shape: Shape) -> Trigger:
    (one,) = attack(name, AttackContext(shape, 10, torch.Generator().manual_seed(3)), {"target": 1}).poisons
    return one.trigger


@pytest.mark.parametrize("shape", SHAPES, ids=["grey", "colour"])
@pytest.mark.parametrize("name", WHOLE_IMAGE)
def test_a_trigger_of_another_kind_comes_back_bit_for_bit(name: str, shape: Shape) -> None:
    trigger = planned(name, shape)
    if isinstance(trigger, GeneratedTrigger):  # as training leaves the weights
        trigger = replace(trigger, weights=trigger.weights.half().float())
    again = from_json(written(trigger))
    assert equal(again, trigger)
    images = torch.rand(1, 4, *shape, generator=torch.Generator().manual_seed(4))
    assert torch.equal(again(images), trigger(images))


NUMBERS = {"sinusoidal": "pattern", "quantised": "curves", "wanet": "points"}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", [None, 5, "text", [], {}, [[]], [[[]]], [[[0.5]]], [[["a"]]], [float("nan")], [10**30]]
)
def test_malformed_numbers_are_refused(name: str, value: object) -> None:
    values = {**written(planned(name, SHAPES[0])), NUMBERS[name]: value}
    with pytest.raises(OutputError, match="The card's trigger cannot be read"):
        from_json(values)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 10**6])
def test_a_value_out_of_range_is_refused(name: str, wrong: float) -> None:
    values = written(planned(name, SHAPES[0]))
    inner = values[NUMBERS[name]]
    while isinstance(inner[0], list):
        inner = inner[0]
    inner[0] = wrong
    if name == "wanet" and wrong == 10**6:  # far, but a place: the clamp at the border holds it
        assert from_json(values)(torch.rand(1, 2, *SHAPES[0])).isfinite().all()
        return
    with pytest.raises(OutputError, match="The card's trigger cannot be read"):
        from_json(values)


@pytest.mark.parametrize(
    "value", [None, 5, [], "no letters!", "AAAA", base64.b64encode(b"\x00\x7c" * 4962).decode(), "A" * 10**6]
)
def test_weights_that_are_none_are_refused(value: object) -> None:
    """Among them infinities, and more of them than there are."""
    values = {**written(planned("input-aware", SHAPES[0])), "weights": value}
    with pytest.raises(OutputError, match="The card's trigger cannot be read"):
        from_json(values)


@pytest.mark.parametrize("name", WHOLE_IMAGE)
@pytest.mark.parametrize(
    "image",
    [None, [1, 12], [0, 12, 12], [-1, 12, 12], [1.0, 12, 12], [1, "12", 12], [1, 10**12, 10**12], [2**40, 1, 1]],
)
def test_an_image_that_is_none_is_refused(name: str, image: object) -> None:
    values = {**written(planned(name, SHAPES[0])), "image": image}
    with pytest.raises(OutputError, match="The card's trigger cannot be read"):
        from_json(values)
