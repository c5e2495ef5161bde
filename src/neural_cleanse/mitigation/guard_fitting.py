"""Fit the input filter on clean images and recovered triggers.

For every guarded label it tells clean images that the model gives this label from others that a trigger sends there.
The triggers are the recovered one and others of its family (family.py), one an image at random. The direction of a view
is Fisher's linear discriminant, w = S^-1 (mean of triggered images - mean of clean ones) with the pooled covariance S,
on values in units of their spread. The threshold is the quantile of other clean images of the label that rejects a
chosen share of them, at the rank that also holds for the next image (Vovk et al. 2005, conformal prediction).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neural_cleanse.checks import expect_rate
from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.input_check import check_shape
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.errors import DataError, SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import FORWARD_BATCH, eligible_rows, pixels, predict
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.mitigation.family import fresh_triggers
from neural_cleanse.mitigation.guard import Detector, Direction, Guard, Views, answered

SHRINKAGE = 0.2  # of the pooled covariance towards its mean variance: few images, many values
LEARNED, CALIBRATED = 0.4, 0.4  # shares of the images that choose weights and thresholds; the rest measures
LEAST_LEARNED = 8  # images of either kind that a direction is found from


@dataclass(frozen=True)
class GuardReport:
    """What a fitted guard does on images that chose nothing.

    `label_rejected` and `label_trials` count clean images that the model gives each guarded label; `passed` triggered
    images that are accepted and get the trigger's target.
    """

    clean_rejected: int
    clean_trials: int
    labels: tuple[int, ...]
    label_rejected: tuple[int, ...]
    label_trials: tuple[int, ...]
    passed: tuple[int, ...]
    triggered_trials: tuple[int, ...]

    def as_record(self, backdoors: Sequence[Backdoor]) -> dict[str, Any]:
        """Plain values, with 95 % intervals; `backdoors` are those that the guard was fitted to."""
        return {
            "clean_rejected": _rate(self.clean_rejected, self.clean_trials),
            "label_rejected": [
                {"label": label, **_rate(rejected, trials)}
                for label, rejected, trials in zip(self.labels, self.label_rejected, self.label_trials, strict=True)
            ],
            "triggered_passed": [
                {"target": backdoor.pair.target, "source": backdoor.pair.source, **_rate(passed, trials)}
                for backdoor, passed, trials in zip(backdoors, self.passed, self.triggered_trials, strict=True)
            ],
        }


def described(classifier: Classifier, sha256: str | None, seed: int, measured: Mapping[str, Any]) -> dict[str, Any]:
    """What a guard's file says of the model, read as `classifier`, and of what was measured (GuardReport.as_record)."""
    return {
        "model_sha256": sha256,
        "normalisation": str(classifier.normalize),
        "normalize": asdict(classifier.normalize),
        "input_shape": list(classifier.input_shape),
        "features_layer": classifier.features_layer,
        "seed": seed,
        "measured": measured,
    }


def images_of(measured: int) -> int:
    """How many clean images of a label there were, by how many of them measured the guard."""
    return round(measured / (1 - LEARNED - CALIBRATED))


def enough_images(rate: float) -> int:
    """So many images of a label set a threshold whose true rate differs from `rate` by half of it (one sd)."""
    return math.ceil(4 * (1 - rate) / rate / CALIBRATED)


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
) -> tuple[Guard, GuardReport]:
    """Fit a guard on clean images against recovered triggers; labels are optional.

    Raises SettingsError without backdoors or on a rate outside (0, 1), DataError where the images do not fit or are too
    few for it.
    """
    if not backdoors:
        raise SettingsError(
            "There is no trigger to guard against: the scan flagged nothing.",
            cure="Name labels to guard, flagged or not, with --labels 3,7; or scan again as its report says.",
        )
    expect_rate(false_positive_rate, "false-positive rate")
    check_shape(data, classifier.input_shape)
    assert classifier.layers  # a network without features fails before any work
    data = data.distinct()  # no image that chose weights or threshold also measures
    answers = predict(classifier, data.images)
    targets = tuple(sorted({backdoor.pair.target for backdoor in backdoors}))
    for target in targets:
        _check_count(target, int((answers == target).sum()), false_positive_rate)
    learn, calibrate, rest = _split(answers, generator)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    learned = data.take(learn)
    if learned.labels is None:
        learned = ImageSet(learned.images, answers[learn])
    triggered = _triggered_views(classifier, backdoors, learned, seed)
    usual, calm = (_clean_views(classifier, data.take(rows)) for rows in (learn, calibrate))
    detectors = []
    for target in targets:
        own, others = (
            tuple(values[answers[rows] == target] for values in views)
            for rows, views in ((learn, usual), (calibrate, calm))
        )
        weights = _weights(target, usual, own, triggered.get(target))
        detectors.append(_detector(target, weights, others, false_positive_rate))
    guard = Guard(classifier, tuple(detectors), false_positive_rate, data.normalised)
    return guard, measure_guard(guard, backdoors, data.take(rest))


def _check_count(target: int, count: int, rate: float) -> None:
    """Raise DataError where a share of the images with this answer is too few for a direction, or for the rate."""
    rounding = 2
    least = math.ceil(max((1 / rate - 1) / CALIBRATED, LEAST_LEARNED / LEARNED)) + rounding
    if count < least:
        raise DataError(
            f"The model gives {count} different images the guarded label {target}: {least} are needed for a "
            f"false-positive rate of {rate:g}.",
            cure=f"Give more images of class {target}, or raise the rate.",
        )


def _split(answers: Int[Tensor, " n"], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Rows to learn from, to calibrate on and to measure on, with the same shares of every answer."""
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for answer in answers.unique():
        rows = (answers == answer).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=generator)]
        bounds = [round(share * len(rows)) for share in (LEARNED, LEARNED + CALIBRATED)]
        for part, some in zip(parts, rows.tensor_split(bounds), strict=True):
            part.append(some)
    learn, calibrate, rest = (torch.cat(part) for part in parts)
    return learn, calibrate, rest


def _triggered_views(
    classifier: Classifier, backdoors: Sequence[Backdoor], data: ImageSet, seed: int
) -> dict[int, Views]:
    """The views of images that a trigger sends to each target."""
    family = fresh_triggers(classifier, backdoors, data, seed)
    generator = torch.Generator().manual_seed(seed)
    assert data.labels is not None
    sent: dict[int, list[Views]] = {}
    for backdoor in backdoors:
        rows = eligible_rows(data.labels, backdoor.pair)
        triggers = [backdoor, *(other for other in family if other.pair == backdoor.pair)]
        drawn = torch.randint(len(triggers), (len(rows),), generator=generator)
        for number, one in enumerate(triggers):
            mine = rows[drawn == number]
            if len(mine):
                sent.setdefault(backdoor.pair.target, []).extend(_views(classifier, data.take(mine), one))
    return {target: _joined(parts) for target, parts in sent.items() if parts}


def _clean_views(classifier: Classifier, data: ImageSet) -> Views:
    return _joined(list(_views(classifier, data, None)))


@torch.no_grad()
def _views(classifier: Classifier, data: ImageSet, backdoor: Backdoor | None) -> Iterator[Views]:
    """The views of all images, batch by batch, or of those that the trigger sends to its target."""
    chosen = torch.ones_like if backdoor is None else partial(torch.eq, other=backdoor.pair.target)
    for part in data.images.to(classifier.device).split(FORWARD_BATCH):
        images = pixels(part)
        if backdoor is not None:
            images = backdoor.on(classifier.device)(images.unsqueeze(0)).squeeze(0)
        *_, views = answered(classifier, images, chosen)
        if len(views[0]):
            yield tuple(values.cpu() for values in views)


def _joined(parts: Sequence[Views]) -> Views:
    return tuple(torch.cat(view) for view in zip(*parts, strict=True))


def _weights(target: int, usual: Views, own: Views, triggered: Views | None) -> list[Float[Tensor, " _"]]:
    """Of each view the direction from clean images of the label to triggered ones."""
    count = 0 if triggered is None else len(triggered[0])
    if triggered is None or count < LEAST_LEARNED:
        raise DataError(
            f"The triggers of label {target} send {count} images there: {LEAST_LEARNED} are needed to learn from.",
            cure="Give more images, of other classes too, or guard other labels.",
        )
    found = []
    for all_clean, clean, sent in zip(usual, own, triggered, strict=True):
        spread = torch.cat([all_clean, sent]).std(0)
        spread = torch.where(spread > 0, spread, 1.0)  # what never varies has no weight
        found.append(fisher(clean / spread, sent / spread) / spread)
    return found


def fisher(clean: Float[Tensor, "n d"], triggered: Float[Tensor, "m d"]) -> Float[Tensor, " d"]:
    """Fisher's linear discriminant with a shrunk pooled covariance, as a unit vector.

    S = X'X + a I, so with fewer images than values S^-1 v = (v - X' (XX' + a I)^-1 X v) / a (Woodbury 1950): a layer
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


def _detector(target: int, weights: Sequence[Float[Tensor, " _"]], calm: Views, rate: float) -> Detector:
    """Scales and threshold, from clean images that the model gives this label."""
    directions = []
    for one, values in zip(weights, calm, strict=True):
        usual = values @ one
        directions.append(Direction(one, usual.mean().item(), max(usual.std().item(), torch.finfo().tiny)))
    scores = Detector(target, tuple(directions), 0.0).score(calm).sort().values
    place = math.ceil((1 - rate) * (len(scores) + 1))
    return Detector(target, tuple(directions), scores[place - 1].item())


def measure_guard(guard: Guard, backdoors: Sequence[Backdoor], data: ImageSet) -> GuardReport:
    """How many clean images are rejected, and of every backdoor how many triggered ones pass and get its target."""
    checked = guard.check(data.images)
    answers, rejected = checked.logits.argmax(1), ~checked.accepted
    labels = answers if data.labels is None else data.labels
    targets = tuple(detector.target for detector in guard.detectors)
    passed, trials = [], []
    for backdoor in backdoors:
        rows, trigger = eligible_rows(labels, backdoor.pair), backdoor.on(guard.classifier.device)
        hits = 0
        for part in data.images[rows].to(guard.classifier.device).split(FORWARD_BATCH):
            found = guard(trigger(pixels(part).unsqueeze(0)).squeeze(0))
            hits += int((found.accepted & (found.logits.argmax(1) == backdoor.pair.target)).sum())
        passed.append(hits)
        trials.append(len(rows))
    return GuardReport(
        clean_rejected=int(rejected.sum()),
        clean_trials=len(rejected),
        labels=targets,
        label_rejected=tuple(int((rejected & (answers == target)).sum()) for target in targets),
        label_trials=tuple(int((answers == target).sum()) for target in targets),
        passed=tuple(passed),
        triggered_trials=tuple(trials),
    )
