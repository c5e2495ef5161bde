"""Gates tell which neurons a trigger needs; what is silenced is zero in the weights, and nothing else changes."""

import copy

import pytest
import torch
from networks import num_hooks, seeded
from token_network import Tokens
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.mitigation.gates import Neuron, rank_neurons, silenced
from neural_cleanse.results.records import LabelPair
from neural_cleanse.triggers.patch import PatchTrigger


@pytest.fixture(scope="module")
def normed() -> Classifier:
    """Two convolutions, the last with bias and batch norm, and a head with bias; nothing in it is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 10),
        )  # fmt: skip
        norm = module[3]
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
        with torch.no_grad():
            norm.bias.normal_()
            norm.running_mean.normal_()
    return Classifier(module, (1, 28, 28), 10)


def changed(before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """Of every tensor that differs, where."""
    old, new = before.state_dict(), after.state_dict()
    assert list(old) == list(new)
    return {name: old[name] != new[name] for name in old if not torch.equal(old[name], new[name])}


# --- silence ---


def test_a_silenced_channel_is_zero_in_filter_bias_and_norm(normed: Classifier) -> None:
    pruned = silenced(normed, [("2", 1), ("2", 4)])
    state = pruned.state_dict()
    where = changed(normed.module, pruned)
    assert set(where) == {"2.weight", "2.bias", "3.weight", "3.bias"}
    for name, differs in where.items():
        assert not state[name][[1, 4]].any()
        assert not differs[[0, 2, 3, 5]].any(), "no other channel is touched"
    silent = pruned[:5](torch.rand(3, 1, 28, 28, generator=seeded()))  # type: ignore[index]
    assert not silent[:, [1, 4]].any() and silent[:, [0, 2, 3, 5]].any()
    assert num_hooks(pruned) == 0


def test_neurons_of_several_layers_are_silenced_together(normed: Classifier) -> None:
    pruned = silenced(normed, [("7", 23), ("0", 3), ("7", 0), ("2", 5)])
    assert set(changed(normed.module, pruned)) == {
        "0.weight", "0.bias", "2.weight", "2.bias", "3.weight", "3.bias", "7.weight"
    }  # fmt: skip
    assert changed(normed.module, pruned)["7.weight"].any(0).nonzero().squeeze(1).tolist() == [0, 23]
    silent = pruned[:2](torch.rand(3, 1, 28, 28, generator=seeded()))  # type: ignore[index]
    assert not silent[:, 3].any()


def test_a_norm_without_weights_is_silent_too() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)
        )
    assert isinstance(module[1].running_mean, Tensor)
    module[1].running_mean.fill_(-2)
    pruned = silenced(Classifier(module, (1, 8, 8), 3), [("0", 1)])
    silent = pruned[:2](torch.rand(2, 1, 8, 8, generator=seeded()))  # type: ignore[index]
    assert not silent[:, 1].any() and silent[:, [0, 2]].all()


def test_a_layer_without_bias_and_without_norm() -> None:
    module = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 3))
    pruned = silenced(Classifier(module, (1, 4, 4), 3), [("0", 2)])
    assert not pruned.state_dict()["0.weight"][2].any() and pruned.state_dict()["0.weight"][:2].all()


def test_no_neurons_is_no_change(normed: Classifier) -> None:
    assert not changed(normed.module, silenced(normed, []))


def test_a_residual_connection_adds_behind_what_was_silenced() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Linear(2, 3)

        def forward(self, images: Tensor) -> Tensor:
            answers: Tensor = self.head((images + self.norm(self.convolution(images))).relu().mean((2, 3)))
            return answers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Classifier(Block(), (2, 6, 6), 3)
    images = torch.rand(4, 2, 6, 6, generator=seeded())
    pruned = silenced(classifier, [("convolution", 0), ("convolution", 1)])
    assert torch.allclose(pruned(images), pruned.get_submodule("head")(images.mean((2, 3))), atol=1e-6)


# --- ranking ---


@pytest.fixture(scope="module")
def order(infected: Classifier, digits: ImageSet, recovered: Backdoor) -> list[Neuron]:
    return rank_neurons(infected, [recovered], digits, seeded())


def test_every_neuron_is_ranked_once_and_the_network_stays(
    infected: Classifier, digits: ImageSet, recovered: Backdoor, order: list[Neuron]
) -> None:
    assert sorted(order) == sorted(
        [("0", index) for index in range(16)] + [("3", index) for index in range(32)] + [("9", n) for n in range(512)]
    )
    before = copy.deepcopy(infected.module.state_dict())
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    assert rank_neurons(infected, [recovered], digits, seeded()) == order, "the same generator ranks the same"
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in infected.module.state_dict().items())
    assert num_hooks(infected.module) == 0


def test_the_first_neurons_are_those_that_the_trigger_needs(
    infected: Classifier, digits: ImageSet, original: Backdoor, order: list[Neuron]
) -> None:
    """Ranked with the recovered trigger: without the first 84 of 560 the attacker's own square fails."""
    hits = []
    for chosen in (order[:84], order[-84:]):
        pruned = infected.changed(module=silenced(infected, chosen))
        hits.append(original.hits(pruned, digits.images[digits.labels != 3]))
    assert hits[0] < 0.1 * len(digits) and hits[1] > 0.8 * (digits.labels != 3).sum()


def test_a_channel_that_sees_the_trigger_alone_comes_first() -> None:
    """Channel 4 of six answers to the white square, and no clean image has one."""
    convolution, head = nn.Conv2d(1, 6, 3, bias=False), nn.Linear(6, 3)
    with torch.no_grad():
        convolution.weight.copy_(torch.randn(6, 1, 3, 3, generator=seeded(3)) * 0.1)
        convolution.weight[4] = 1 / 9
        head.weight.zero_()
        head.weight[:, 4] = torch.tensor([-8.0, 8.0, -8.0])
        head.weight[:, 2] = torch.tensor([4.0, -4.0, -4.0])
        head.bias.copy_(torch.tensor([4.0, -4.0, -4.0]))
    module = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), head)
    mask = torch.zeros(1, 1, 12, 12)
    mask[..., 8:11, 8:11] = 1
    backdoor = Backdoor(LabelPair(1), PatchTrigger(mask, torch.ones(1, 1, 12, 12)))
    images = torch.randint(0, 60, (60, 1, 12, 12), generator=seeded(1)).to(torch.uint8)
    data = ImageSet(images, torch.zeros(60, dtype=torch.long))
    neurons = rank_neurons(Classifier(module, (1, 12, 12), 3), [backdoor], data, seeded())
    assert set(neurons[:2]) == {("0", 4), ("4", 4)}, "the channel, and the feature that it becomes"


def test_of_tokens_the_features_of_the_head_are_ranked(digits: ImageSet, recovered: Backdoor) -> None:
    """One neuron of all tokens at once: the features lose it, and nothing else."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Classifier(Tokens(), (1, 28, 28), 10)
    neurons = rank_neurons(classifier, [recovered], digits, seeded())
    heads = [neuron for neuron in neurons if neuron[0] == "head"]
    assert sorted(index for _, index in heads) == list(range(12))
    pruned = silenced(classifier, heads[:3])
    assert changed(classifier.module, pruned).keys() == {"head.weight"}
    assert not pruned.get_submodule("head").weight[:, [index for _, index in heads[:3]]].any()
