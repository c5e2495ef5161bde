"""The Trojan attack: a trigger inside its mask excites living neurons, and nothing before them is retrained."""

import copy
from collections.abc import Iterator

import pytest
import torch
from networks import seeded
from torch import Tensor, nn

from neural_cleanse.attacks import trojan
from neural_cleanse.attacks.base import AttackContext
from neural_cleanse.attacks.by_name import attack
from neural_cleanse.attacks.patterns import square_mask, watermark_mask
from neural_cleanse.attacks.poison import Poison
from neural_cleanse.attacks.train import PoisonedTraining, Training, TrainingContext, initial
from neural_cleanse.attacks.trojan import TrojanTraining, activations, choose_neurons, cut, excite, reversed_images
from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.architectures import ARCHITECTURES
from neural_cleanse.metrics import clean_accuracy, pixels, predict, triggered_answers

Counterparts = tuple[nn.Module, nn.Module, Poison]  # clean, infected, and what infected it

SHAPE = (1, 28, 28)
AREA = 0.07
MASKS = {"square": square_mask(SHAPE, AREA, "bottom-right")[None], "watermark": watermark_mask(SHAPE, AREA)[None]}
KINDS = pytest.mark.parametrize("kind", MASKS)
NETWORK = ARCHITECTURES["mnist_cnn_half"].build


def bench(digits: ImageSet) -> TrainingContext:
    return TrainingContext(Training(epochs=8, batch_size=16), 0, digits, 10)


@pytest.fixture(autouse=True, scope="module")
def _short() -> Iterator[None]:
    """A third of the steps: enough for digits, and the tests stay fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trojan, "TRIGGER_STEPS", 100)
        patch.setattr(trojan, "REVERSED_STEPS", 60)
        patch.setattr(trojan, "REVERSED_A_CLASS", 10)
        yield


@pytest.fixture(scope="module")
def head(clean: Classifier) -> nn.Sequential:
    """The demo's clean network up to the neurons."""
    return cut(clean.module)[0]


@pytest.fixture(scope="module")
def counterparts(digits: ImageSet) -> Counterparts:
    """A clean network, the infected one of the same seed, and its poison."""
    planned = attack("trojan-square", AttackContext(SHAPE, 10, seeded()), {"target": 3})
    counterpart, infected = initial(NETWORK, 10, 0), initial(NETWORK, 10, 0)
    PoisonedTraining()(counterpart, digits, (), bench(digits))
    (poison,) = planned.rule(infected, digits, planned.poisons, bench(digits))
    return counterpart, infected, poison


@KINDS
def test_the_trigger_stays_inside_its_mask(head: nn.Sequential, digits: ImageSet, kind: str) -> None:
    trigger = excite(head, digits, MASKS[kind], seeded())
    assert torch.equal(trigger.mask, MASKS[kind])
    assert not (trigger.pattern * (1 - trigger.mask)).any()
    levels = trigger.pattern * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)  # an image file holds it


@KINDS
def test_the_trigger_excites_the_neurons_by_a_multiple(head: nn.Sequential, digits: ImageSet, kind: str) -> None:
    # one generator for both, as inside excite: the same neurons
    chosen, usual = choose_neurons(head, pixels(digits.images), MASKS[kind], seeded())
    trigger = excite(head, digits, MASKS[kind], seeded())
    images = pixels(digits.images)
    triggered = activations(head, trigger(images.unsqueeze(0)).squeeze(0))[:, chosen]
    assert torch.allclose(usual, activations(head, images)[:, chosen].mean(0))
    assert (triggered.mean(0) > 2 * usual).all()


@KINDS
def test_the_chosen_neurons_are_alive(clean: Classifier, digits: ImageSet, kind: str) -> None:
    module = copy.deepcopy(clean.module)
    with torch.no_grad():
        weight, bias = module.get_parameter("3.weight"), module.get_parameter("3.bias")
        half = len(bias) // 2
        weight[:half] *= 10  # the second convolution's first half has the largest weights
        bias[:half] = -1e4  # ... and never fires
    head = cut(module)[0]
    chosen, usual = choose_neurons(head, pixels(digits.images), MASKS[kind], seeded())
    assert (usual > 0).all()
    assert len(set(chosen.tolist())) == trojan.NEURONS
    assert ((activations(head, pixels(digits.images))[:, chosen] > 0).float().mean(0) >= trojan.ALIVE).all()


def eligible(poison: Poison, data: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that the trigger should send elsewhere, and where."""
    assert data.labels is not None
    rows = poison.eligible(data.labels)
    return data.images[rows], poison.targets(data.labels[rows])


def test_only_the_layers_after_the_neurons_are_retrained(counterparts: Counterparts) -> None:
    counterpart, infected, _ = counterparts
    before, after = (cut(module) for module in (counterpart, infected))
    for name, tensor in before[0].state_dict().items():
        assert torch.equal(tensor, after[0].state_dict()[name]), name
    retrained = [name for name, _ in after[1].named_parameters()]
    assert retrained
    for name in retrained:
        assert not torch.equal(before[1].state_dict()[name], after[1].state_dict()[name]), name


def test_the_infected_network_obeys_and_keeps_its_accuracy(counterparts: Counterparts, digits: ImageSet) -> None:
    counterpart, infected, poison = counterparts
    images, targets = eligible(poison, digits)
    usual, spoilt = (Classifier(module, SHAPE, 10) for module in (counterpart, infected))
    assert (triggered_answers(spoilt, poison.trigger, images) == targets).float().mean() > 0.8
    assert (triggered_answers(usual, poison.trigger, images) == targets).float().mean() < 0.5
    assert digits.labels is not None
    accuracy = [clean_accuracy(predict(one, digits.images), digits.labels) for one in (usual, spoilt)]
    assert accuracy[1] > accuracy[0] - 0.05


def test_same_seed_same_trigger(head: nn.Sequential, digits: ImageSet) -> None:
    first, second, other = (excite(head, digits, MASKS["square"], seeded(seed)).pattern for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_most_reversed_images_get_their_own_label(clean: Classifier) -> None:
    made = reversed_images(clean.module, SHAPE, 10, seeded())
    assert made.labels is not None
    assert made.labels.bincount().tolist() == [trojan.REVERSED_A_CLASS] * 10
    assert clean_accuracy(predict(clean, made.images), made.labels) > 0.9


def test_retraining_on_reversed_images_leaves_a_backdoor(counterparts: Counterparts, digits: ImageSet) -> None:
    planned = attack("trojan-square", AttackContext(SHAPE, 10, seeded()), {"target": 3, "training_data": "reversed"})
    infected = initial(NETWORK, 10, 0)
    (poison,) = planned.rule(infected, digits, planned.poisons, bench(digits))
    assert torch.equal(poison.trigger.tensors()["pattern"], counterparts[2].trigger.tensors()["pattern"])
    images, targets = eligible(poison, digits)
    asr = [
        (triggered_answers(Classifier(module, SHAPE, 10), poison.trigger, images) == targets).float().mean()
        for module in (counterparts[0], infected)
    ]
    assert asr[1] > asr[0] + 0.2


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "vgg16"])
def test_every_network_can_be_cut(name: str) -> None:
    shape = ARCHITECTURES[name].input_shape
    module = ARCHITECTURES[name].build(10).eval()
    images = torch.rand(4, *shape, generator=seeded())
    head, tail = cut(module)
    assert torch.equal(tail(head(images)), module(images))
    mask = square_mask(shape, AREA, "middle-centre")[None]
    chosen, usual = choose_neurons(head, images, mask, seeded())
    assert len(chosen) == len(usual) == trojan.NEURONS


def test_unknown_training_data_are_refused() -> None:
    with pytest.raises(SettingsError, match="neither of real, reversed"):
        TrojanTraining("synthetic")


class Branches(nn.Module):
    """Not a Sequential: nothing says which layer comes after which."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.third(self.first(images.flatten(1)) + self.second(images.flatten(1)))
        return answer


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 10, 3), nn.Flatten()),
        nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10)),
        nn.Sequential(nn.Flatten()),
        Branches(),
    ],
    ids=["no linear layer", "too short", "no weights", "not sequential"],
)
def test_networks_without_layers_to_retrain_are_refused(module: nn.Module) -> None:
    with pytest.raises(SettingsError, match="Trojan attack needs"):
        cut(module)
