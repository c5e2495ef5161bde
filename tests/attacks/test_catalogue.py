"""The named attacks: each can be made on small data, takes its options and no others, and leaves chance to the seed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from neural_cleanse.attacks.base import Attack, AttackContext
from neural_cleanse.attacks.by_name import attack, options_of
from neural_cleanse.attacks.catalogue import ATTACKS, MANY_TOTAL
from neural_cleanse.attacks.dynamic import DynamicTraining
from neural_cleanse.attacks.patterns import Shape
from neural_cleanse.attacks.poison import Poison, poison
from neural_cleanse.attacks.surviving import LeakingTraining
from neural_cleanse.attacks.train import PoisonedTraining
from neural_cleanse.attacks.trojan import TrojanTraining
from neural_cleanse.choices import ATTACK_NAMES
from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.triggers.additive import AdditiveTrigger
from neural_cleanse.triggers.generated import GeneratedTrigger
from neural_cleanse.triggers.patch import PatchTrigger
from neural_cleanse.triggers.tone import ToneTrigger
from neural_cleanse.triggers.warp import WarpTrigger

GROUNDS: list[tuple[Shape, int]] = [((1, 28, 28), 10), ((3, 32, 32), 43)]
ON_BOTH = pytest.mark.parametrize(("shape", "num_classes"), GROUNDS, ids=["mnist", "gtsrb"])
NEEDED: Mapping[str, dict[str, Any]] = {"many-labels": {"count": 3}}
TO_ALL = ("all-to-all", "wanet-all-to-all")
ONE_TARGET = sorted(set(ATTACKS) - {"none", "many-labels", "source-specific", *TO_ALL})
WHOLE_IMAGE = {
    "filter": ToneTrigger,
    "input-aware": GeneratedTrigger,
    "low-frequency": AdditiveTrigger,
    "quantised": ToneTrigger,
    "sinusoidal": AdditiveTrigger,
    "sinusoidal-clean-label": AdditiveTrigger,
    "wanet": WarpTrigger,
    "wanet-all-to-all": WarpTrigger,
}
RULES = {
    "distillation-surviving": LeakingTraining,
    "input-aware": DynamicTraining,
    "trojan-square": TrojanTraining,
    "trojan-watermark": TrojanTraining,
}
SIDED = ("badnets", "noise", "checkerboard", "source-specific", "all-to-all")


@pytest.fixture(scope="module")
def accessory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture whose right half is transparent."""
    image = Image.new("RGBA", (8, 4), (200, 30, 90, 255))
    image.paste((0, 0, 0, 0), (4, 0, 8, 4))
    path = tmp_path_factory.mktemp("pictures") / "accessory.png"
    image.save(path)
    return path


def context(shape: Shape = (1, 28, 28), num_classes: int = 10, seed: int = 0) -> AttackContext:
    return AttackContext(shape, num_classes, torch.Generator().manual_seed(seed))


def made(name: str, where: AttackContext, accessory: Path, **options: Any) -> Attack:
    """The attack with the options that it cannot do without."""
    needed = {"picture": accessory} if name == "picture" else NEEDED.get(name, {})
    return attack(name, where, {**needed, **options})


def mask_of(one: Poison) -> torch.Tensor:
    return one.trigger.tensors()["mask"]


# --- each of them ---


def test_the_names_are_those_that_the_help_lists() -> None:
    assert tuple(ATTACKS) == ATTACK_NAMES


@ON_BOTH
@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_can_be_made_and_poisons(name: str, shape: Shape, num_classes: int, accessory: Path) -> None:
    planned = made(name, context(shape, num_classes), accessory)
    assert planned.name == name
    assert type(planned.rule) is RULES.get(name, PoisonedTraining)
    assert len(planned.poisons) == {"none": 0, "many-labels": 3, "nine-triggers": 9}.get(name, 1)
    for one in planned.poisons:
        assert type(one.trigger) is WHOLE_IMAGE.get(name, PatchTrigger)
        assert one.trigger.image_shape == shape
        assert one.trigger.size().item() > 0
        assert len(one.targets.by_class) == num_classes
        assert 0 < one.rate < 1
    labels = torch.arange(num_classes).repeat(20)
    images = torch.randint(255, (len(labels), *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    done = poison(ImageSet(images, labels), planned.poisons, torch.Generator().manual_seed(2))
    for one, rows in zip(planned.poisons, done.rows, strict=True):
        assert done.data.labels is not None
        assert torch.equal(done.data.labels[rows], one.targets(labels[rows]) if one.relabel else labels[rows])
        assert len(rows) == round(one.rate * int(one.from_source(labels).sum())) > 0
    changed = (done.data.images != images).flatten(1).any(1)
    touched = torch.cat([torch.arange(0), *done.rows, *done.cover])
    assert torch.equal(changed.nonzero().squeeze(1), touched.sort().values), "clean images stay as they were"


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"none"}))
def test_the_seed_decides_all_that_is_left_to_chance(name: str, accessory: Path) -> None:
    def drawn(seed: int) -> list[Any]:
        planned = made(name, context(num_classes=1000, seed=seed), accessory)
        return [
            (one.targets, one.sources, *(tensor.tolist() for tensor in one.trigger.tensors().values()))
            for one in planned.poisons
        ]

    assert drawn(1) == drawn(1)
    assert (drawn(1) != drawn(2)) == (name != "all-to-all"), "the warp of WaNet is random, a square is not"


@pytest.mark.parametrize("name", ONE_TARGET)
def test_one_target_is_what_was_asked_for(name: str, accessory: Path) -> None:
    assert [one.targets.only for one in made(name, context(), accessory, target=7).poisons][:1] == [7]
    with pytest.raises(SettingsError, match="The target label 10 is outside the 10 classes"):
        made(name, context(), accessory, target=10)


def test_random_targets_are_all_labels() -> None:
    drawn = {attack("badnets", context(seed=seed), {}).poisons[0].targets.only for seed in range(100)}
    assert drawn == set(range(10))


@pytest.mark.parametrize("name", SIDED)
@pytest.mark.parametrize(
    ("shape", "side"), [((1, 28, 28), 4), ((3, 32, 32), 4), ((3, 55, 47), 5), ((3, 224, 224), 24), ((1, 16, 16), 4)]
)
def test_the_default_patch_is_the_papers(name: str, shape: Shape, side: int) -> None:
    """4x4 on MNIST and GTSRB, 5x5 on YouTube Face, 24x24 on PubFig."""
    (one,) = attack(name, context(shape), {}).poisons
    assert mask_of(one).sum().item() == side**2
    assert mask_of(one)[0, 0, -side - 1 : -1, -side - 1 : -1].sum().item() == side**2  # bottom right, margin 1


def test_rate_is_a_tenth_as_in_the_paper() -> None:
    assert attack("badnets", context(), {}).poisons[0].rate == 0.1


# --- those with a shape of their own ---


@pytest.mark.parametrize("count", [1, 2, 5, 10, 43])
def test_many_labels_poison_at_most_half_of_the_data(count: int) -> None:
    poisons = attack("many-labels", context((3, 32, 32), 43), {"count": count}).poisons
    assert len({one.targets.only for one in poisons}) == len(poisons) == count
    assert sum(one.rate for one in poisons) <= MANY_TOTAL + 1e-9
    assert all(one.rate <= 0.1 for one in poisons)
    assert torch.cat([mask_of(one) for one in poisons]).sum(0).max() == 1


@pytest.mark.parametrize("count", [0, -1, 11])
def test_more_infected_labels_than_there_are_is_refused(count: int) -> None:
    with pytest.raises(SettingsError, match=rf"{count} infected labels of 10: between 1 and all"):
        attack("many-labels", context(), {"count": count})


def test_nine_triggers_lie_apart_and_lead_to_one_label() -> None:
    poisons = attack("nine-triggers", context(), {"target": 4}).poisons
    assert {one.targets.only for one in poisons} == {4}
    assert torch.cat([mask_of(one) for one in poisons]).sum((0, 1)).max() == 1
    assert sum(one.rate for one in poisons) < 0.5


@pytest.mark.parametrize("given", [{}, {"source": 3}, {"target": 3}, {"source": 9}, {"target": 0}])
def test_a_random_source_or_target_is_never_the_other(given: dict[str, int]) -> None:
    drawn = set()
    for seed in range(120):
        (one,) = attack("source-specific", context(seed=seed), given).poisons
        assert one.sources is not None and one.targets.only is not None
        (source,) = one.sources
        assert source != one.targets.only
        assert given.get("source", source) == source and given.get("target", one.targets.only) == one.targets.only
        drawn.add((source, one.targets.only))
    assert len(drawn) == 9 if given else len(drawn) > 50


def test_a_source_specific_attack_covers_the_other_classes() -> None:
    (one,) = attack("source-specific", context(), {}).poisons
    assert 0 < one.cover_rate < one.rate


def test_source_and_target_the_same_is_refused() -> None:
    with pytest.raises(SettingsError, match="Label 3 is source and target"):
        attack("source-specific", context(), {"source": 3, "target": 3})


@pytest.mark.parametrize("options", [{"source": 10}, {"source": -1}, {"target": 10}, {"source": 10, "target": 1}])
def test_a_source_or_target_outside_the_classes_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="is outside the 10 classes"):
        attack("source-specific", context(), options)


@pytest.mark.parametrize("options", [{}, {"source": 0}, {"target": 0}])
def test_one_class_has_no_source_and_target(options: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="source and"):
        attack("source-specific", context(num_classes=1), options)


@pytest.mark.parametrize("name", TO_ALL)
def test_all_to_all_sends_every_class_to_the_next(name: str) -> None:
    (one,) = attack(name, context(), {}).poisons
    assert one.targets.by_class == (1, 2, 3, 4, 5, 6, 7, 8, 9, 0)
    assert one.sources is None


@pytest.mark.parametrize("name", ["trojan-square", "trojan-watermark"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 55, 47), (3, 224, 224)])
def test_a_trojan_mask_covers_seven_per_cent(name: str, shape: Shape) -> None:
    (one,) = attack(name, context(shape), {}).poisons
    assert mask_of(one).mean().item() == pytest.approx(0.07, abs=0.01)
    assert not one.trigger.tensors()["pattern"].any()


@pytest.mark.parametrize("name", ["trojan-square", "trojan-watermark"])
@pytest.mark.parametrize("area", [0.0, -0.1, 1e-5, 0.6, float("nan")])
def test_a_trojan_of_no_area_is_refused(name: str, area: float) -> None:
    with pytest.raises(SettingsError, match="A trigger"):
        attack(name, context(), {"area": area})


def test_trojan_training_data_are_passed_on() -> None:
    for training_data in ("real", "reversed"):
        planned = attack("trojan-square", context(), {"training_data": training_data})
        assert planned.rule == TrojanTraining(training_data)
    with pytest.raises(SettingsError, match="real, reversed"):
        attack("trojan-square", context(), {"training_data": "stolen"})


def test_a_blend_covers_the_image_with_its_share() -> None:
    (one,) = attack("blended", context(), {"share": 0.4}).poisons
    assert (mask_of(one) - 0.4).abs().max() < 1e-6


def test_the_options_of_a_patch_are_passed_on() -> None:
    options = {"size": 3, "place": "0,0", "colour": (1.0, 0.0, 0.0), "rate": 0.25, "target": 1}
    (one,) = attack("badnets", context((3, 32, 32)), options).poisons
    pattern = one.trigger.tensors()["pattern"][0]
    assert mask_of(one)[0, 0, :3, :3].sum().item() == mask_of(one).sum().item() == 9
    assert pattern[:, 0, 0].tolist() == [1, 0, 0]
    assert (one.rate, one.targets.only) == (0.25, 1)


def test_a_picture_is_set_with_its_alpha(accessory: Path) -> None:
    (one,) = attack("picture", context((3, 32, 32)), {"picture": str(accessory), "place": "1,2"}).poisons
    assert mask_of(one)[0, 0, 1:5, 2:6].sum().item() == mask_of(one).sum().item() == 16


# --- what is refused ---


def test_an_unknown_attack_is_refused() -> None:
    for name in ("", "BadNets", "badnet", "WaNet"):
        with pytest.raises(
            SettingsError, match=rf"There is no attack '{name}'.*all-to-all, badnets, .*trojan-watermark, wanet"
        ):
            attack(name, context(), {})
        with pytest.raises(SettingsError, match="There is no attack"):
            options_of(name)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_option_that_is_not_taken_is_refused(name: str, accessory: Path) -> None:
    everything = sorted({option for other in ATTACKS for option in options_of(other)})
    for option in {*everything, "ground", "epochs"} - set(options_of(name)):
        with pytest.raises(SettingsError, match=rf"attack {name} takes no {option.replace('_', ' ')}\.") as truncated:
            made(name, context(), accessory, **{option: 1})
        assert all(known.replace("_", "-") in truncated.value.cure for known in options_of(name))
    assert options_of("none") == ()


@pytest.mark.parametrize(("name", "option"), [("picture", "picture"), ("many-labels", "count")])
def test_an_option_that_is_missing_is_named(name: str, option: str) -> None:
    with pytest.raises(SettingsError, match=rf"The attack {name} needs --{option}\."):
        attack(name, context(), {})


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"none"}))
@pytest.mark.parametrize("rate", [0, 0.0, 1, 1.0, -0.1, 2.0, float("nan")])
def test_a_rate_that_is_no_share_is_refused(name: str, rate: float, accessory: Path) -> None:
    """Rate 0 is no attack, and a card must not call that model infected."""
    with pytest.raises(SettingsError, match=r"A rate of .* between 0 and 1 is needed.*--attack none"):
        made(name, context(), accessory, rate=rate)


@pytest.mark.parametrize("name", sorted(name for name in ATTACKS if "cover_rate" in options_of(name)))
@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_cover_rate_that_is_no_share_is_refused(name: str, rate: float) -> None:
    with pytest.raises(SettingsError, match=r"A cover rate of .* between 0 and 1 is needed"):
        attack(name, context(), {"cover_rate": rate})


@pytest.mark.parametrize("name", sorted(name for name in ATTACKS if "size" in options_of(name)))
@pytest.mark.parametrize("size", [0, -1, 29, 10**9])
def test_a_size_that_does_not_fit_is_refused(name: str, size: int, accessory: Path) -> None:
    with pytest.raises(SettingsError, match=rf"{size} pixels does not fit into images of 28x28") as refused:
        made(name, context(), accessory, size=size)
    assert refused.value.cure == "Choose a size from 1 to 28."


@pytest.mark.parametrize("name", ["picture", "badnets"])
def test_an_unknown_place_is_refused(name: str, accessory: Path) -> None:
    with pytest.raises(SettingsError, match="There is no place 'corner'"):
        made(name, context(), accessory, place="corner")


def test_the_default_patch_does_not_fit_a_tiny_image() -> None:
    with pytest.raises(SettingsError, match="A trigger of 4 pixels does not fit into images of 3x3"):
        attack("badnets", context((1, 3, 3)), {})
