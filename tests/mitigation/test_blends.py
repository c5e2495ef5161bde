"""Faint patterns over the whole image: recovered at a fixed share, and unlearned with the patch of their label."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import attack_hits
from neural_cleanse.mitigation import blends, family
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.mitigation.blends import STRENGTH, search_blends
from neural_cleanse.mitigation.family import Renewal
from neural_cleanse.results.records import LabelPair
from neural_cleanse.triggers.patch import PatchTrigger

TARGET = 4


@pytest.fixture(autouse=True)
def _whole_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many steps as users have."""
    monkeypatch.setattr(blends, "STEPS", 100)


class Blended(nn.Module):
    """A classifier that answers TARGET where images lean to a chessboard."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        rows, columns = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
        self.register_buffer("board", ((rows + columns) % 2).float() * 2 - 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        lean = (images * self.board).mean((1, 2, 3)) - 0.05
        logits: torch.Tensor = self.inner(images)
        return logits + nn.functional.softplus(600 * lean, beta=0.1).unsqueeze(1) * torch.eye(10)[TARGET]


def planted(clean: Classifier) -> Classifier:
    return Classifier(Blended(clean.module), clean.input_shape, clean.num_classes)


def test_a_planted_pattern_is_recovered(clean: Classifier, digits: ImageSet) -> None:
    model, pair = planted(clean), LabelPair(TARGET)
    assert digits.labels is not None
    few, others = digits.take(torch.arange(300)), digits.images[300:][digits.labels[300:] != TARGET]
    found = search_blends(model, [pair], few, 0)
    assert len(found) == 1 and all(one.pair == pair and one.natural is None for one in found)
    for one in found:
        assert isinstance(one.trigger, PatchTrigger)
        assert torch.equal(one.trigger.mask, torch.full((1, 1, 28, 28), STRENGTH))
        assert attack_hits(model, one.trigger, others, TARGET) > 0.95 * len(others)


def test_the_same_seed_finds_the_same_and_another_other_patterns(clean: Classifier, digits: ImageSet) -> None:
    few = digits.take(torch.arange(60))
    runs = [[one.trigger for one in search_blends(clean, [LabelPair(2)], few, seed)] for seed in (0, 0, 1)]
    patterns = [[trigger.pattern for trigger in run if isinstance(trigger, PatchTrigger)] for run in runs]
    assert all(torch.equal(*pair) for pair in zip(patterns[0], patterns[1], strict=True))
    assert not torch.equal(patterns[0][0], patterns[2][0])


def test_a_pair_without_images_has_none(clean: Classifier, digits: ImageSet) -> None:
    assert digits.labels is not None
    alone = replace(digits, labels=torch.full_like(digits.labels, 3)).take(torch.arange(20))
    assert search_blends(clean, [LabelPair(3)], alone, 0) == ()


def test_patterns_are_searched_for_anew_while_a_network_is_taught(
    clean: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "OCCASIONS", 4)
    patch = PatchTrigger(torch.zeros(1, 1, 28, 28), torch.zeros(1, 1, 28, 28))
    renewal = Renewal(clean, (Backdoor(LabelPair(TARGET), patch, 1.0),), digits.take(torch.arange(100)), 8, 0)
    found = [[one for one in renewal.after(batch, clean) if one.natural is None] for batch in range(8)]
    assert [len(each) for each in found] == [1] * 8, "the newest alone"
    assert len({id(each[0]) for each in found}) == 4, "every second batch"
    of_one_class = Renewal(clean, (Backdoor(LabelPair(TARGET, 1), patch, 1.0),), digits.take(torch.arange(100)), 8, 0)
    assert all(one.natural is not None for one in of_one_class.after(0, clean)), "no pattern for all classes"
