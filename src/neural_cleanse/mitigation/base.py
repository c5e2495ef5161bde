"""What every mitigation works with: known backdoors, images to learn from, images to decide on, and bounds to keep."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import OutputError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import attack_hits, clean_accuracy, eligible_rows, predict
from neural_cleanse.results.records import LabelPair, ScanResult
from neural_cleanse.results.repair import Measurement, TracePoint
from neural_cleanse.triggers.base import Trigger
from neural_cleanse.triggers.patch import PatchTrigger


@dataclass(frozen=True)
class Backdoor:
    """A trigger (k = 1) and whom it sends where: recovered by a scan, or the attacker's own where it is known."""

    pair: LabelPair
    trigger: Trigger

    def on(self, device: torch.device) -> Trigger:
        """The trigger on that device, where the images are."""
        return self.trigger.to(device)


@dataclass(frozen=True)
class RepairLimits:
    """`train` may be learned from, `check` decides and is learned from by nothing; both labelled, and disjoint.

    A repaired model must keep a clean accuracy of `min_accuracy` on `check`, and no trigger may succeed there more
    often than `max_asr`. `on_step` is called with each step in words.
    """

    train: ImageSet
    check: ImageSet
    min_accuracy: float
    max_asr: float
    on_step: Callable[[str], None] = lambda _: None

    def satisfied(self, measured: Measurement) -> bool:
        """Whether both bounds are kept."""
        return measured.accuracy >= self.min_accuracy and measured.worst_asr <= self.max_asr


@dataclass(frozen=True)
class Mitigated:
    """The changed classifier (None: nothing kept the floor, leave the model as it is), and every step of the way."""

    classifier: Classifier | None
    trace: tuple[TracePoint, ...]


class Mitigation(ABC):
    """Changes a copy of a classifier; the one it was given stays as it was."""

    @abstractmethod
    def __call__(
        self, classifier: Classifier, backdoors: Sequence[Backdoor], terms: RepairLimits, generator: torch.Generator
    ) -> Mitigated:
        """The classifier with the backdoors disarmed, as far as the terms allow."""


def measure(classifier: Classifier, backdoors: Sequence[Backdoor], data: ImageSet) -> Measurement:
    """Clean accuracy and the attack success of every backdoor, on labelled images."""
    assert data.labels is not None, "repair labels what has no labels with the model's own answers"
    hits, trials = [], []
    for backdoor in backdoors:
        rows = eligible_rows(data.labels, backdoor.pair)
        trials.append(len(rows))
        hits.append(attack_hits(classifier, backdoor.on(classifier.device), data.images[rows], backdoor.pair.target))
    return Measurement(clean_accuracy(predict(classifier, data.images), data.labels), tuple(hits), tuple(trials))


def known_backdoors(result: ScanResult, labels: Sequence[int] | None) -> tuple[Backdoor, ...]:
    """The triggers that a scan recovered for these labels (None: for every label that has a size).

    Where not the label was flagged but pairs that lead to it, theirs: the label's own trigger is no backdoor then.
    """
    sized = {LabelPair(row.target, row.source) for row in result.labels if row.size is not None}
    flagged_pairs = set(result.flagged_pairs)
    through_pairs = {pair.target for pair in flagged_pairs if pair.source is not None}
    wanted = [
        pair
        for pair in result.triggers
        if pair in sized
        and (labels is None or pair.target in labels)
        and (pair in flagged_pairs if pair.target in through_pairs else pair.source is None)
    ]
    return tuple(
        Backdoor(pair, _trigger(result.triggers[pair], result.image_shape))
        for pair in sorted(wanted, key=lambda pair: (pair.target, pair.source or 0))
    )


def _trigger(tensors: Mapping[str, Tensor], shape: tuple[int, int, int]) -> PatchTrigger:
    """Raises OutputError when the tensors are not those of a patch on such images."""
    channels, height, width = shape
    wanted = {"mask": (1, 1, height, width), "pattern": (1, channels, height, width)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != wanted or not all(((values >= 0) & (values <= 1)).all() for values in tensors.values()):
        raise OutputError(f"The scan is damaged: it has a trigger of {found} for images {shape}, or values outside it.")
    return PatchTrigger(tensors["mask"].float(), tensors["pattern"].float())
