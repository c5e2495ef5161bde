"""What every mitigation works with: known backdoors, images to learn from, images to decide on, and bounds to keep."""

import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.cut import Cut, Shifted
from neural_cleanse.errors import OutputError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import attack_hits, clean_accuracy, eligible_rows, predict
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import KindRow, LabelPair, ScanResult
from neural_cleanse.results.repair import Measurement, TracePoint
from neural_cleanse.triggers.base import Trigger
from neural_cleanse.triggers.patch import PatchTrigger

WIDER = 2.5  # of a recovered patch, where no label is usual: planted ones are up to 2.1 times as large (six networks)


@dataclass(frozen=True)
class Place:
    """Where a shift of activations acts: at a cut, in units of their spread, and brings none under `least`."""

    cut: Cut
    spread: float
    least: float


@dataclass(frozen=True)
class Backdoor:
    """A trigger (k = 1) and whom it sends where: recovered by a scan, or the attacker's own where it is known.

    `natural` is the size of such a trigger for a usual label: others of the family are searched for up to that size,
    and none where it is not known. With a `place` the trigger is a shift of activations there, else it is on images.
    """

    pair: LabelPair
    trigger: Trigger
    natural: float | None = None
    place: Place | None = None

    def on(self, device: torch.device) -> Trigger:
        """The trigger on that device, where the images are."""
        return self.trigger.to(device)

    def hits(self, classifier: Classifier, images: UInt8[Tensor, "n c h w"]) -> int:
        """How many of the images it sends to its target."""
        if self.place is None:
            return attack_hits(classifier, self.on(classifier.device), images, self.pair.target)
        if not len(images):
            return 0
        (shift,) = self.on(classifier.device).tensors().values()
        shifted = Shifted(classifier.module, self.place.cut, shift * self.place.spread, self.place.least)
        return int((predict(classifier.changed(module=shifted), images) == self.pair.target).sum())


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
        return not self.broken(measured)

    def broken(self, found: Measurement | TracePoint) -> str:
        """Which bound is not kept, in words; "" for none."""
        if found.accuracy < self.min_accuracy:
            return "undone: it costs more accuracy than it may"
        return "a trigger still works" if found.worst_asr > self.max_asr else ""


@dataclass(frozen=True)
class Mitigated:
    """The changed classifier (None: nothing kept the floor, leave the model as it is), and every step of the way.

    `kept` is the place of that classifier's in the trace.
    """

    classifier: Classifier | None
    trace: tuple[TracePoint, ...]
    kept: int = -1


class Mitigation(ABC):
    """Changes a copy of a classifier; the one it was given stays as it was.

    `gains_from_more`: whether a trigger that it left working may fail once others are mitigated beside it. `untried`:
    what it leaves untried that others do, in words; "" for nothing.
    """

    gains_from_more: ClassVar[bool] = True
    untried: ClassVar[str] = ""

    @abstractmethod
    def __call__(
        self, classifier: Classifier, backdoors: Sequence[Backdoor], limits: RepairLimits, generator: torch.Generator
    ) -> Mitigated:
        """The classifier with the backdoors disarmed, as far as the limits allow."""


def measure(classifier: Classifier, backdoors: Sequence[Backdoor], data: ImageSet) -> Measurement:
    """Clean accuracy and the attack success of every backdoor, on labelled images."""
    assert data.labels is not None, "repair labels what has no labels with the model's own answers"
    hits, trials = [], []
    for backdoor in backdoors:
        rows = eligible_rows(data.labels, backdoor.pair)
        trials.append(len(rows))
        hits.append(backdoor.hits(classifier, data.images[rows]))
    return Measurement(clean_accuracy(predict(classifier, data.images), data.labels), tuple(hits), tuple(trials))


def known_backdoors(result: ScanResult, labels: Sequence[int] | None) -> tuple[Backdoor, ...]:
    """The patches that a scan recovered for these labels (None: for every label that has a size).

    Where not the label was flagged but pairs that lead to it, theirs: the label's own trigger is no backdoor then.
    """
    flagged_pairs = set(result.flagged_pairs)
    through_pairs = {pair.target for pair in flagged_pairs if pair.source is not None}
    usual = {one: _usual_size(result, pairs=one) for one in (False, True)}
    of_maps = {pair: test.usual_size for test in result.tests for pair in test.mapped}
    wanted = [
        pair
        for pair in _sized(result)
        if pair in result.triggers
        and (labels is None or pair.target in labels)
        and (pair in flagged_pairs if pair.target in through_pairs else pair.source is None)
    ]
    found = []
    for pair in sorted(wanted, key=lambda pair: (pair.target, pair.source or 0)):
        trigger = _trigger(result.triggers[pair], result.image_shape)
        natural = of_maps.get(pair, usual[pair.source is not None])
        found.append(Backdoor(pair, trigger, WIDER * trigger.size().item() if natural is None else natural))
    return tuple(found)


def _sized(result: ScanResult) -> set[LabelPair]:
    return {row.pair for row in result.labels if row.size is not None}


def _usual_size(result: ScanResult, *, pairs: bool) -> float | None:
    """The median size of patches over labels, or over pairs of labels, that were not flagged."""
    rows = result.pair_rows if pairs else result.label_rows
    found = {row.pair: row.size for row in rows}
    found |= {row.pair: row.size for row in rows_of(result, Kind.PAIRS)} if pairs else {}
    sizes = [size for pair, size in found.items() if size is not None and pair not in result.flagged_pairs]
    return statistics.median(sizes) if sizes else None


def rows_of(result: ScanResult, kind: Kind) -> Iterator[KindRow]:
    """What the test of that kind compared."""
    return (row for test in result.tests if test.kind is kind for row in test.rows)


def _trigger(tensors: Mapping[str, Tensor], shape: tuple[int, int, int]) -> PatchTrigger:
    """Raises OutputError when the tensors are not those of a patch on such images."""
    channels, height, width = shape
    wanted = {"mask": (1, 1, height, width), "pattern": (1, channels, height, width)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != wanted or not all(((values >= 0) & (values <= 1)).all() for values in tensors.values()):
        raise OutputError(
            f"The scan is damaged: it has a trigger of {found} for images {shape}, or values outside it.",
            cure="Scan the model again.",
        )
    return PatchTrigger(tensors["mask"].float(), tensors["pattern"].float())
