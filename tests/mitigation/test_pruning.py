"""Pruning: neurons really are zeroed in the weights, no more of them than needed, and the rest stays as it was."""

import pytest
import torch
from token_network import Tokens
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import DataError, SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import pixels
from neural_cleanse.mitigation.base import Backdoor, RepairLimits, measure
from neural_cleanse.mitigation.pruning import MOST, Pruning, rank_neurons, zeroed
from neural_cleanse.mitigation.ranking import channels, features
from neural_cleanse.outputs import OutputKind
from neural_cleanse.results.records import LabelPair
from neural_cleanse.triggers.patch import PatchTrigger

PLACES = ("convolution", "features")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def zero_mask(target: int = 3) -> Backdoor:
    return Backdoor(LabelPair(target), PatchTrigger(torch.zeros(1, 1, 28, 28), torch.ones(1, 1, 28, 28)))


@pytest.fixture(scope="module")
def limits(digits: ImageSet) -> RepairLimits:
    order = torch.randperm(len(digits), generator=seeded())
    return RepairLimits(digits.take(order[:250]), digits.take(order[250:]), 0.94, 0.05)


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


def num_hooks(module: nn.Module) -> int:
    return sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in module.modules())


def test_a_pruned_channel_is_zero_in_filter_bias_and_norm(normed: Classifier) -> None:
    pruned = zeroed(normed, torch.tensor([1, 4]), "convolution")
    state = pruned.state_dict()
    where = changed(normed.module, pruned)
    assert set(where) == {"2.weight", "2.bias", "3.weight", "3.bias"}
    for name, differs in where.items():
        assert not state[name][[1, 4]].any()
        assert not differs[[0, 2, 3, 5]].any(), "no other channel is touched"
    silent = pruned[:5](torch.rand(3, 1, 28, 28, generator=seeded()))  # type: ignore[index]
    assert not silent[:, [1, 4]].any() and silent[:, [0, 2, 3, 5]].any()
    assert num_hooks(pruned) == 0


def test_a_pruned_feature_is_a_zero_column_of_the_last_linear_layer(normed: Classifier) -> None:
    pruned = zeroed(normed, torch.tensor([0, 23, 7]), "features")
    where = changed(normed.module, pruned)
    assert set(where) == {"7.weight"}, "the bias belongs to the answers and stays"
    assert where["7.weight"].any(0).nonzero().squeeze(1).tolist() == [0, 7, 23]
    assert not pruned.state_dict()["7.weight"][:, [0, 7, 23]].any()


def test_a_layer_without_bias_and_without_norm(infected: Classifier) -> None:
    module = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 3))
    pruned = zeroed(Classifier(module, (1, 4, 4), 3), torch.tensor([2]), "convolution")
    assert not pruned.state_dict()["0.weight"][2].any() and pruned.state_dict()["0.weight"][:2].all()


@pytest.mark.parametrize("place", PLACES)
def test_no_neurons_is_no_change(normed: Classifier, place: str) -> None:
    assert not changed(normed.module, zeroed(normed, torch.tensor([], dtype=torch.long), place))


@pytest.mark.parametrize("place", PLACES)
def test_the_backdoor_is_pruned_and_the_classifier_given_stays(
    infected: Classifier, limits: RepairLimits, recovered: Backdoor, place: str
) -> None:
    before = {name: tensor.clone() for name, tensor in infected.module.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    mitigated = Pruning(place)(infected, [recovered], limits, seeded())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in infected.module.state_dict().items())
    assert num_hooks(infected.module) == 0
    assert mitigated.classifier is not None
    assert limits.satisfied(measure(mitigated.classifier, [recovered], limits.check))
    assert num_hooks(mitigated.classifier.module) == 0

    shares = [point.amount for point in mitigated.trace]
    assert shares[0] == 0 and shares == sorted(set(shares)) and shares[-1] <= MOST, "ever more, from none on"
    assert all(point.worst_asr > limits.max_asr for point in mitigated.trace[:-1]), "no more than needed"
    assert {point.method for point in mitigated.trace} == {f"pruning, {place}"}

    state = mitigated.classifier.module.state_dict()
    name, dim, width = {"convolution": ("3.weight", 0, 32), "features": ("9.weight", 1, 512)}[place]
    rows = state[name].transpose(0, dim).flatten(1)
    silent = (~rows.any(1)).nonzero().squeeze(1)
    assert len(silent) == round(shares[-1] * width)
    order = rank_neurons(infected, [recovered], limits, channels if place == "convolution" else features)
    assert set(silent.tolist()) == set(order[: len(silent)].tolist()), "the most excited ones"


@pytest.mark.parametrize("place", PLACES)
def test_a_trigger_of_size_zero_prunes_nothing(infected: Classifier, limits: RepairLimits, place: str) -> None:
    """It sends nothing anywhere, so the least pruned classifier is the one that is not pruned."""
    mitigated = Pruning(place)(infected, [zero_mask()], limits, seeded())
    assert [point.amount for point in mitigated.trace] == [0.0]
    assert mitigated.classifier is not None and not changed(infected.module, mitigated.classifier.module)


@pytest.mark.parametrize("place", PLACES)
def test_an_impossible_floor_leaves_nothing(
    infected: Classifier, limits: RepairLimits, recovered: Backdoor, place: str
) -> None:
    impossible = RepairLimits(limits.train, limits.check, 1.01, 0.05)
    mitigated = Pruning(place)(infected, [recovered], impossible, seeded())
    assert mitigated.classifier is None and len(mitigated.trace) == 1


def test_a_bound_out_of_reach_keeps_the_most_pruned_above_the_floor(
    infected: Classifier, limits: RepairLimits, recovered: Backdoor
) -> None:
    unreachable = RepairLimits(limits.train, limits.check, 0.9, -1.0)
    mitigated = Pruning()(infected, [recovered], unreachable, seeded())
    assert mitigated.classifier is not None
    above = [point for point in mitigated.trace if point.accuracy >= 0.9]
    found = measure(mitigated.classifier, [recovered], limits.check)
    assert (found.accuracy, found.worst_asr) == (above[-1].accuracy, above[-1].worst_asr)


def test_several_triggers_are_ranked_together(infected: Classifier, limits: RepairLimits, recovered: Backdoor) -> None:
    alone = rank_neurons(infected, [recovered], limits, features)
    both = rank_neurons(infected, [recovered, zero_mask(5)], limits, features)
    assert set(alone[:20].tolist()) == set(both[:20].tolist()), "one without effect pushes none away"


def test_a_pair_without_images_is_left_out_of_the_ranking(
    infected: Classifier, limits: RepairLimits, recovered: Backdoor
) -> None:
    assert limits.train.labels is not None
    ones = RepairLimits(limits.train.take((limits.train.labels == 1).nonzero().squeeze(1)), limits.check, 0.5, 0.5)
    lacking = Backdoor(LabelPair(3, 7), recovered.trigger)
    assert torch.equal(
        rank_neurons(infected, [recovered, lacking], ones, features),
        rank_neurons(infected, [recovered], ones, features),
    )
    with pytest.raises(DataError):
        rank_neurons(infected, [lacking], ones, features)


def test_one_image_ranks_too(infected: Classifier, limits: RepairLimits, recovered: Backdoor) -> None:
    assert limits.train.labels is not None
    single = limits.train.take((limits.train.labels == 1).nonzero().squeeze(1)[:1])
    order = rank_neurons(infected, [recovered], RepairLimits(single, limits.check, 0.5, 0.5), features)
    assert sorted(order.tolist()) == list(range(512)) and order.tolist() != list(range(512))


def test_what_cannot_be_pruned_is_refused(infected: Classifier, limits: RepairLimits, recovered: Backdoor) -> None:
    with pytest.raises(SettingsError, match="convolution or features"):
        Pruning("attention")
    with pytest.raises(SettingsError):
        Pruning()(infected, (), limits, seeded())
    flat = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), (1, 28, 28), 10)
    assert not Pruning("convolution").possible(flat, [recovered]) and Pruning("features").possible(flat, [recovered])
    with pytest.raises(SettingsError, match="nothing to prune"):
        Pruning("convolution")(flat, [recovered], limits, seeded())
    headless = Classifier(nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (1, 28, 28), 10)
    assert not any(Pruning(place).possible(headless, [recovered]) for place in PLACES)


def test_a_network_that_ends_in_a_softmax_is_pruned_the_same(
    infected: Classifier, limits: RepairLimits, recovered: Backdoor
) -> None:
    module = nn.Sequential(infected.module, nn.Softmax(1))
    softened = Classifier(module, (1, 28, 28), 10, outputs=OutputKind.PROBABILITIES)
    plain, soft = (Pruning()(model, [recovered], limits, seeded()) for model in (infected, softened))
    assert [point.amount for point in plain.trace] == [point.amount for point in soft.trace]
    assert soft.classifier is not None
    assert torch.allclose(soft.classifier.module(pixels(limits.check.images[:4])).sum(1), torch.ones(4))


def test_a_residual_connection_adds_behind_what_was_pruned() -> None:
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
    pruned = zeroed(classifier, torch.tensor([0, 1]), "convolution")
    assert torch.allclose(pruned(images), pruned.get_submodule("head")(images.mean((2, 3))), atol=1e-6)


def test_of_tokens_the_columns_of_the_head_are_pruned(limits: RepairLimits, recovered: Backdoor) -> None:
    """One neuron of all tokens at once: the features lose it, and nothing else."""
    torch.manual_seed(0)
    classifier = Classifier(Tokens(), (1, 28, 28), 10)
    order = rank_neurons(classifier, [recovered], limits, features)
    assert sorted(order.tolist()) == list(range(12))
    pruned = zeroed(classifier, order[:3], "features")
    assert changed(classifier.module, pruned).keys() == {"head.weight"}
    assert not pruned.get_submodule("head").weight[:, order[:3]].any()
    mitigated = Pruning("features")(
        classifier, [recovered], RepairLimits(limits.train, limits.check, 0.0, 0.0), seeded()
    )
    assert mitigated.trace[0].amount == 0


def test_where_no_layer_sees_one_row_an_image_there_is_nothing_to_prune(recovered: Backdoor) -> None:
    classifier = Classifier(Tokens("t n d"), (1, 28, 28), 10)
    assert not any(Pruning(place).possible(classifier, [recovered]) for place in PLACES)
