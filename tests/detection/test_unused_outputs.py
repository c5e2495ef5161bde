"""Outputs that no class uses are left out and named; those that a trigger or an earlier training reaches are not."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.baseline import check_baseline
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.detection.unused_outputs import unused_named, unused_outputs
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.loading.architectures import mnist_cnn
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.outputs import OutputKind
from neural_cleanse.results.records import Verdict

SHAPE = (1, 28, 28)
QUICK = ScanSettings(patches_only=True, samples=300, restarts=1)


@pytest.fixture(scope="module")
def all_digits(demo_files: Path) -> ImageSet:
    return load_data(demo_files / "digits.npz")


def fit(module: nn.Module, images: Tensor, labels: Tensor, epochs: int = 5) -> nn.Module:
    """Trained on images in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(module.requires_grad_().train().parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(images[rows]), labels[rows]).backward()
            optimiser.step()
    return module.eval().requires_grad_(False)


def network(num_classes: int) -> nn.Sequential:
    torch.manual_seed(0)
    return mnist_cnn(num_classes)


def asked(module: nn.Module, num_classes: int, data: ImageSet, outputs: OutputKind = OutputKind.LOGITS) -> list[int]:
    """The outputs that are found to be unused."""
    classifier = Classifier(module, SHAPE, num_classes, outputs=outputs)
    assert data.labels is not None
    images = ScanImages.of(classifier, data.take(torch.arange(0, len(data), 10)), 0)
    return list(unused_outputs(classifier, images, frozenset(data.labels.tolist()), 0)[0])


def test_outputs_that_training_never_asked_for_are_unused(all_digits: ImageSet) -> None:
    assert all_digits.labels is not None
    module = fit(network(14), all_digits.images / 255, all_digits.labels + 1)  # 0 is reserved, 11 to 13 are not used
    shifted = replace(all_digits, labels=all_digits.labels + 1)
    assert asked(module, 14, shifted) == [0, 11, 12, 13]
    probabilities = nn.Sequential(*module.children(), nn.Softmax(1))
    assert asked(probabilities, 14, shifted, OutputKind.PROBABILITIES) == [0, 11, 12, 13]


def test_an_output_that_only_a_trigger_reaches_is_searched(all_digits: ImageSet) -> None:
    images, labels = all_digits.images / 255, all_digits.labels
    assert labels is not None
    triggered = images[::10].clone()
    triggered[:, :, -4:, -4:] = 1
    both = torch.cat([images, triggered]), torch.cat([labels, torch.full((len(triggered),), 11)])
    assert asked(fit(network(12), *both), 12, all_digits) == [10]


def test_classes_that_the_images_lack_are_searched(all_digits: ImageSet) -> None:
    assert all_digits.labels is not None
    low = all_digits.take((all_digits.labels < 5).nonzero().squeeze(1))
    module = fit(network(10), all_digits.images / 255, all_digits.labels)
    assert asked(module, 10, low) == []


class Hostile(nn.Module):
    """Ten honest outputs and one more: what `last` makes of them."""

    def __init__(self, inner: nn.Module, kind: str) -> None:
        super().__init__()
        self.inner, self.kind = inner, kind

    def forward(self, images: Tensor) -> Tensor:
        logits = self.inner(images)
        if self.kind == "flat":  # no gradient anywhere
            logits = logits.sign()
        last = torch.full_like(logits[:, :1], -50.0)
        if self.kind == "nan":
            last = torch.where(images.mean((1, 2, 3))[:, None] > 0.45, torch.nan, last)
        whole = torch.cat([logits, last], 1)
        return torch.cat([logits.softmax(1), 0 * last], 1) if self.kind == "underflow" else whole


@pytest.mark.parametrize(("kind", "unused"), [("", [10]), ("flat", []), ("nan", []), ("underflow", [])])
def test_what_no_gradient_can_tell_of_stays_in_the_search(
    clean: Classifier, digits: ImageSet, kind: str, unused: list[int]
) -> None:
    outputs = OutputKind.PROBABILITIES if kind == "underflow" else OutputKind.LOGITS
    assert asked(Hostile(clean.module, kind), 11, digits, outputs) == unused


def widened(classifier: Classifier, by: int) -> Classifier:
    """With outputs that are far below the others, whatever the image."""
    *layers, last = copy.deepcopy(classifier.module).children()
    assert isinstance(last, nn.Linear)
    head = nn.Linear(last.in_features, last.out_features + by)
    with torch.no_grad():
        head.weight.copy_(torch.cat([last.weight, torch.zeros(by, last.in_features)]))
        head.bias.copy_(torch.cat([last.bias, torch.full((by,), -200.0)]))
    module = nn.Sequential(*layers, head).requires_grad_(False)
    return replace(classifier, module=module, num_classes=classifier.num_classes + by)


def test_a_wide_head_gets_the_verdict_of_its_classes_and_names_the_rest(infected: Classifier, digits: ImageSet) -> None:
    wide = scan(widened(infected, 10), digits, QUICK)
    assert wide.verdict is Verdict.INFECTED and wide.flagged == (3,)
    assert [row.target for row in wide.labels] == list(range(10))
    assert "left out: outputs 10-19, which no clean image has" in wide.reason
    assert wide.provenance.settings["unused_outputs"] == list(range(10, 20))


def test_a_clean_scan_of_a_wide_head_is_a_baseline_for_another(
    infected: Classifier, clean: Classifier, digits: ImageSet
) -> None:
    baseline = scan(widened(clean, 2), digits, replace(QUICK, plan="full"))
    assert baseline.verdict is not Verdict.INFECTED
    check_baseline(baseline, widened(infected, 2), None)
    found = scan(widened(infected, 2), digits, QUICK, baseline=baseline)
    assert found.verdict is Verdict.INFECTED and found.flagged == (3,)


def test_labels_that_are_asked_for_are_searched_all_the_same(infected: Classifier, digits: ImageSet) -> None:
    settings = replace(QUICK, samples=60, labels=(3, 10))
    found = scan(widened(infected, 2), digits, settings)
    assert [row.target for row in found.labels] == [3, 10]
    assert "left out: output 11, which no clean image has" in found.reason


@pytest.mark.parametrize(
    ("labels", "said"), [([3], "output 3,"), ([0, 3, 4, 5, 9], "outputs 0, 3-5, 9,"), ([1, 2], "outputs 1-2,")]
)
def test_outputs_are_named_in_ranges(labels: list[int], said: str) -> None:
    assert unused_named(labels).startswith(said)
