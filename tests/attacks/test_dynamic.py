"""The input-aware attack: a sparse mask, patterns of each image's own, and a network that tells them apart."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from networks import seeded

from neural_cleanse.attacks import dynamic
from neural_cleanse.attacks.base import AttackContext
from neural_cleanse.attacks.by_name import attack
from neural_cleanse.attacks.dynamic import DENSITY, diversity, with_sparse_mask
from neural_cleanse.attacks.poison import Poison
from neural_cleanse.attacks.train import Training, TrainingContext, initial
from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.architectures import ARCHITECTURES
from neural_cleanse.metrics import pixels, predict, triggered_answers
from neural_cleanse.triggers.generated import GeneratedTrigger, num_weights

SHAPE = (1, 28, 28)
Trained = tuple[torch.nn.Module, Poison, Poison]


@pytest.fixture(scope="module")
def starts() -> list[GeneratedTrigger]:
    """The triggers with a sparse mask that the training below began with: one."""
    return []


@pytest.fixture(scope="module")
def trained(digits: ImageSet, starts: list[GeneratedTrigger]) -> Trained:
    """A network with the backdoor, the poison as it was planned and as it came out."""
    module = initial(ARCHITECTURES["mnist_cnn_half"].build, 10, 0)
    planned = attack("input-aware", AttackContext(SHAPE, 10, seeded()), {"target": 3, "rate": 0.3})
    bench = TrainingContext(Training(epochs=15, batch_size=20), 0, digits, 10)

    def kept(*given: Any) -> GeneratedTrigger:
        start = with_sparse_mask(*given)
        starts.append(replace(start, weights=start.weights.clone()))
        return start

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic, "with_sparse_mask", kept)
        (made,) = planned.rule(module, digits, planned.poisons, bench)
    return module, planned.poisons[0], made


def test_most_images_with_their_own_pattern_go_to_the_target(trained: Trained, digits: ImageSet) -> None:
    module, planned, made = trained
    assert digits.labels is not None
    rows = made.eligible(digits.labels)
    classifier = Classifier(module, SHAPE, 10)
    before, after = (
        (triggered_answers(classifier, one.trigger, digits.images[rows]) == 3).float().mean() for one in (planned, made)
    )
    assert after > 0.6 and after > before + 0.4


def test_clean_images_keep_their_label_and_most_crossed_ones_too(trained: Trained, digits: ImageSet) -> None:
    module, _, made = trained
    assert made.cover is not None and digits.labels is not None
    classifier = Classifier(module, SHAPE, 10)
    crossed = predict(classifier, made.cover(digits.images, seeded()))
    own = triggered_answers(classifier, made.trigger, digits.images)
    assert (predict(classifier, digits.images) == digits.labels).float().mean() > 0.75
    assert (crossed == digits.labels).float().mean() > 0.45
    assert (crossed == 3).float().mean() < (own == 3).float().mean() - 0.3


def test_the_masks_network_is_not_trained_with_the_rest(trained: Trained, starts: list[GeneratedTrigger]) -> None:
    _, _, made = trained
    of_mask, _ = num_weights(1)
    (start,) = starts
    before, after = (one.tensors()["weights"][0] for one in (start, made.trigger))
    assert torch.equal(before[:of_mask], after[:of_mask])
    assert not torch.equal(before[of_mask:], after[of_mask:])


def test_the_weights_are_in_half_precision(trained: Trained) -> None:
    weights = trained[2].trigger.tensors()["weights"]
    assert torch.equal(weights, weights.half().float())
    assert not weights.requires_grad


@pytest.mark.usefixtures("trained")
def test_the_mask_is_sparse_and_hangs_on_the_image(
    digits: ImageSet, starts: list[GeneratedTrigger], monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = attack("input-aware", AttackContext(SHAPE, 10, seeded()), {}).poisons
    assert isinstance(one.trigger, GeneratedTrigger)
    (start,) = starts
    masks, _ = start.mask_and_pattern(pixels(digits.images))
    untrained, _ = one.trigger.mask_and_pattern(pixels(digits.images))
    assert masks.mean() < 1.5 * DENSITY
    assert (masks > 0.5).float().mean() > DENSITY / 2 > (untrained > 0.5).float().mean(), "nearly 0 or 1"
    assert masks.std(0).max() > 0.1
    monkeypatch.setattr(dynamic, "MASK_STEPS", 5)
    first, second, other = (with_sparse_mask(one.trigger, digits, seeded(seed)).weights for seed in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_diversity_is_small_where_different_images_get_different_patterns() -> None:
    images, patterns = (torch.rand(8, 1, 5, 5, generator=seeded(seed)) for seed in (1, 2))
    alike = patterns[:1].expand(8, -1, -1, -1)
    assert diversity(images, patterns) < 2 < diversity(images, alike)
    assert diversity(images, images).item() == pytest.approx(1, abs=1e-4)


def test_batches_of_one_image_can_be_trained_on(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last batch of an epoch may be any size."""
    monkeypatch.setattr(dynamic, "MASK_STEPS", 1)
    module = initial(ARCHITECTURES["mnist_cnn_half"].build, 10, 0)
    planned = attack("input-aware", AttackContext(SHAPE, 10, seeded()), {"target": 3})
    bench = TrainingContext(Training(epochs=1, batch_size=20), 0, digits, 10)
    few = digits.take(torch.arange(21))
    (made,) = planned.rule(module, few, planned.poisons, replace(bench, validation=few))
    assert made.trigger.tensors()["weights"].isfinite().all()
    assert all(parameter.isfinite().all() for parameter in module.parameters())
