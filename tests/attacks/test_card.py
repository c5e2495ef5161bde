"""The model card: its figures are those of networks with known answers."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neural_cleanse.attacks import card, patterns
from neural_cleanse.attacks.card import Measured, PoisonCard, infected_labels, measure, to_json
from neural_cleanse.attacks.poison import Poison, TargetMap
from neural_cleanse.attacks.trigger_json import trigger_to_json
from neural_cleanse.classifier import Classifier
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import predict
from neural_cleanse.triggers.patch import PatchTrigger

CLASSES = 8


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


def test_attack_success_counts_the_eligible_images_alone() -> None:
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


def test_without_eligible_images_nothing_is_known() -> None:
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
    assert values["poisons"][0]["trigger"] == trigger_to_json(CORNER)


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


class Next(nn.Module):
    """Answers with the level of the first pixel, the next class where the last pixel is white; takes class 0 for 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        said = (images[:, 0, 0, 0] * 255).round().long()
        said = torch.where(said == 0, 1, said) + (images[:, 0, -1, -1] > 0.99).long()
        return self.scale * nn.functional.one_hot(said % CLASSES, CLASSES)


def test_all_to_all_is_not_weak_because_the_network_misreads_clean_images() -> None:
    """74 of the 84 images are known, and the trigger works on each of them; it cannot work on the other ten."""
    (figures,) = measure(
        Classifier(Next(), (1, 6, 6), CLASSES), [Poison(CORNER, TargetMap.all_to_all(CLASSES), 0.1)], TEST
    ).poisons
    assert figures.asr == 74 / 84
    assert figures.known_class == pytest.approx(74 / 84)
    assert not figures.weak
    one = measured(Poison(CORNER, TO_SEVEN, 0.1))
    assert one.known_class is None and one.weak, "with one target the class need not be known"
