"""The input filter (after Wang et al., S&P 2019, section VI-A): reject images that a trigger sends to its label.

A trigger that works makes the model answer its target t. So the guard scores the images that get a guarded label, each
among the clean images that the model gives this label:

    s_v(x) = (w_v . a_v(x) - mean_v) / sd_v    of the features a_1 and the extremes a_2 of early channels (extremes.py)
    reject x if the model answers t and max over v of s_v(x) is above the threshold of t

An image on which the trigger fails passes, with the answer that the model gives. `guard_fitting` finds the weights.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors import SafetensorError
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import RIGHTS, DataError, OutputError
from neural_cleanse.files import write_whole
from neural_cleanse.metrics import FORWARD_BATCH, pixels
from neural_cleanse.mitigation.extremes import EarlyLayers
from neural_cleanse.regular_files import read_regular
from neural_cleanse.text import by

GUARD_VERSION = 2
JSON_FILE, TENSOR_FILE = "guard.json", "guard.safetensors"
VIEWS = ("features", "early_channels")  # what is looked at; the second where the network has convolutions

Views = tuple[Float[Tensor, "_ _"], ...]


@dataclass(frozen=True)
class Direction:
    """Where a backdoor moves activations, and what their sum with these weights is on clean images of its label."""

    weights: Float[Tensor, " d"]
    mean: float
    sd: float

    def score(self, values: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The weighted sum, in clean standard deviations above the clean mean; finite, for neurons silent till now."""
        score = (values @ self.weights.to(values.device) - self.mean) / self.sd
        return score.clamp(max=torch.finfo(score.dtype).max)


@dataclass(frozen=True)
class Detector:
    """What tells triggered images that the model sends to `target` from clean ones: a direction for each view."""

    target: int
    directions: tuple[Direction, ...]
    threshold: float

    def score(self, views: Views) -> Float[Tensor, " n"]:
        """How far the largest score of a view is above the threshold, in clean standard deviations."""
        scores = [direction.score(values) for direction, values in zip(self.directions, views, strict=True)]
        return torch.stack(scores).amax(0) - self.threshold


@dataclass(frozen=True)
class Checked:
    """What the guard says of images: logits, score, and whether each is accepted.

    The score is in clean standard deviations above the threshold: above 0 an image is rejected. It is minus infinity
    for images that the model gives no guarded label.
    """

    logits: Float[Tensor, "n classes"]
    score: Float[Tensor, " n"]
    accepted: Bool[Tensor, " n"]


@dataclass(frozen=True)
class Guard:
    """A classifier with an input filter.

    `false_positive_rate` is the share of the clean images with a guarded label that it was asked to reject.
    `normalised_images` says that it was fitted with floats that were normalised, as those of its user then are.
    """

    classifier: Classifier
    detectors: tuple[Detector, ...]
    false_positive_rate: float
    normalised_images: bool = False

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "n c h w"]) -> Checked:
        """Logits, score and acceptance of images in [0, 1]: one pass, and half a one more for guarded labels where the
        early layers' activations are too many to be kept."""
        targets = torch.tensor([detector.target for detector in self.detectors], device=images.device)
        logits, rows, answers, views = answered(self.classifier, images, lambda given: torch.isin(given, targets))
        score = logits.new_full((len(images),), -math.inf).float()
        for detector in self.detectors:
            mine = answers == detector.target
            if mine.any():
                score[rows[mine]] = detector.score(tuple(values[mine] for values in views))
        return Checked(logits, score, score <= 0)

    def check(self, images: UInt8[Tensor, "n c h w"]) -> Checked:
        """The same for images of any number, batch by batch, on the CPU afterwards.

        Raises DataError on images of another shape.
        """
        expect_shape(tuple(images.shape[1:]), self.classifier.input_shape)
        parts = [self(pixels(part)) for part in images.to(self.classifier.device).split(FORWARD_BATCH)]
        return Checked(*(torch.cat([getattr(part, name) for part in parts]).cpu() for name in Checked.__annotations__))

    def save(self, directory: Path, about: Mapping[str, Any]) -> None:
        """Write guard.json and guard.safetensors into `directory`; `about` are plain values that go along."""
        described = {
            "schema_version": GUARD_VERSION,
            "false_positive_rate": self.false_positive_rate,
            "normalised_images": self.normalised_images,
            "detectors": [
                {
                    "target": one.target,
                    "threshold": one.threshold,
                    "views": [
                        {"name": name, "mean": direction.mean, "sd": direction.sd, "values": len(direction.weights)}
                        for name, direction in zip(VIEWS, one.directions, strict=False)
                    ],
                }
                for one in self.detectors
            ],
            **about,
        }
        tensors = {
            _weights(number, name): direction.weights.contiguous()
            for number, one in enumerate(self.detectors)
            for name, direction in zip(VIEWS, one.directions, strict=False)
        }
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
            named = safetensors.torch.load(read_regular(Path(directory) / TENSOR_FILE))
            detectors = tuple(_read_detector(row, number, named) for number, row in enumerate(described["detectors"]))
            _expect_labels([one.target for one in detectors], classifier.num_classes)
            wanted = [values.shape[1] for values in _views_of_nothing(classifier)]
            for one in detectors:
                given = [len(direction.weights) for direction in one.directions]
                if given != wanted:
                    raise ValueError(f"it is for {given} values of {VIEWS}, not {wanted}")
            normalised = described.get("normalised_images", False)  # files of before do not say
            if not isinstance(normalised, bool):
                raise ValueError(f"normalised_images is {normalised!r:.80}")
            return cls(classifier, detectors, _finite(described["false_positive_rate"]), normalised)
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RuntimeError, SafetensorError) as error:
            raise OutputError(
                f"The guard in {directory} cannot be used: {type(error).__name__} {error}.",
                cure="Fit the guard again, with this model.",
            ) from error


def expect_shape(got: tuple[int, ...], wanted: tuple[int, int, int]) -> None:
    """Raise DataError where images to check are not of the model's shape, (channels, height, width)."""
    if got != wanted:
        raise DataError(
            f"The images are {by(got) or 'single values'}, the model takes {by(wanted)} (channels x height x width).",
            cure=f"Give images of {by(wanted)}, in the form that the guard was fitted with.",
        )


def answered(
    classifier: Classifier,
    images: Float[Tensor, "n c h w"],
    chosen: Callable[[Int[Tensor, " n"]], Bool[Tensor, " n"]],
) -> tuple[Float[Tensor, "n classes"], Int[Tensor, " m"], Int[Tensor, " m"], Views]:
    """The logits of all images; which of them are `chosen` by their answers; the answers of those, and what directions
    are found in: the features, and the early channels' extremes where there are any."""
    with EarlyLayers(classifier) as early:
        logits, features = classifier.with_features(images)
    answers = logits.argmax(1)
    rows = chosen(answers).nonzero().squeeze(1)
    extremes = early.extremes(images, rows)
    features = features[rows].float()
    return logits, rows, answers[rows], (features, extremes) if extremes.shape[1] else (features,)


@torch.no_grad()
def _views_of_nothing(classifier: Classifier) -> Views:
    images = torch.zeros(1, *classifier.input_shape, device=classifier.device)
    return answered(classifier, images, torch.ones_like)[3]


def _weights(detector: int, view: str) -> str:
    return f"weights.{detector}.{view}"


def _read_detector(row: Mapping[str, Any], number: int, named: Mapping[str, Tensor]) -> Detector:
    target = row["target"]
    if not isinstance(target, int) or isinstance(target, bool) or not row["views"]:
        raise ValueError(f"detector {number} has target {target!r:.40} and views {row['views']!r:.80}")
    directions = [_read_direction(view, named[_weights(number, str(view["name"]))]) for view in row["views"]]
    return Detector(target, tuple(directions), _finite(row["threshold"]))


def _expect_labels(targets: list[int], num_classes: int) -> None:
    """Raise ValueError unless they are labels of the model, each once: one that no image gets would guard nothing."""
    if not targets:
        raise ValueError("it guards no label")
    if other := [target for target in targets if not 0 <= target < num_classes]:
        raise ValueError(f"it guards label {other[0]!r:.40}, the model has the labels 0 to {num_classes - 1}")
    if len(set(targets)) < len(targets):
        raise ValueError("it guards a label twice")


def _read_direction(row: Mapping[str, Any], weights: Tensor) -> Direction:
    if weights.dtype != torch.float32 or weights.dim() != 1 or not weights.isfinite().all():
        raise ValueError(f"its weights are {weights.dtype} of shape {tuple(weights.shape)}, or not finite")
    direction = Direction(weights, _finite(row["mean"]), _finite(row["sd"]))
    if direction.sd <= 0:
        raise ValueError(f"its standard deviation is {direction.sd}")
    return direction


def _finite(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(f"{number} is no finite number")
    return number


def read_description(directory: Path) -> dict[str, Any]:
    """What guard.json says. Raises OutputError when it is no guard of this version."""
    try:
        described = json.loads(read_regular(directory / JSON_FILE))
    except PermissionError as error:
        raise OutputError(f"The guard in {directory} cannot be read: {error.strerror}.", cure=RIGHTS) from error
    except OSError as error:
        raise OutputError(
            f"There is no guard in {directory}: {error.strerror}.", cure="Make one with guard fit."
        ) from error
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{directory / JSON_FILE} is damaged: {error}.", cure="Fit the guard again.") from error
    if not isinstance(described, dict) or described.get("schema_version") != GUARD_VERSION:
        raise OutputError(f"{directory / JSON_FILE} is no guard of this version.", cure="Fit the guard again.")
    return described
