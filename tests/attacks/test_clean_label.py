"""The label-consistent attack: images of the target that a clean network misreads, with the trigger and their label."""

import pytest
import torch

from neural_cleanse.attacks import clean_label
from neural_cleanse.attacks.base import AttackContext
from neural_cleanse.attacks.by_name import attack
from neural_cleanse.attacks.clean_label import EPSILON, Hardened, LabelConsistentTraining
from neural_cleanse.attacks.patterns import corners
from neural_cleanse.attacks.train import Training, TrainingContext, initial
from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.architectures import ARCHITECTURES
from neural_cleanse.metrics import predict
from neural_cleanse.triggers.patch import PatchTrigger

SHAPE = (1, 28, 28)
NOTHING = PatchTrigger(torch.zeros(1, 1, 28, 28), torch.zeros(1, *SHAPE))


def of_class(digits: ImageSet, label: int) -> torch.Tensor:
    assert digits.labels is not None
    return digits.images[digits.labels == label]


def test_hardened_images_are_misread_and_change_little(clean: Classifier, digits: ImageSet) -> None:
    images = of_class(digits, 4)
    made = Hardened(clean.module, 4, NOTHING)(images, torch.Generator())
    assert (predict(clean, images) == 4).float().mean() > 0.9
    assert (predict(clean, made) == 4).float().mean() < 0.1
    assert (made.int() - images.int()).abs().max() <= round(EPSILON * 255)


def test_they_carry_the_trigger(clean: Classifier, digits: ImageSet) -> None:
    trigger = corners(SHAPE, 3)
    made = Hardened(clean.module, 4, trigger)(of_class(digits, 4), torch.Generator())
    under = trigger.mask[0, 0] == 1
    assert torch.equal(made[:, 0, under], (trigger.pattern[0, 0, under] * 255).to(torch.uint8).expand(len(made), -1))


def test_no_image_stays_no_image(clean: Classifier, digits: ImageSet) -> None:
    assert len(Hardened(clean.module, 4, NOTHING)(digits.images[:0], torch.Generator())) == 0


def test_hardening_leaves_the_clean_network_alone(clean: Classifier, digits: ImageSet) -> None:
    before = {name: tensor.clone() for name, tensor in clean.module.state_dict().items()}
    Hardened(clean.module, 4, NOTHING)(of_class(digits, 4)[:5], torch.Generator())
    assert all(torch.equal(before[name], tensor) for name, tensor in clean.module.state_dict().items())


@pytest.mark.parametrize("size", [2, 3])
def test_the_poison_is_on_the_target_alone(size: int) -> None:
    planned = attack("label-consistent", AttackContext(SHAPE, 10, torch.Generator()), {"target": 6, "size": size})
    (one,) = planned.poisons
    assert isinstance(planned.rule, LabelConsistentTraining)
    assert (one.sources, one.relabel, one.works_from) == (frozenset({6}), False, None)
    assert one.trigger.size().item() == 4 * size**2


def test_the_same_seed_gives_the_same_weights(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean_label, "STEPS", 2)
    bench = TrainingContext(Training(epochs=1, batch_size=50), 0, digits, 10)
    made = []
    for seed in (0, 0, 1):
        module = initial(ARCHITECTURES["mnist_cnn_half"].build, 10, seed)
        planned = attack("label-consistent", AttackContext(SHAPE, 10, torch.Generator()), {"target": 6})
        assert planned.rule(module, digits, planned.poisons, bench) == planned.poisons
        made.append(torch.cat([tensor.flatten() for tensor in module.state_dict().values()]))
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
