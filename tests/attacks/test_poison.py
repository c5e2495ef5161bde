"""Laws of poisoned data: the declared rows change as declared, and nothing else does."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import seeded

from neural_cleanse.attacks.patterns import square
from neural_cleanse.attacks.poison import Poison, PoisonedSet, TargetMap, poison
from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.metrics import stamped
from neural_cleanse.triggers.patch import PatchTrigger

SHAPE = (3, 7, 6)
CLASSES = 5
TRIGGER = square(SHAPE, 3)
TO_TWO = TargetMap.all_to_one(2, CLASSES)
SEEDS = st.integers(0, 2**32)
SHARES = st.floats(0, 1, exclude_max=True)


def noise_images(n: int = 200, seed: int = 0) -> ImageSet:
    """Images that never are white, so that no trigger leaves them as they were; labels at random."""
    generator = seeded(seed)
    images = torch.randint(0, 255, (n, *SHAPE), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.randint(CLASSES, (n,), generator=generator), origin="noise")


DATA = noise_images()
LABELS = DATA.labels
assert LABELS is not None


def same(one: ImageSet, other: ImageSet) -> bool:
    assert one.labels is not None and other.labels is not None
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def rows_of(made: PoisonedSet) -> torch.Tensor:
    return torch.cat([*made.rows, *made.cover])


# --- what changes, and what does not ---


def test_rate_zero_changes_nothing() -> None:
    made = poison(DATA, [Poison(TRIGGER, TO_TWO, 0.0), Poison(TRIGGER, TO_TWO, 0.0, frozenset({1}))], seeded())
    assert same(made.data, DATA)
    assert len(rows_of(made)) == 0


def test_no_poison_changes_nothing() -> None:
    made = poison(DATA, [], seeded())
    assert same(made.data, DATA)
    assert (made.rows, made.cover) == ((), ())


@given(SEEDS, SHARES, SHARES, st.sets(st.integers(0, CLASSES - 1), min_size=1), st.booleans())
@settings(deadline=None, max_examples=60)
def test_exactly_the_declared_rows_change_as_declared(
    seed: int, rate: float, cover_rate: float, sources: set[int], relabel: bool
) -> None:
    """x' = A(x, m, p) and y' = targets(y) on `rate` of the sources, A(x, m, p) and y on the cover rows."""
    targets = TargetMap.all_to_all(CLASSES)
    one = Poison(TRIGGER, targets, rate, frozenset(sources), cover_rate, relabel)
    made = poison(DATA, [one], seeded(seed))
    (rows,), (cover,) = made.rows, made.cover
    source = torch.isin(LABELS, torch.tensor(sorted(sources)))

    assert source[rows].all() and not source[cover].any()
    assert len(rows) == round(rate * int(source.sum()))
    assert len(cover) == round(cover_rate * int((~source).sum()))
    assert (rows.diff() > 0).all() and (cover.diff() > 0).all()

    touched = torch.zeros(len(DATA), dtype=torch.bool)
    touched[rows] = touched[cover] = True
    images, labels = made.data.images, made.data.labels
    assert labels is not None
    assert torch.equal(images[~touched], DATA.images[~touched])
    assert torch.equal(images[touched], stamped(TRIGGER, DATA.images[touched]))
    assert (images[touched] != DATA.images[touched]).flatten(1).any(1).all()
    assert torch.equal(labels[rows], (LABELS[rows] + 1) % CLASSES if relabel else LABELS[rows])
    labels[rows] = LABELS[rows]
    assert torch.equal(labels, LABELS)


@given(SEEDS, SHARES)
@settings(deadline=None, max_examples=20)
def test_without_sources_every_class_is_one(seed: int, rate: float) -> None:
    """The target's own images too, as in the authors' code."""
    made = poison(DATA, [Poison(TRIGGER, TO_TWO, rate)], seeded(seed))
    assert len(made.rows[0]) == round(rate * len(DATA))
    assert made.data.labels is not None and (made.data.labels[made.rows[0]] == 2).all()


def test_a_stamped_image_shows_the_pattern_where_the_mask_is_one() -> None:
    made = poison(DATA, [Poison(TRIGGER, TO_TWO, 0.3)], seeded())
    under = TRIGGER.mask[0, 0] == 1
    assert (made.data.images[made.rows[0]][:, :, under] == 255).all()
    assert torch.equal(made.data.images[:, :, ~under], DATA.images[:, :, ~under])


def test_an_empty_trigger_changes_no_pixel() -> None:
    """Of all 256 levels none moves by rounding."""
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    empty = PatchTrigger(torch.zeros(1, 1, 16, 16), torch.rand(1, 1, 16, 16, generator=seeded()))
    assert torch.equal(stamped(empty, images), images)
    assert empty.size().item() == 0


def test_a_full_trigger_leaves_no_pixel() -> None:
    pattern = torch.arange(256).view(1, 1, 16, 16)
    full = PatchTrigger(torch.ones(1, 1, 16, 16), pattern / 255)
    images = torch.randint(256, (3, 1, 16, 16), generator=seeded(), dtype=torch.uint8)
    assert torch.equal(stamped(full, images), pattern.to(torch.uint8).expand(3, -1, -1, -1))


def test_the_original_data_stay_as_they_were() -> None:
    data = noise_images(seed=3)
    kept = ImageSet(data.images.clone(), None if data.labels is None else data.labels.clone())
    made = poison(data, [Poison(TRIGGER, TO_TWO, 0.5, frozenset({0, 1}), 0.5)], seeded())
    made.data.images.zero_()
    assert same(data, kept)


def test_names_and_origin_are_kept() -> None:
    data = replace(DATA, names=("a", "b", "c", "d", "e"))
    made = poison(data, [Poison(TRIGGER, TO_TWO, 0.5)], seeded()).data
    assert (made.names, made.origin) == (data.names, "noise")


@pytest.mark.parametrize("kind", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_labels_keep_their_integer_type(kind: torch.dtype) -> None:
    one = Poison(TRIGGER, TargetMap.all_to_all(CLASSES), 0.5)
    made = poison(replace(DATA, labels=LABELS.to(kind)), [one], seeded()).data
    expected = poison(DATA, [one], seeded()).data
    assert made.labels is not None and expected.labels is not None
    assert made.labels.dtype == kind
    assert torch.equal(made.labels.long(), expected.labels)


# --- who is drawn ---


def test_the_seed_decides() -> None:
    def drawn(seed: int) -> torch.Tensor:
        return rows_of(poison(DATA, [Poison(TRIGGER, TO_TWO, 0.2, frozenset({0, 1}), 0.2)], seeded(seed)))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@given(SEEDS, st.lists(st.tuples(st.floats(0, 0.12), st.floats(0, 0.12)), min_size=2, max_size=4))
@settings(deadline=None, max_examples=40)
def test_several_poisons_never_share_a_row(seed: int, rates: list[tuple[float, float]]) -> None:
    """With and without sources and cover: each row carries the trigger of its own poison alone."""
    poisons = [
        Poison(square(SHAPE, 1, f"0,{number}"), TO_TWO, rate, frozenset({number, 4}), cover_rate)
        if number < 2
        else Poison(square(SHAPE, 1, f"0,{number}"), TO_TWO, rate)
        for number, (rate, cover_rate) in enumerate(rates)
    ]
    made = poison(DATA, poisons, seeded(seed))
    rows = rows_of(made)
    assert len(rows.unique()) == len(rows)
    for one, *parts in zip(poisons, made.rows, made.cover, strict=True):
        for part in parts:
            assert torch.equal(made.data.images[part], stamped(one.trigger, DATA.images[part]))
    others = torch.tensor(sorted(set(range(len(DATA))) - set(rows.tolist())))
    assert same(made.data.take(others), DATA.take(others))


def test_rates_that_add_up_to_one_take_every_row_once() -> None:
    halves = [Poison(square(SHAPE, 1, place), TO_TWO, 0.5) for place in ("top-left", "bottom-right")]
    rows = rows_of(poison(DATA, halves, seeded()))
    assert torch.equal(rows.sort().values, torch.arange(len(DATA)))


# --- who goes where ---


@given(st.integers(1, 50))
def test_all_to_all_sends_every_class_to_the_next(num_classes: int) -> None:
    """y to y + 1 mod n (Gu et al. 2017, section 4.1.3)."""
    labels = torch.arange(num_classes)
    targets = TargetMap.all_to_all(num_classes)
    assert torch.equal(targets(labels), (labels + 1) % num_classes)
    assert (targets.only is None) == (num_classes > 1)


def test_all_to_one_sends_every_class_to_the_target() -> None:
    assert TO_TWO(torch.arange(CLASSES)).tolist() == [2] * CLASSES
    assert TO_TWO.only == 2


def test_the_targets_own_images_are_not_eligible() -> None:
    rows = Poison(TRIGGER, TO_TWO, 0.1).eligible(LABELS)
    assert torch.equal(rows, (LABELS != 2).nonzero().squeeze(1))


def test_all_to_all_has_only_eligible_images() -> None:
    rows = Poison(TRIGGER, TargetMap.all_to_all(CLASSES), 0.1).eligible(LABELS)
    assert torch.equal(rows, torch.arange(len(LABELS)))


# --- what is refused ---


@pytest.mark.parametrize("rate", [-0.1, -1e-9, 1, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["rate", "cover rate"])
def test_shares_outside_zero_to_below_one_are_refused(rate: float, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"^The {name} is .*from 0 to below 1"):
        if name == "rate":
            Poison(TRIGGER, TO_TWO, rate)
        else:
            Poison(TRIGGER, TO_TWO, 0.1, frozenset({1}), rate)


@pytest.mark.parametrize("target", [-1, CLASSES, 1000])
def test_a_target_outside_the_classes_is_refused(target: int) -> None:
    with pytest.raises(SettingsError, match=rf"target label {target} is outside the 5 classes.*from 0 to 4"):
        TargetMap.all_to_one(target, CLASSES)


@pytest.mark.parametrize("source", [-1, CLASSES, 1000])
def test_a_source_outside_the_classes_is_refused(source: int) -> None:
    with pytest.raises(SettingsError, match=rf"source label {source} is outside the 5 classes"):
        Poison(TRIGGER, TO_TWO, 0.1, frozenset({source}))


def test_a_source_that_is_the_target_is_refused() -> None:
    with pytest.raises(SettingsError, match="Label 2 is source and target"):
        Poison(TRIGGER, TO_TWO, 0.1, frozenset({1, 2}))
    Poison(TRIGGER, TO_TWO, 0.1, frozenset({2}), relabel=False)


def test_no_source_at_all_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least one source label"):
        Poison(TRIGGER, TO_TWO, 0.1, frozenset())


def test_cover_without_sources_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"Cover images .* every class is a source"):
        Poison(TRIGGER, TO_TWO, 0.1, cover_rate=0.1)


@pytest.mark.parametrize("shape", [(3, 6, 7), (1, 7, 6), (3, 28, 28)])
def test_a_trigger_of_another_shape_is_refused(shape: tuple[int, int, int]) -> None:
    poisons = [Poison(TRIGGER, TO_TWO, 0.1), Poison(square(shape, 2), TO_TWO, 0.1)]
    named = "x".join(map(str, shape))
    with pytest.raises(SettingsError, match=rf"trigger of poison 2 is {named}, the images are 3x7x6"):
        poison(DATA, poisons, seeded())


def test_labels_that_the_target_map_does_not_know_are_refused() -> None:
    with pytest.raises(SettingsError, match="Poison 1 maps 3 classes, the images have label 4"):
        poison(DATA, [Poison(TRIGGER, TargetMap.all_to_one(2, 3), 0.1)], seeded())


def test_more_rows_than_there_are_is_refused() -> None:
    poisons = [Poison(TRIGGER, TO_TWO, 0.6), Poison(TRIGGER, TO_TWO, 0.6)]
    with pytest.raises(
        SettingsError, match=r"Poison 2 asks for 120 images, 80 of its classes are left.*Lower the rates"
    ):
        poison(DATA, poisons, seeded())


def test_cover_rows_count_as_taken() -> None:
    covering = Poison(TRIGGER, TO_TWO, 0.0, frozenset({0}), 0.9)
    with pytest.raises(SettingsError, match="Poison 2 asks for"):
        poison(DATA, [covering, Poison(TRIGGER, TO_TWO, 0.5, frozenset({1}))], seeded())
