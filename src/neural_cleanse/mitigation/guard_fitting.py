"""Fit the input filter on clean images and recovered triggers.

`top` is the direction of Wang et al. 2019 (section VI-A): the mean of the 1 % of neurons that the trigger excites most.
The default is Fisher's linear discriminant, w = S^-1 (mean of a(A(x)) - mean of a(x)) with the pooled covariance S,
which costs the same at run time and lets fewer triggered images through (docs/repair.md has figures). The threshold is
the quantile of clean scores that rejects a chosen share of them, at the rank that also holds for the next image
(Vovk et al. 2005, conformal prediction).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.input_check import check_shape
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.errors import DataError, SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import FORWARD_BATCH, eligible_rows, pixels, predict
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.mitigation.guard import Detector, Guard
from neural_cleanse.mitigation.ranking import activation_gap, activations, features, rank

TOP = 0.01  # of the neurons (paper)
SHRINKAGE = 0.1  # of the pooled covariance towards its mean variance: few images, many features
RANKED, CALIBRATED = 0.3, 0.4  # shares of the images that choose weights and threshold; the rest measures
LEAST_RANKED = 10

Direction = Callable[[Float[Tensor, "n d"], Float[Tensor, "n d"]], Float[Tensor, " d"]]  # clean, triggered -> weights


@dataclass(frozen=True)
class GuardReport:
    """What a fitted guard does on images that chose nothing: rejected clean ones, and triggered ones let through."""

    clean_rejected: int
    clean_trials: int
    passed: tuple[int, ...]
    triggered_trials: tuple[int, ...]

    def as_record(self, backdoors: Sequence[Backdoor]) -> dict[str, Any]:
        """Plain values, with 95 % intervals; `backdoors` are those that the guard was fitted to."""
        return {
            "clean_rejected": _rate(self.clean_rejected, self.clean_trials),
            "triggered_passed": [
                {"target": backdoor.pair.target, "source": backdoor.pair.source, **_rate(passed, trials)}
                for backdoor, passed, trials in zip(backdoors, self.passed, self.triggered_trials, strict=True)
            ],
        }


def _rate(hits: int, trials: int) -> dict[str, Any]:
    share = hits / trials if trials else 0.0
    return {"hits": hits, "trials": trials, "share": share, "interval": clopper_pearson(hits, trials)}


def fit_guard(
    classifier: Classifier,
    backdoors: Sequence[Backdoor],
    data: ImageSet,
    *,
    false_positive_rate: float = 0.05,
    generator: torch.Generator,
    direction: Direction | None = None,
) -> tuple[Guard, GuardReport]:
    """Fit a guard on clean images against recovered triggers; labels are optional.

    `direction` None stands for Fisher's. Raises SettingsError without backdoors or on a rate outside (0, 1), DataError
    where the images do not fit or are too few for it.
    """
    if not backdoors:
        raise SettingsError(
            "There is no trigger to guard against: the scan flagged nothing.",
            cure="Fit a guard for a scan that flagged a label.",
        )
    if not 0 < false_positive_rate < 1:
        raise SettingsError(
            f"The false-positive rate must lie between 0 and 1, got {false_positive_rate}.",
            cure="Choose one like 0.02.",
        )
    check_shape(data, classifier.input_shape)
    data = data.distinct()  # no image that chose neurons or threshold also measures
    order = torch.randperm(len(data), generator=generator)
    first, second = (round(share * len(data)) for share in (RANKED, RANKED + CALIBRATED))
    place = math.ceil((1 - false_positive_rate) * (second - first + 1))
    if place > second - first:
        least = max(1 / (false_positive_rate * CALIBRATED), 2 * LEAST_RANKED / RANKED)  # half may be of the target
        raise DataError(
            f"Too few different images for a false-positive rate of {false_positive_rate:g}: {len(data)}.",
            cure=f"Give at least {math.ceil(least) + 1}, or raise the rate.",
        )
    ranking, calibration, rest = (data.take(rows) for rows in (order[:first], order[first:second], order[second:]))
    clean = activations(features, classifier, calibration.images)
    detectors = tuple(_detector(classifier, backdoor, ranking, clean, direction or fisher) for backdoor in backdoors)
    scores = torch.stack([detector.score(clean) for detector in detectors]).amax(0)
    threshold = scores.sort().values[place - 1].item()
    guard = Guard(classifier, detectors, threshold, false_positive_rate)
    return guard, measure_guard(guard, backdoors, rest)


def top(clean: Float[Tensor, "n d"], triggered: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """The paper's direction: the mean of the neurons that the trigger excites most."""
    neurons = rank(activation_gap(clean, triggered))[: max(1, round(TOP * clean.shape[1]))]
    weights = torch.zeros(clean.shape[1])
    weights[neurons] = 1 / len(neurons)
    return weights


def fisher(clean: Float[Tensor, "n d"], triggered: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """Fisher's linear discriminant with a shrunk pooled covariance, as a unit vector.

    S = X'X + a I, so with fewer images than features S^-1 v = (v - X' (XX' + a I)^-1 X v) / a (Woodbury 1950): a layer
    of 50,000 features needs no matrix of their square.
    """
    parts = [(part - part.mean(0)).double() / math.sqrt(2 * (len(part) - 1)) for part in (clean, triggered)]
    centred = torch.cat(parts) * math.sqrt(1 - SHRINKAGE)
    count, width = centred.shape
    tiny = torch.finfo(torch.float32).tiny
    ridge = (SHRINKAGE / (1 - SHRINKAGE) * centred.square().sum() / width).clamp_min(tiny)
    apart = (triggered.mean(0) - clean.mean(0)).double()
    weights: Tensor
    if width <= count:
        weights = torch.linalg.solve(centred.T @ centred + ridge * torch.eye(width), apart)
    else:
        inner = torch.linalg.solve(centred @ centred.T + ridge * torch.eye(count), centred @ apart)
        weights = (apart - centred.T @ inner) / ridge
    unit: Tensor = weights / weights.norm().clamp_min(tiny)
    return unit.float()


def _detector(
    classifier: Classifier, backdoor: Backdoor, ranking: ImageSet, clean: Float[Tensor, "n d"], direction: Direction
) -> Detector:
    rows = eligible_rows(_classes(classifier, ranking), backdoor.pair)
    images = ranking.images[rows]
    if len(images) < LEAST_RANKED:
        raise DataError(
            f"There are {len(images)} images to learn the trigger of label {backdoor.pair.target} from: "
            f"{LEAST_RANKED} are needed.",
            cure="Give more images, of other classes too.",
        )
    triggered = activations(features, classifier, images, backdoor.on(classifier.device))
    weights = direction(activations(features, classifier, images), triggered)
    usual = clean @ weights
    return Detector(backdoor.pair, weights, usual.mean().item(), max(usual.std().item(), torch.finfo().tiny))


def _classes(classifier: Classifier, data: ImageSet) -> Int[Tensor, " n"]:
    return predict(classifier, data.images) if data.labels is None else data.labels


def measure_guard(guard: Guard, backdoors: Sequence[Backdoor], data: ImageSet) -> GuardReport:
    """How many clean images are rejected, and of every backdoor how many triggered ones pass."""
    clean = guard.check(data.images).accepted
    labels = _classes(guard.classifier, data)
    passed, trials = [], []
    for backdoor in backdoors:
        rows, trigger = eligible_rows(labels, backdoor.pair), backdoor.on(guard.classifier.device)
        accepted = [
            guard(trigger(pixels(part).unsqueeze(0)).squeeze(0)).accepted
            for part in data.images[rows].to(guard.classifier.device).split(FORWARD_BATCH)
        ]
        passed.append(int(torch.cat(accepted).sum()))
        trials.append(len(rows))
    return GuardReport(int((~clean).sum()), len(clean), tuple(passed), tuple(trials))
