"""The input filter (after Wang et al., S&P 2019, section VI-A): reject images that excite the backdoor's features.

    s_t(x) = w_t . a(x)        a: the features, w_t: where the recovered trigger of backdoor t moves them
    reject x where the largest of (s_t(x) - mean_t) / sd_t over the backdoors t is above the threshold

Mean and standard deviation are those of clean images; `guard_fitting` finds weights and threshold.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import SafetensorError
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import OutputError
from neural_cleanse.files import write_whole
from neural_cleanse.metrics import FORWARD_BATCH, pixels
from neural_cleanse.results.records import LabelPair

GUARD_VERSION = 1
JSON_FILE, TENSOR_FILE = "guard.json", "guard.safetensors"


@dataclass(frozen=True)
class Detector:
    """Where one backdoor moves the features, and what their sum with these weights is on clean images."""

    pair: LabelPair
    weights: Float[Tensor, " d"]
    mean: float
    sd: float

    def score(self, features: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The weighted sum, in clean standard deviations above the clean mean; finite, for neurons silent till now."""
        score = (features @ self.weights.to(features.device) - self.mean) / self.sd
        return score.clamp(max=torch.finfo(score.dtype).max)


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
        tensors = {f"weights.{number}": one.weights.contiguous() for number, one in enumerate(self.detectors)}
        try:
            (directory / JSON_FILE).unlink(missing_ok=True)  # an earlier guard's description never meets other weights
        except OSError as error:
            raise OutputError(
                f"{directory / JSON_FILE} cannot be replaced: {error.strerror}.",
                cure="Name another directory, or change its permissions.",
            ) from error
        write_whole(directory / TENSOR_FILE, safetensors.torch.save(tensors))
        write_whole(directory / JSON_FILE, (json.dumps(described, indent=2, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, directory: str | Path, classifier: Classifier) -> "Guard":
        """The guard that `save` wrote, around its classifier. Raises OutputError when its files do not fit."""
        try:
            described = read_description(Path(directory))
            named = safetensors.torch.load((Path(directory) / TENSOR_FILE).read_bytes())
            detectors = tuple(
                _read_detector(row, named[f"weights.{number}"]) for number, row in enumerate(described["detectors"])
            )
            if not detectors or any(one.weights.shape != (classifier.num_features,) for one in detectors):
                raise ValueError(f"it is for {described['num_features']} features, not {classifier.num_features}")
            numbers = (_finite(described[name]) for name in ("threshold", "false_positive_rate"))
            return cls(classifier, detectors, *numbers)
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RuntimeError, SafetensorError) as error:
            raise OutputError(
                f"The guard in {directory} cannot be used: {type(error).__name__} {error}.",
                cure="Fit the guard again, with this model.",
            ) from error


def _read_detector(row: Mapping[str, Any], weights: Tensor) -> Detector:
    if weights.dtype != torch.float32 or weights.dim() != 1 or not weights.isfinite().all():
        raise ValueError(f"its weights are {weights.dtype} of shape {tuple(weights.shape)}, or not finite")
    detector = Detector(LabelPair(row["target"], row["source"]), weights, _finite(row["mean"]), _finite(row["sd"]))
    if detector.sd <= 0:
        raise ValueError(f"its standard deviation is {detector.sd}")
    return detector


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no finite number")
    return number


def read_description(directory: Path) -> dict[str, Any]:
    """What guard.json says. Raises OutputError when it is no guard of this version."""
    try:
        described = json.loads((directory / JSON_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"There is no guard in {directory}: {error}.", cure="Make one with guard fit.") from error
    if not isinstance(described, dict) or described.get("schema_version") != GUARD_VERSION:
        raise OutputError(f"{directory / JSON_FILE} is no guard of this version.", cure="Fit the guard again.")
    return described
