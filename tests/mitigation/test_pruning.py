"""Pruning: silenced neurons stay at zero while the rest is fine-tuned, and no more of them than needed."""

import pytest
import torch
from networks import seeded
from token_network import Tokens
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import pixels
from neural_cleanse.mitigation import pruning
from neural_cleanse.mitigation.base import Backdoor, Mitigated, RepairLimits, measure
from neural_cleanse.mitigation.fine_tuning import FineTuning
from neural_cleanse.mitigation.gates import rank_neurons
from neural_cleanse.mitigation.pruning import BEYOND, MOST, STEP, TRIES, Pruning
from neural_cleanse.outputs import OutputKind
from neural_cleanse.results.records import LabelPair
from neural_cleanse.triggers.patch import PatchTrigger

QUICK = Pruning(FineTuning(epochs=2, least_batches=40))


def zero_mask(target: int = 3) -> Backdoor:
    return Backdoor(LabelPair(target), PatchTrigger(torch.zeros(1, 1, 28, 28), torch.ones(1, 1, 28, 28)))


@pytest.fixture(scope="module")
def limits(digits: ImageSet) -> RepairLimits:
    order = torch.randperm(len(digits), generator=seeded())
    return RepairLimits(digits.take(order[:250]), digits.take(order[250:]), 0.94, 0.05)


@pytest.fixture(scope="module")
def pruned(infected: Classifier, limits: RepairLimits, recovered: Backdoor) -> Mitigated:
    return QUICK(infected, [recovered], limits, seeded())


def test_the_backdoor_is_pruned_and_the_classifier_given_stays(
    infected: Classifier, limits: RepairLimits, recovered: Backdoor, original: Backdoor
) -> None:
    before = {name: tensor.clone() for name, tensor in infected.module.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    mitigated = QUICK(infected, [recovered], limits, seeded())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in infected.module.state_dict().items())
    assert mitigated.classifier is not None
    assert limits.satisfied(measure(mitigated.classifier, [recovered], limits.check))
    (hits,), (trials,) = (lambda found: (found.hits, found.trials))(
        measure(mitigated.classifier, [original], limits.check)
    )
    assert hits < 0.1 * trials, "the attacker's own square, which nothing was ranked or decided with"


def test_the_trace_holds_ever_more_neurons_and_then_the_fine_tuning(pruned: Mitigated, limits: RepairLimits) -> None:
    *curve, tuned = pruned.trace
    assert {point.method for point in curve} == {"pruning"} and tuned.method == "pruning, fine-tuned"
    shares = [point.amount for point in curve]
    assert shares[0] == 0 and shares == sorted(set(shares)) and shares[-1] <= MOST
    assert shares[1] == pytest.approx(STEP, rel=0.2)
    assert all(point.worst_asr > limits.max_asr for point in curve[:-1]), "no more than needed"
    assert tuned.amount == pytest.approx(BEYOND * shares[-1], rel=0.02) and tuned.accuracy >= curve[-1].accuracy


def test_pruned_neurons_are_zero_after_the_fine_tuning(
    infected: Classifier, limits: RepairLimits, recovered: Backdoor, pruned: Mitigated
) -> None:
    assert pruned.classifier is not None
    order = rank_neurons(infected, [recovered], limits.train, seeded())
    count = round(pruned.trace[-1].amount * len(order))
    state, before = pruned.classifier.module.state_dict(), infected.module.state_dict()
    silent = [
        (name, index) for name in ("0", "3") for index, row in enumerate(state[f"{name}.weight"]) if not row.any()
    ]
    silent += [("9", index) for index, column in enumerate(state["9.weight"].T) if not column.any()]
    assert sorted(silent) == sorted(order[:count]), "the first of the ranking, and no others"
    assert not any(state[f"{name}.bias"][index] for name, index in silent if name != "9")
    assert not torch.equal(state["7.weight"], before["7.weight"]), "the others were fine-tuned"


def test_a_trigger_of_size_zero_prunes_nothing(infected: Classifier, limits: RepairLimits) -> None:
    """It sends nothing anywhere, so the least pruned classifier is the one that is not pruned."""
    mitigated = QUICK(infected, [zero_mask()], limits, seeded())
    assert [point.amount for point in mitigated.trace] == [0.0]
    assert mitigated.classifier is not None
    before, after = (one.module.state_dict() for one in (infected, mitigated.classifier))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_an_impossible_floor_leaves_nothing_after_one_fine_tuning(
    infected: Classifier, limits: RepairLimits, recovered: Backdoor
) -> None:
    impossible = RepairLimits(limits.train, limits.check, 1.01, 0.05)
    mitigated = QUICK(infected, [recovered], impossible, seeded())
    assert mitigated.classifier is None
    assert sum(point.method == "pruning, fine-tuned" for point in mitigated.trace) == 1


def test_a_bound_that_pruning_cannot_reach_is_told_before_any_fine_tuning(
    infected: Classifier, limits: RepairLimits, recovered: Backdoor
) -> None:
    unreachable = RepairLimits(limits.train, limits.check, 0.9, -1.0)
    mitigated = QUICK(infected, [recovered], unreachable, seeded())
    assert {point.method for point in mitigated.trace} == {"pruning"}, "the curve costs little"
    assert mitigated.classifier is not None
    above = [point for point in mitigated.trace if point.accuracy >= 0.9]
    found = measure(mitigated.classifier, [recovered], limits.check)
    assert found.worst_asr == min(point.worst_asr for point in above), "the best that keeps the floor"


def test_where_a_trigger_comes_back_more_is_pruned(
    infected: Classifier, limits: RepairLimits, recovered: Backdoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an original network put in the place of every fine-tuned one, it always comes back."""
    monkeypatch.setattr(pruning.Pruning, "_tuned", lambda self, classifier, *_: classifier)
    mitigated = QUICK(infected, [recovered], limits, seeded())
    tries = [point.amount for point in mitigated.trace if point.method == "pruning, fine-tuned"]
    assert len(tries) == TRIES and tries == sorted(set(tries))


def test_what_cannot_be_pruned_is_refused(infected: Classifier, limits: RepairLimits, recovered: Backdoor) -> None:
    assert not Pruning().possible(infected, ())
    with pytest.raises(SettingsError, match="nothing to prune"):
        Pruning()(infected, (), limits, seeded())
    flat = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), (1, 28, 28), 10)
    assert Pruning().possible(flat, [recovered]), "features alone"
    headless = Classifier(nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (1, 28, 28), 10)
    assert not Pruning().possible(headless, [recovered])
    tokens = Classifier(Tokens("t n d"), (1, 28, 28), 10)
    assert not Pruning().possible(tokens, [recovered]), "no layer sees one row an image"


def test_a_network_that_ends_in_a_softmax_is_pruned_the_same(
    infected: Classifier, limits: RepairLimits, recovered: Backdoor, pruned: Mitigated
) -> None:
    module = nn.Sequential(infected.module, nn.Softmax(1))
    softened = Classifier(module, (1, 28, 28), 10, outputs=OutputKind.PROBABILITIES)
    soft = QUICK(softened, [recovered], limits, seeded())
    assert [point.amount for point in pruned.trace] == [point.amount for point in soft.trace]
    assert soft.classifier is not None
    assert torch.allclose(soft.classifier.module(pixels(limits.check.images[:4])).sum(1), torch.ones(4))
