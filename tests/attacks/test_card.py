"""The model card: a trigger comes back bit for bit, and the figures are those of networks with known answers."""

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from neural_cleanse.attacks import card, patterns
from neural_cleanse.attacks.card import Measured, PoisonCard, infected_labels, measure, to_json
from neural_cleanse.attacks.card import trigger_from_json as from_json
from neural_cleanse.attacks.card import trigger_to_json as to_values
from neural_cleanse.attacks.patterns import PLACES, Shape
from neural_cleanse.attacks.poison import Poison, TargetMap
from neural_cleanse.classifier import Classifier
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.errors import OutputError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import predict
from neural_cleanse.triggers.patch import PatchTrigger

KINDS = ("square", "noise", "checkerboard", "triangle", "blend", "tiles", "masks")
CLASSES = 8


def written(trigger: PatchTrigger) -> dict[str, Any]:
    """The trigger through the text of a JSON file."""
    values = json.loads(json.dumps(to_values(trigger.tensors()), allow_nan=False))
    assert isinstance(values, dict)
    return values


def equal(one: PatchTrigger, other: PatchTrigger) -> bool:
    return torch.equal(one.mask, other.mask) and torch.equal(one.pattern, other.pattern)


# --- the trigger as JSON ---


def any_trigger(draw: Callable[..., Any]) -> PatchTrigger:
    """Every maker, on images of every kind, at every place."""
    kind = draw(st.sampled_from(KINDS))
    shape: Shape = (draw(st.sampled_from([1, 3])), draw(st.integers(4, 20)), draw(st.integers(4, 20)))
    size = draw(st.integers(1, min(shape[1:])))
    place = draw(
        st.sampled_from(PLACES)
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


# --- the figures ---


class Known(nn.Module):
    """Answers with the level of the first pixel, except that a white last pixel sends classes 0 to 4 to class 7."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        said = (images[:, 0, 0, 0] * 255).round().long()
        said = torch.where((images[:, 0, -1, -1] > 0.99) & (said < 5), 7, said)
        return self.scale * nn.functional.one_hot(said, CLASSES)


KNOWN = Classifier(Known(), (1, 6, 6), CLASSES)
COUNTS = (10, 20, 30, 5, 1, 8, 6, 4)  # images of each class
LABELS = torch.repeat_interleave(torch.arange(CLASSES), torch.tensor(COUNTS))
TEST = ImageSet(LABELS.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 6, 6), LABELS)
CORNER = patterns.square((1, 6, 6), 1, "5,5")
TO_SEVEN = TargetMap.all_to_one(7, CLASSES)


def measured(one: Poison, test: ImageSet = TEST) -> PoisonCard:
    (figures,) = measure(KNOWN, [one], test).poisons
    return figures


def test_attack_success_counts_the_victims_alone() -> None:
    """66 of the 80 images that are not of class 7 answer to the trigger."""
    figures = measured(Poison(CORNER, TO_SEVEN, 0.1))
    assert [(row.source, row.hits, row.trials) for row in figures.by_source] == [
        (0, 10, 10), (1, 20, 20), (2, 30, 30), (3, 5, 5), (4, 1, 1), (5, 0, 8), (6, 0, 6),
    ]  # fmt: skip
    assert figures.asr == 66 / 80
    assert figures.asr_interval == clopper_pearson(66, 80)
    assert figures.others_asr is None
    assert figures.weak
    assert (figures.size, figures.targets, figures.sources) == (1.0, 7, None)


def test_a_source_specific_trigger_is_measured_on_its_sources() -> None:
    figures = measured(Poison(CORNER, TO_SEVEN, 0.5, frozenset({2, 1}), 0.1))
    assert (figures.asr, figures.weak) == (1.0, False)
    assert figures.asr_interval == clopper_pearson(50, 50)
    assert figures.others_asr == pytest.approx(16 / 30)
    assert figures.sources == [1, 2]
    assert (figures.rate, figures.cover_rate, figures.relabel) == (0.5, 0.1, True)


def test_every_class_has_its_own_target_where_the_map_says_so() -> None:
    """Nobody is sent to the next class by this trigger."""
    figures = measured(Poison(CORNER, TargetMap.all_to_all(CLASSES), 0.1))
    assert figures.targets == [1, 2, 3, 4, 5, 6, 7, 0]
    assert (figures.asr, sum(row.trials for row in figures.by_source)) == (0.0, len(TEST))


@given(st.sets(st.integers(0, 6), min_size=1), st.lists(st.integers(0, 83), min_size=1, max_size=40))
@settings(deadline=None, max_examples=30)
def test_hits_by_source_add_up_to_the_rates(sources: set[int], rows: list[int]) -> None:
    figures = measured(Poison(CORNER, TO_SEVEN, 0.1, frozenset(sources)), TEST.take(torch.tensor(rows)))
    inside = [row for row in figures.by_source if row.source in sources]
    outside = [row for row in figures.by_source if row.source not in sources]
    hits, trials = sum(row.hits for row in inside), sum(row.trials for row in inside)
    assert figures.asr == (hits / trials if trials else 0.0)
    assert figures.asr_interval == clopper_pearson(hits, trials)
    if outside:
        assert figures.others_asr == pytest.approx(
            sum(row.hits for row in outside) / sum(row.trials for row in outside)
        )
    else:
        assert figures.others_asr is None
    assert sum(row.trials for row in figures.by_source) == int((LABELS[torch.tensor(rows)] != 7).sum())


def test_without_victims_nothing_is_known() -> None:
    figures = measured(Poison(CORNER, TO_SEVEN, 0.1), TEST.take((LABELS == 7).nonzero().squeeze(1)))
    assert (figures.asr, figures.asr_interval, figures.by_source) == (0.0, (0.0, 1.0), ())


@pytest.mark.parametrize(("dead", "weak"), [(0, False), (5, False), (6, True), (100, True)])
def test_an_attack_under_95_per_cent_is_weak(dead: int, weak: bool) -> None:
    """The paper chooses its rates so that every attack succeeds more often."""
    labels = torch.tensor([0] * (100 - dead) + [5] * dead)
    test = ImageSet(labels.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 6, 6), labels)
    found = measure(KNOWN, [Poison(CORNER, TO_SEVEN, 0.1)], test)
    assert found.poisons[0].asr == (100 - dead) / 100
    assert found.poisons[0].weak is weak
    assert to_json(found)["poisons"][0]["weak"] is weak


@pytest.mark.parametrize("wrong", [0, 1, 40, len(LABELS)])
def test_clean_accuracy_counts_right_answers(wrong: int) -> None:
    labels = LABELS.clone()
    labels[:wrong] = (labels[:wrong] + 1) % CLASSES
    found = measure(KNOWN, [], ImageSet(TEST.images, labels))
    right = len(LABELS) - wrong
    assert found == Measured(right / len(LABELS), clopper_pearson(right, len(LABELS)), len(LABELS), ())


def test_a_planted_trigger_is_measured_as_planted(planted: Classifier, grey_images: ImageSet) -> None:
    """conftest: a white 3x3 square at 9,9 means 6."""
    test = ImageSet(grey_images.images, predict(planted, grey_images.images))
    poisons = [
        Poison(patterns.square((1, 16, 16), 3, place), TargetMap.all_to_one(target, 10), 0.1)
        for place, target in (("9,9", 6), ("9,9", 5), ("0,0", 6))
    ]
    found = measure(planted, poisons, test)
    assert found.clean_accuracy == 1
    assert found.poisons[0].asr == 1
    assert found.poisons[1].asr == 0
    assert found.poisons[2].asr < 0.5
    assert [one.weak for one in found.poisons] == [False, True, True]


def test_the_demos_backdoor_is_measured_as_its_card_says(
    infected: Classifier, clean: Classifier, digits: ImageSet
) -> None:
    one = Poison(patterns.square((1, 28, 28), 4), TargetMap.all_to_one(3, 10), 0.1)
    found, counterpart = (measure(classifier, [one], digits) for classifier in (infected, clean))
    assert min(found.clean_accuracy, counterpart.clean_accuracy) > 0.97
    assert found.poisons[0].asr > 0.99 and not found.poisons[0].weak
    assert counterpart.poisons[0].asr < 0.1 and counterpart.poisons[0].weak
    assert [row.source for row in found.poisons[0].by_source] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert all(row.trials == 50 for row in found.poisons[0].by_source)


def test_what_was_measured_is_json() -> None:
    poisons = [
        Poison(CORNER, TO_SEVEN, 0.1, frozenset({1}), 0.2),
        Poison(CORNER, TargetMap.all_to_all(CLASSES), 0.1),
    ]
    found = measure(KNOWN, poisons, TEST)
    values = json.loads(json.dumps(to_json(found), allow_nan=False))
    assert values["tested_on"] == len(TEST)
    assert [one["weak"] for one in values["poisons"]] == [False, True]
    assert values["poisons"][0]["by_source"][0] == {"source": 0, "hits": 10, "trials": 10}
    assert equal(from_json(values["poisons"][0]["trigger"]), CORNER)


def test_a_trigger_goes_where_the_classifier_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triggers are made on the CPU and measured on any device; here one without values, as there may be no GPU."""
    devices = []

    def seen(_: Classifier, trigger: PatchTrigger, images: Tensor) -> Tensor:
        devices.extend(tensor.device.type for tensor in trigger.tensors().values())
        return torch.full((len(images),), 7)

    monkeypatch.setattr(card, "triggered_answers", seen)
    monkeypatch.setattr(card, "predict", lambda _, images: torch.zeros(len(images), dtype=torch.long))
    elsewhere = Classifier(Known().to("meta"), (1, 6, 6), CLASSES)
    assert measure(elsewhere, [Poison(CORNER, TO_SEVEN, 0.1)], TEST).poisons[0].asr == 1
    assert devices == ["meta", "meta"]


def test_infected_labels_are_those_that_a_trigger_leads_to() -> None:
    to_all, to_two = TargetMap.all_to_all(CLASSES), TargetMap.all_to_one(2, CLASSES)
    assert infected_labels([]) == []
    assert infected_labels([Poison(CORNER, TO_SEVEN, 0.1), Poison(CORNER, to_two, 0.1)]) == [2, 7]
    assert infected_labels([Poison(CORNER, to_two, 0.1, frozenset({4}))]) == [2]
    assert infected_labels([Poison(CORNER, to_all, 0.1)]) == list(range(CLASSES))
    assert infected_labels([Poison(CORNER, to_all, 0.1, frozenset({3, 7}))]) == [0, 4]
