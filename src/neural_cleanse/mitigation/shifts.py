"""Shifts of activations as backdoors: searched for in a network for the labels where a scan flagged one.

A scan keeps no tensors of them: the network that they act in is needed to make anything of them.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from neural_cleanse.classifier import Classifier
from neural_cleanse.detection.feature_space import FeatureSpace, feature_inversion, feature_space
from neural_cleanse.detection.first_look import for_margin
from neural_cleanse.detection.input_check import temperature
from neural_cleanse.images import ImageSet, balanced
from neural_cleanse.inversion.batching import BatchScheduler
from neural_cleanse.inversion.class_maps import MappedImages, MapSearch
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.memory import batch_images, fit_to_memory
from neural_cleanse.inversion.presets import preset
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.metrics import margin
from neural_cleanse.mitigation.base import Backdoor, Place, known_backdoors, rows_of
from neural_cleanse.mitigation.evaluation import Splits
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import LabelPair, ScanResult
from neural_cleanse.triggers.base import Trigger

MOST_SEARCHED = 1000  # images at most


def backdoors_of(
    classifier: Classifier, result: ScanResult, labels: Sequence[int] | None, *, images: Splits, seed: int
) -> tuple[Backdoor, ...]:
    """What a scan of the classifier found for these labels (None: all): its patches, and the shifts that it flagged.

    A label that was flagged for its shift and not for its patch has one as large as any, which is no backdoor.
    """
    naturals = flagged_shifts(result)
    wanted = {pair: size for pair, size in naturals.items() if labels is None or pair.target in labels}
    shifts = search_shifts(classifier, wanted, images.learn, seed)
    instead = {shift.pair for shift in shifts}
    return (*(patch for patch in known_backdoors(result, labels) if patch.pair not in instead), *shifts)


def flagged_shifts(result: ScanResult) -> dict[LabelPair, float]:
    """The pairs that a scan flagged for a shift of activations and no patch, with a usual size of their test."""
    found: dict[LabelPair, float] = {}
    by_patch = {pair for test in result.tests if test.kind is Kind.PATCH for pair in test.flagged}
    for test in result.tests:
        if test.kind is Kind.FEATURE_ALL_TO_ALL and test.usual_size is not None:
            found |= dict.fromkeys(test.mapped, test.usual_size)
        if test.kind is not Kind.FEATURE or not test.flagged:
            continue
        others = [
            row.size for row in rows_of(result, test.kind) if row.size is not None and row.pair not in test.flagged
        ]
        if others:
            found |= dict.fromkeys((pair for pair in test.flagged if pair not in by_patch), statistics.median(others))
    return found


def search_shifts(
    classifier: Classifier, naturals: Mapping[LabelPair, float], data: ImageSet, seed: int
) -> tuple[Backdoor, ...]:
    """A shift for every pair for which one works that is no larger than its natural size."""
    if not naturals:
        return ()
    assert data.labels is not None, "repair labels what has no labels with the model's own answers"
    some = data.take(balanced(data.labels, MOST_SEARCHED, seed))
    space = feature_space(classifier, ScanImages.of(classifier, some, seed))
    if isinstance(space, str):
        return ()
    inversion = feature_inversion(scaled(preset("default"), classifier, some), space)
    found = [
        *_of_labels(space, inversion, [pair for pair in naturals if pair.source is None]),
        *_of_a_map(space, inversion, [pair for pair in naturals if pair.source is not None], seed),
    ]
    place = Place(space.cut, space.spread, space.least)
    return tuple(
        Backdoor(pair, trigger, naturals[pair], place)
        for pair, trigger, size in sorted(found, key=lambda one: one[0].target)
        if size <= naturals[pair]
    )


def _of_labels(
    space: FeatureSpace, inversion: Inversion, pairs: Sequence[LabelPair]
) -> Iterator[tuple[LabelPair, Trigger, float]]:
    """A shift for each label for which one works, with its size."""
    if not pairs:
        return
    wanted = batch_images(space.classifier.device, inversion, len(pairs))
    limit = fit_to_memory(space.classifier, inversion, wanted)
    for one in BatchScheduler(space.classifier, space.images, limit)(inversion, pairs):
        if one.trigger is not None and one.size is not None:
            yield one.pair, one.trigger, one.size


def _of_a_map(
    space: FeatureSpace, inversion: Inversion, pairs: Sequence[LabelPair], seed: int
) -> Iterator[tuple[LabelPair, Trigger, float]]:
    """The one shift of an all-to-all map, for each of its pairs."""
    targets = {pair.source: pair.target for pair in pairs if pair.source is not None}
    if not targets:
        return
    images = MappedImages.among(space.images, sorted(targets))
    search = MapSearch.of(inversion, len(targets))
    (one,) = search.follow(space.classifier, images, [tuple(targets[source] for source in sorted(targets))], seed)
    yield from ((pair, one.trigger, one.size) for pair in pairs)


def scaled(inversion: Inversion, classifier: Classifier, data: ImageSet) -> Inversion:
    """The search as a scan does it, for logits of this classifier's scale."""
    return replace(inversion, temperature=temperature(margin(classifier, for_margin(data.images))))
