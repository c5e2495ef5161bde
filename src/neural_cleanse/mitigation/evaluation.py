"""Before and after a repair: images split so that no figure is of one that decided, and what the figures are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from neural_cleanse.classifier import Classifier
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.errors import DataError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import eligible_rows, predict
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.results.records import ScanResult
from neural_cleanse.results.repair import ClassChange, TriggerChange

LEARN, DECIDE = 0.5, 0.25  # shares of the images; the rest reports
LEAST_IMAGES = 100  # under which a quarter cannot decide anything
FEW_DECIDE = 250  # images under which a trigger of the attacker's own was seen to survive a repair


@dataclass(frozen=True)
class Splits:
    """The three-way split: no image that was learned from or decided anything is in a reported figure."""

    learn: ImageSet
    decide: ImageSet
    report: ImageSet


def split(data: ImageSet, seed: int) -> Splits:
    """Different images only, at random. Raises DataError when they are too few."""
    different = data.distinct()
    if len(different) < LEAST_IMAGES:
        raise DataError(f"Too few different images to repair with: {len(different)}.", cure=f"Give {LEAST_IMAGES}.")
    order = torch.randperm(len(different), generator=torch.Generator().manual_seed(seed))
    first, second = (round(share * len(different)) for share in (LEARN, LEARN + DECIDE))
    parts = {"learn from": order[:first], "decide": order[first:second], "report": order[second:]}
    return Splits(
        *(
            replace(different.take(rows), origin=f"{data.origin}: the {len(rows)} images to {what}")
            for what, rows in parts.items()
        )
    )


@dataclass(frozen=True)
class KnownTriggers:
    """Backdoors, and for each the number of the scan that recovered it.

    `idle` are those of the first scan that did not work before anything was done: measured, and not repaired.
    """

    backdoors: tuple[Backdoor, ...]
    found_in: tuple[int, ...]
    idle: tuple[Backdoor, ...] = ()

    @classmethod
    def of(cls, backdoors: Sequence[Backdoor], scan_number: int) -> "KnownTriggers":
        return cls(tuple(backdoors), (scan_number,) * len(backdoors))

    def __add__(self, other: "KnownTriggers") -> "KnownTriggers":
        return KnownTriggers(self.backdoors + other.backdoors, self.found_in + other.found_in, self.idle + other.idle)

    @property
    def everything(self) -> tuple[Backdoor, ...]:
        """All of them, those that are idle last."""
        return self.backdoors + self.idle


def check_eligible(backdoors: Sequence[Backdoor], images: Splits) -> None:
    """A trigger that no image measures would count as one that does not work. Raises DataError."""
    for pair in (backdoor.pair for backdoor in backdoors):
        for part in (images.learn, images.decide, images.report):
            assert part.labels is not None
            if len(eligible_rows(part.labels, pair)) == 0:
                raise DataError(
                    f"There are too few images that the trigger for label {pair.target} could send there.",
                    cure="Give images of every class.",
                )


def trigger_changes(
    before: Classifier, after: Classifier, known: KnownTriggers, report: ImageSet, result: ScanResult
) -> tuple[TriggerChange, ...]:
    """How often every known trigger works before and after, on the images that report."""
    assert report.labels is not None
    names = _names(result)
    changes = []
    found = (*known.found_in, *(1 for _ in known.idle))
    for backdoor, found_in in zip(known.everything, found, strict=True):
        target, rows = backdoor.pair.target, eligible_rows(report.labels, backdoor.pair)
        hits = [backdoor.hits(model, report.images[rows]) for model in (before, after)]
        size = backdoor.trigger.size().item()
        changes.append(
            TriggerChange(
                target=target,
                source=backdoor.pair.source,
                name=names.get(target),
                found_in=found_in,
                size=size,
                hits_before=hits[0],
                hits_after=hits[1],
                trials=len(rows),
                shift=backdoor.place is not None,
            )
        )
    return tuple(changes)


def certainty(changes: Sequence[TriggerChange], max_asr: float) -> str:
    """That no trigger works any more, and how sure that many images can be of it."""
    rows = [change for change in changes if change.trials]
    worst = max(change.hits_after / change.trials for change in rows)
    possible = max(clopper_pearson(change.hits_after, change.trials)[1] for change in rows)
    few = f": too few images to confirm {max_asr:.1%}" if possible > max_asr else ""
    count = min(change.trials for change in rows)
    works = (
        f"the recovered triggers work on at most {worst:.1%} of" if worst else "no recovered trigger works on any of"
    )
    return f"{works} {count} images that decided nothing (at 95 % confidence on at most {possible:.1%}{few})"


def class_changes(
    before: Classifier, after: Classifier, report: ImageSet, result: ScanResult
) -> tuple[ClassChange, ...]:
    """Right answers of every class before and after, on the images that report."""
    labels = report.labels
    assert labels is not None
    names = _names(result)
    right = [predict(model, report.images) == labels for model in (before, after)]
    return tuple(
        ClassChange(
            label,
            names.get(label),
            int(right[0][labels == label].sum()),
            int(right[1][labels == label].sum()),
            int((labels == label).sum()),
        )
        for label in labels.unique().tolist()
    )


def _names(result: ScanResult) -> dict[int, str | None]:
    return {row.target: row.name for row in result.labels}
