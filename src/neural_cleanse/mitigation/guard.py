"""The input filter (Wang et al., S&P 2019, section VI-A): reject images that excite the backdoor's neurons.

    s(x) = mean over the top 1 % of neurons j, by activation gap, of a_j(x)        at the features
    reject x where the largest of (s_t(x) - mean_t) / sd_t over the backdoors t is above the threshold

Mean, standard deviation and threshold are those of clean images; the threshold is the quantile that rejects a chosen
share of clean images (the rank that also holds for the next image: Vovk et al. 2005, conformal prediction).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.data import ImageSet
from neural_cleanse.errors import DataError, OutputError, SettingsError
from neural_cleanse.metrics import FORWARD_BATCH, answers, pixels, victims
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.mitigation.ranking import activation_gap, activations, features, rank
from neural_cleanse.records import LabelPair
from neural_cleanse.storage import write_whole

GUARD_VERSION = 1
JSON_FILE, TENSOR_FILE = "guard.json", "guard.safetensors"
TOP = 0.01  # of the neurons (paper)
RANKED, CALIBRATED = 0.3, 0.4  # shares of the images that choose neurons and threshold; the rest measures


@dataclass(frozen=True)
class Detector:
    """The neurons of one backdoor, and what their mean is worth on clean images."""

    pair: LabelPair
    neurons: Int[Tensor, " j"]
    mean: float
    sd: float

    def score(self, features: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The neurons' mean, in clean standard deviations above the clean mean."""
        return (features[:, self.neurons.to(features.device)].mean(1) - self.mean) / self.sd


@dataclass(frozen=True)
class Checked:
    """What the guard says of images: logits, score (larger is more suspicious), and whether each is accepted."""

    logits: Float[Tensor, "n classes"]
    score: Float[Tensor, " n"]
    accepted: Bool[Tensor, " n"]


@dataclass(frozen=True)
class Guard:
    """A classifier with an input filter. `false_positive_rate` is the share of clean images it was asked to reject."""

    classifier: Classifier
    detectors: tuple[Detector, ...]
    threshold: float
    false_positive_rate: float

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "n c h w"]) -> Checked:
        """Logits, score and acceptance of images in [0, 1], in one forward pass."""
        logits, found = self.classifier.with_features(images)
        score = torch.stack([detector.score(found) for detector in self.detectors]).amax(0)
        return Checked(logits, score, score <= self.threshold)

    def check(self, images: UInt8[Tensor, "n c h w"]) -> Checked:
        """The same for uint8 images of any number, batch by batch, on the CPU afterwards."""
        parts = [self(pixels(part)) for part in images.to(self.classifier.device).split(FORWARD_BATCH)]
        return Checked(*(torch.cat([getattr(part, name) for part in parts]).cpu() for name in Checked.__annotations__))

    def save(self, directory: Path, about: Mapping[str, Any]) -> None:
        """Write guard.json and guard.safetensors into `directory`; `about` are plain values that go along."""
        described = {
            "schema_version": GUARD_VERSION,
            "threshold": self.threshold,
            "false_positive_rate": self.false_positive_rate,
            "num_features": self.classifier.num_features,
            "detectors": [
                {"target": one.pair.target, "source": one.pair.source, "mean": one.mean, "sd": one.sd}
                for one in self.detectors
            ],
            **about,
        }
        tensors = {f"neurons.{number}": one.neurons.contiguous() for number, one in enumerate(self.detectors)}
        write_whole(directory / TENSOR_FILE, safetensors.torch.save(tensors))
        write_whole(directory / JSON_FILE, (json.dumps(described, indent=2, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, directory: str | Path, classifier: Classifier) -> "Guard":
        """The guard that `save` wrote, around its classifier. Raises OutputError when its files do not fit."""
        try:
            described = read_description(Path(directory))
            named = safetensors.torch.load((Path(directory) / TENSOR_FILE).read_bytes())
            detectors = tuple(
                Detector(LabelPair(row["target"], row["source"]), named[f"neurons.{number}"], row["mean"], row["sd"])
                for number, row in enumerate(described["detectors"])
            )
            neurons = torch.cat([one.neurons for one in detectors])
            known = set(range(classifier.num_features))
            if described["num_features"] != classifier.num_features or not set(neurons.tolist()) <= known:
                raise ValueError(f"it is for {described['num_features']} features, not {classifier.num_features}")
            return cls(classifier, detectors, float(described["threshold"]), float(described["false_positive_rate"]))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
            raise OutputError(f"The guard in {directory} cannot be used: {type(error).__name__} {error}.") from error


def read_description(directory: Path) -> dict[str, Any]:
    """What guard.json says. Raises OutputError when it is no guard of this version."""
    try:
        described = json.loads((directory / JSON_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"There is no guard in {directory}: {error}.", cure="Make one with guard fit.") from error
    if not isinstance(described, dict) or described.get("schema_version") != GUARD_VERSION:
        raise OutputError(f"{directory / JSON_FILE} is no guard of this version.")
    return described


@dataclass(frozen=True)
class GuardReport:
    """What a fitted guard does on images that chose nothing: rejected clean ones, and triggered ones let through."""

    clean_rejected: int
    clean_trials: int
    passed: tuple[int, ...]
    triggered_trials: tuple[int, ...]


def fit_guard(
    classifier: Classifier,
    backdoors: Sequence[Backdoor],
    data: ImageSet,
    *,
    false_positive_rate: float = 0.05,
    generator: torch.Generator,
) -> tuple[Guard, GuardReport]:
    """Fit a guard on clean images against recovered triggers; labels are optional.

    Raises SettingsError without backdoors or on a rate outside (0, 1), DataError where the images are too few for it.
    """
    if not backdoors:
        raise SettingsError("There is no trigger to guard against: the scan flagged nothing.")
    if not 0 < false_positive_rate < 1:
        raise SettingsError(f"The false-positive rate must lie between 0 and 1, got {false_positive_rate}.")
    order = torch.randperm(len(data), generator=generator)
    first, second = (round(share * len(data)) for share in (RANKED, RANKED + CALIBRATED))
    ranking, calibration, rest = (data.take(rows) for rows in (order[:first], order[first:second], order[second:]))
    place = math.ceil((1 - false_positive_rate) * (len(calibration) + 1))
    if place > len(calibration):
        raise DataError(
            f"{len(data)} images are too few for a false-positive rate of {false_positive_rate:g}.",
            cure=f"Give at least {math.ceil(1 / (false_positive_rate * CALIBRATED)) + 1}, or raise the rate.",
        )
    clean = activations(features, classifier, calibration.images)
    detectors = tuple(_detector(classifier, backdoor, ranking, clean) for backdoor in backdoors)
    scores = torch.stack([detector.score(clean) for detector in detectors]).amax(0)
    threshold = scores.sort().values[place - 1].item()
    guard = Guard(classifier, detectors, threshold, false_positive_rate)
    return guard, measure_guard(guard, backdoors, rest)


def _detector(classifier: Classifier, backdoor: Backdoor, ranking: ImageSet, clean: Float[Tensor, "n d"]) -> Detector:
    rows = victims(_classes(classifier, ranking), backdoor.pair)
    images = ranking.images[rows]
    if len(images) == 0:
        raise DataError(f"There are no images to rank neurons for label {backdoor.pair.target} with.")
    triggered = activations(features, classifier, images, backdoor.trigger)
    gap = activation_gap(activations(features, classifier, images), triggered)
    neurons = rank(gap)[: max(1, round(TOP * len(gap)))]
    usual = clean[:, neurons].mean(1)
    return Detector(backdoor.pair, neurons, usual.mean().item(), max(usual.std().item(), torch.finfo().tiny))


def _classes(classifier: Classifier, data: ImageSet) -> Int[Tensor, " n"]:
    return answers(classifier, data.images) if data.labels is None else data.labels


def measure_guard(guard: Guard, backdoors: Sequence[Backdoor], data: ImageSet) -> GuardReport:
    """How many clean images are rejected, and of every backdoor how many triggered ones pass."""
    clean = guard.check(data.images).accepted
    labels = _classes(guard.classifier, data)
    passed, trials = [], []
    for backdoor in backdoors:
        rows = victims(labels, backdoor.pair)
        accepted = [
            guard(backdoor.trigger(pixels(part).unsqueeze(0)).squeeze(0)).accepted
            for part in data.images[rows].to(guard.classifier.device).split(FORWARD_BATCH)
        ]
        passed.append(int(torch.cat(accepted).sum()))
        trials.append(len(rows))
    return GuardReport(int((~clean).sum()), len(clean), tuple(passed), tuple(trials))
