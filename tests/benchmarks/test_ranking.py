"""Neurons are ranked by how far the trigger lifts them, in units of what they do on clean images."""

import pytest
import torch
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import FORWARD_BATCH, pixels, stamped
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.results.records import LabelPair
from neural_cleanse.triggers.patch import PatchTrigger
from ranking import activation_gap, activations, features, rank

ZERO = PatchTrigger(torch.zeros(1, 1, 28, 28), torch.ones(1, 1, 28, 28))


def normal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_the_gap_is_in_clean_standard_deviations() -> None:
    clean = normal(400, 3) * torch.tensor([1.0, 2.0, 5.0])
    gap = activation_gap(clean, clean + torch.tensor([3.0, 3.0, 3.0]))
    assert torch.allclose(gap, 3 / clean.std(0))
    assert torch.allclose(gap, torch.tensor([3.0, 1.5, 0.6]), rtol=0.1)


def test_the_gap_knows_no_scale_and_no_offset() -> None:
    clean, triggered = normal(50, 6), normal(50, 6, 1) + 0.5
    scaled = activation_gap(4 * clean + 2, 4 * triggered + 2)
    assert torch.allclose(scaled, activation_gap(clean, triggered), atol=1e-5)


def test_a_neuron_silent_on_clean_images_comes_first_and_is_finite() -> None:
    clean = normal(50, 4).abs()
    clean[:, 2] = 0
    triggered = clean.clone()
    triggered[:, 2] = 1
    gap = activation_gap(clean, triggered)
    assert torch.isfinite(gap).all() and rank(gap)[0] == 2


@pytest.mark.parametrize("clean", [torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(5, 3)], ids=["one image", "all alike"])
def test_where_nothing_varies_the_bare_difference_ranks(clean: torch.Tensor) -> None:
    gap = activation_gap(clean, clean + torch.tensor([1.0, 3.0, 2.0]))
    assert torch.allclose(gap, torch.tensor([1.0, 3.0, 2.0]))
    assert rank(gap).tolist() == [1, 2, 0]


def test_no_change_is_no_gap_and_ties_keep_the_order_of_the_layer() -> None:
    clean = normal(20, 7)
    gap = activation_gap(clean, clean)
    assert not gap.any() and rank(gap).tolist() == list(range(7))
    assert rank(torch.tensor([1.0, 5.0, 5.0, 1.0, 9.0])).tolist() == [4, 1, 2, 0, 3]


def test_a_zero_mask_leaves_images_and_activations_bit_equal(infected: Classifier, digits: ImageSet) -> None:
    images = digits.images[:40]
    assert torch.equal(stamped(ZERO, images), images)
    assert torch.equal(ZERO(pixels(images).unsqueeze(0)).squeeze(0), pixels(images))
    plain = activations(features, infected, images)
    assert torch.equal(activations(features, infected, images, ZERO), plain)
    assert not activation_gap(plain, plain).any()


def test_activations_do_not_depend_on_the_batch(infected: Classifier, digits: ImageSet) -> None:
    images = digits.images[: FORWARD_BATCH + 3]
    whole = activations(features, infected, images)
    assert whole.shape == (FORWARD_BATCH + 3, 512)
    assert torch.allclose(whole[-1:], activations(features, infected, images[-1:]), atol=1e-5)


def test_a_planted_channel_is_ranked_first() -> None:
    """Channel 4 of six sees the white square; the others see everything else."""
    convolution, norm = nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6)
    with torch.no_grad():
        convolution.weight.copy_(normal(6, 9, 3).view(6, 1, 3, 3) * 0.1)
        convolution.weight[4] = 1 / 9
        norm.bias[4] = -0.9
    module = nn.Sequential(convolution, norm, nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    classifier = Classifier(module, (1, 12, 12), 3)
    mask = torch.zeros(1, 1, 12, 12)
    mask[..., 8:11, 8:11] = 1
    trigger = PatchTrigger(mask, torch.ones(1, 1, 12, 12))
    images = torch.randint(0, 120, (60, 1, 12, 12), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    gap = activation_gap(activations(features, classifier, images), activations(features, classifier, images, trigger))
    assert rank(gap)[0] == 4


def test_a_backdoor_moves_its_trigger_where_the_images_are(recovered: Backdoor) -> None:
    moved = recovered.on(torch.device("meta"))
    assert moved.mask.device.type == moved.pattern.device.type == "meta"
    here = recovered.on(torch.device("cpu"))
    assert torch.equal(here.mask, recovered.trigger.mask) and torch.equal(here.pattern, recovered.trigger.pattern)
    assert recovered.pair == LabelPair(3)
