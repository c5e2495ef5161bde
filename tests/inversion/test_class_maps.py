"""One trigger and the map of classes that it follows, found together from random maps."""

from dataclasses import replace

import pytest
import torch
from planted_networks import MapBackdoor

from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.class_maps import MappedImages, MapSearch, best_map, random_maps
from neural_cleanse.inversion.presets import preset
from neural_cleanse.inversion.sampling import ScanImages, Split
from neural_cleanse.results.records import LabelPair

NEXT = (1, 2, 3, 4, 5, 6, 7, 8, 9, 0)


class Few:
    """A budget of so many batches."""

    def __init__(self, batches: int) -> None:
        self.left, self.truncated = batches, False

    def advance(self, image_passes: int) -> bool:
        self.left -= image_passes // 40
        return not self.exhausted

    @property
    def exhausted(self) -> bool:
        return self.left <= 0

    def mark_truncated(self) -> None:
        self.truncated = True


@pytest.fixture(scope="module")
def search() -> MapSearch:
    return MapSearch.of(replace(preset("default"), learning_rate=0.2), 10)


@pytest.fixture(scope="module")
def planted(clean: Classifier) -> Classifier:
    return Classifier(MapBackdoor(clean.module), clean.input_shape, clean.num_classes)


def of(classifier: Classifier, digits: ImageSet) -> MappedImages:
    return MappedImages.among(ScanImages.of(classifier, digits, 0), range(10))


def test_a_planted_map_is_found_from_any_start_with_its_small_trigger(
    planted: Classifier, digits: ImageSet, search: MapSearch
) -> None:
    found = search.learn(planted, of(planted, digits), 2, 0)
    assert [one.targets for one in found] == [NEXT, NEXT]
    assert all(one.asr > 0.9 and one.size < 60 for one in found)


def test_random_maps_of_the_same_network_have_no_trigger(
    planted: Classifier, digits: ImageSet, search: MapSearch
) -> None:
    images = of(planted, digits)
    (other,) = search.follow(planted, images, random_maps(images.classes, 1, 7), 0)
    (known,) = search.follow(planted, images, [NEXT], 0)
    assert known.asr > 0.9 > 0.8 > other.asr and known.size < other.size / 2
    assert sum(known.trials) == len(images.parts[Split.TEST])


def test_the_same_seed_finds_the_same_and_a_map_hangs_on_no_other(
    planted: Classifier, digits: ImageSet, search: MapSearch
) -> None:
    images = of(planted, digits)
    one, two = search.learn(planted, images, 2, 3), search.learn(planted, images, 1, 3)
    assert (one[0].targets, one[0].size, one[0].hits) == (two[0].targets, two[0].size, two[0].hits)


def test_a_spent_budget_keeps_the_maps_that_were_finished(
    planted: Classifier, digits: ImageSet, search: MapSearch
) -> None:
    meter = Few(search.inversion.steps // 5 + 3)
    assert len(search.learn(planted, of(planted, digits), 3, 0, meter)) == 1 and meter.truncated


def test_random_maps_send_no_class_to_itself_and_every_class_has_one_source() -> None:
    classes = torch.tensor([0, 2, 3, 5, 8, 9])
    for one in random_maps(classes, 50, 1):
        assert sorted(one) == classes.tolist()
        assert all(source != target for source, target in zip(classes.tolist(), one, strict=True))
    assert random_maps(classes, 3, 1) == random_maps(classes, 3, 1) != random_maps(classes, 3, 2)


def test_the_best_map_is_the_one_of_the_highest_sum() -> None:
    scores = torch.tensor([[9.0, 0.6, 0.5], [0.9, 9.0, 0.0], [0.8, 0.7, 9.0]])
    assert best_map(scores, torch.tensor([4, 6, 7])) == (7, 4, 6)


def test_only_images_that_are_answered_rightly_take_part(planted: Classifier, digits: ImageSet) -> None:
    images = MappedImages.among(ScanImages.of(planted, digits, 0), [1, 2, 3, 4, 5, 7])
    rows = images.eligible(LabelPair(0), None)
    assert images.labels is not None
    assert set(images.labels[rows].tolist()) == {1, 2, 3, 4, 5, 7}
    assert torch.equal(images.labels[rows], images.answers[rows])
