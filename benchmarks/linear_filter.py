"""The input filter as Wang et al. 2019 have it (section VI-A), to compare `guard fit` with.

    s(x) = w . a(x)   of the features a, for every image; rejected above a quantile of clean images

`top` is the paper's direction: the mean of the 1 % of neurons that the trigger excites most.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import eligible_rows, predict, triggered_answers
from neural_cleanse.mitigation.base import Backdoor
from ranking import activation_gap, activations, features, rank

TOP = 0.01  # of the neurons (paper)
SEED = 0
RANKED = 0.4  # share of the images that choose the weights; the rest chooses the threshold

Direction = Callable[[Float[Tensor, "n d"], Float[Tensor, "n d"]], Float[Tensor, " d"]]  # clean, triggered -> weights


@dataclass(frozen=True)
class Filtered:
    """Shares: of clean images rejected, of those with a target's label, and for each trigger of triggered images.

    `accepted` counts all that pass, `passed` those among them that get the target.
    """

    fpr: float
    label_fpr: float
    accepted: tuple[float, ...]
    passed: tuple[float, ...]


def top(clean: Float[Tensor, "n d"], triggered: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """The paper's direction: the mean of the neurons that the trigger excites most."""
    neurons = rank(activation_gap(clean, triggered))[: max(1, round(TOP * clean.shape[1]))]
    weights = torch.zeros(clean.shape[1])
    weights[neurons] = 1 / len(neurons)
    return weights


def linear_filter(
    classifier: Classifier,
    recovered: Sequence[Backdoor],
    original: Sequence[Backdoor],
    *,
    calm: ImageSet,
    fresh: ImageSet,
    direction: Direction,
    rate: float,
) -> Filtered:
    """Fit on `calm` images with the recovered triggers, measure on `fresh` ones with the original; both labelled."""
    assert calm.labels is not None and fresh.labels is not None
    order = torch.randperm(len(calm), generator=torch.Generator().manual_seed(SEED))
    ranking, rest = (calm.take(rows) for rows in order.tensor_split([round(RANKED * len(calm))]))
    usual = activations(features, classifier, rest.images)
    measures = []
    for backdoor in recovered:
        assert ranking.labels is not None
        images = ranking.images[eligible_rows(ranking.labels, backdoor.pair)]
        trigger = backdoor.on(classifier.device)
        usual_here = activations(features, classifier, images)
        weights = direction(usual_here, activations(features, classifier, images, trigger))
        scores = usual @ weights
        measures.append((weights, scores.mean(), scores.std().clamp_min(torch.finfo().tiny)))

    def scored(found: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        return torch.stack([(found @ weights - mean) / sd for weights, mean, sd in measures]).amax(0)

    threshold = scored(usual).sort().values[math.ceil((1 - rate) * (len(usual) + 1)) - 1]
    clean = scored(activations(features, classifier, fresh.images)) > threshold
    answers = predict(classifier, fresh.images)
    accepted, passed, of_labels = [], [], []
    for backdoor in original:
        images, trigger = fresh.images[eligible_rows(fresh.labels, backdoor.pair)], backdoor.on(classifier.device)
        let_in = scored(activations(features, classifier, images, trigger)) <= threshold
        hit = triggered_answers(classifier, trigger, images) == backdoor.pair.target
        accepted.append(let_in.float().mean().item())
        passed.append((let_in & hit).float().mean().item())
        of_labels.append(clean[answers == backdoor.pair.target].float().mean().item())
    return Filtered(clean.float().mean().item(), max(of_labels), tuple(accepted), tuple(passed))
