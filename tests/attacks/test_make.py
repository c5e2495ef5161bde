"""From a recipe to a model and its card: the same bytes every time, and a card that says what the file does."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from shell import deny_writing

from neural_cleanse.attacks import card, dynamic, trojan
from neural_cleanse.attacks.make import Recipe, card_path, load_for, make, plan, prepare
from neural_cleanse.attacks.poison import Poison, TargetMap
from neural_cleanse.attacks.train import Training, TrainingProgress, snapshots_of
from neural_cleanse.attacks.trigger_json import trigger_from_json
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.errors import DataError, OutputError, SettingsError
from neural_cleanse.loading.images.splits import Parts
from neural_cleanse.loading.load import load_model

CARD_KEYS = {
    "card_version", "name", "model_sha256", "infected", "weak", "attack", "options", "targets", "architecture",
    "dataset", "num_classes", "clean_accuracy", "clean_accuracy_interval", "tested_on", "poisons", "tested_on_part",
    "validation_accuracy", "trained_on", "data_sha256", "training", "seed", "device", "wall_s", "versions",
}  # fmt: skip
POISON_KEYS = {
    "trigger", "size", "targets", "sources", "rate", "cover_rate", "relabel", "asr", "asr_interval", "others_asr",
    "cover_accuracy", "known_class", "by_source", "weak",
}  # fmt: skip


class Killed(Exception):
    """Stands for the end of the process."""


def kill_at(call: int) -> Callable[[TrainingProgress], None]:
    told = 0

    def progress(_: TrainingProgress) -> None:
        nonlocal told
        told += 1
        if told == call:
            raise Killed

    return progress


@pytest.fixture(scope="module")
def recipe(data_root: Path) -> Recipe:
    return Recipe(data_root / "digits", "mnist_cnn_half", "badnets", {"target": 3}, Training(epochs=1, batch_size=16))


@pytest.fixture(scope="module")
def parts(recipe: Recipe) -> Parts:
    return load_for(recipe)


@pytest.fixture(scope="module")
def made(recipe: Recipe, parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the recipe, and its card beside it."""
    output = tmp_path_factory.mktemp("made") / "on the way" / "digits.v1.safetensors"
    make(recipe, parts, output)
    return output


def read(model: Path) -> Any:
    return json.loads(card_path(model).read_text())


def files_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


# --- the same recipe, the same model ---


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_others(
    recipe: Recipe, parts: Parts, made: Path, tmp_path: Path
) -> None:
    again, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    make(recipe, parts, again)
    make(replace(recipe, seed=1), parts, other)
    assert again.read_bytes() == made.read_bytes() != other.read_bytes()
    apart = {"name", "wall_s"}
    assert {key: value for key, value in read(again).items() if key not in apart} == {
        key: value for key, value in read(made).items() if key not in apart
    }


def test_chance_in_an_attack_is_the_seed_s(recipe: Recipe, parts: Parts) -> None:
    free = replace(recipe, attack="noise", options={})

    def drawn(seed: int) -> tuple[int | None, bytes]:
        (poison,) = plan(replace(free, seed=seed), parts).poisons
        return poison.targets.only, poison.trigger.tensors()["pattern"].numpy().tobytes()

    assert drawn(5) == drawn(5)
    assert len({drawn(seed)[0] for seed in range(20)}) > 4
    assert len({drawn(seed)[1] for seed in range(20)}) == 20


@pytest.mark.parametrize(("attack", "call"), [("badnets", 2), ("trojan-square", 5)])
def test_a_model_that_was_cut_off_is_finished_to_the_same_bytes(
    recipe: Recipe, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str, call: int
) -> None:
    """Killed in the second epoch, and in the second epoch of retraining."""
    monkeypatch.setattr(trojan, "TRIGGER_STEPS", 20)
    monkeypatch.setattr(trojan, "RETRAIN", Training(epochs=2))
    recipe = replace(recipe, attack=attack, training=Training(epochs=2, batch_size=64))
    whole, resumed = tmp_path / "whole" / "m.safetensors", tmp_path / "resumed" / "m.safetensors"
    make(recipe, parts, whole)
    # 8 steps an epoch: reports at steps 0, 8 (the epoch's end) and 16.
    with pytest.raises(Killed):
        make(recipe, parts, resumed, progress=kill_at(call))
    assert snapshots_of(resumed)
    assert files_in(resumed.parent) == {path.name for path in snapshots_of(resumed)}
    make(recipe, parts, resumed)
    assert resumed.read_bytes() == whole.read_bytes()
    assert read(resumed)["poisons"] == read(whole)["poisons"]
    assert files_in(resumed.parent) == files_in(whole.parent) == {"m.safetensors", "m.card.json"}


def test_a_model_cut_off_before_its_card_is_finished_without_training(
    recipe: Recipe, parts: Parts, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "m.safetensors"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(card, "measure", lambda *_: (_ for _ in ()).throw(Killed))
        make(recipe, parts, output)
    assert output.exists() and not card_path(output).exists()
    make(recipe, parts, output, progress=lambda _: pytest.fail("trained again"))
    assert output.read_bytes() == made.read_bytes()
    assert files_in(tmp_path) == {"m.safetensors", "m.card.json"}


OTHER_RECIPES: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "attack": {"attack": "none", "options": {}},
    "option": {"options": {"target": 4}},
    "epochs": {"training": Training(epochs=2, batch_size=16)},
    "learning rate": {"training": Training(epochs=1, batch_size=16, learning_rate=1e-2)},
    "network": {"architecture": "mnist_cnn"},
}


@pytest.fixture(scope="module")
def cut_off(recipe: Recipe, parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose training was killed after its only epoch."""
    output = tmp_path_factory.mktemp("cut") / "m.safetensors"
    with pytest.raises(Killed):
        make(recipe, parts, output, progress=kill_at(3))
    return output


@pytest.mark.parametrize("case", OTHER_RECIPES)
def test_an_unfinished_training_of_another_recipe_is_refused(
    recipe: Recipe, parts: Parts, cut_off: Path, case: str
) -> None:
    (snapshot,) = snapshots_of(cut_off)
    content = snapshot.read_bytes()
    with pytest.raises(OutputError, match="other data or settings"):
        make(replace(recipe, **OTHER_RECIPES[case]), parts, cut_off)
    assert files_in(cut_off.parent) == {snapshot.name}
    assert snapshot.read_bytes() == content


def test_an_unfinished_training_on_other_data_is_refused(recipe: Recipe, parts: Parts, cut_off: Path) -> None:
    train = parts.train
    assert train.labels is not None
    relabelled = replace(parts, train=replace(train, labels=(train.labels + 1) % 10))
    with pytest.raises(OutputError, match="other data or settings"):
        make(recipe, relabelled, cut_off)


@pytest.mark.parametrize("content", [b"", b"no snapshot"])
def test_overwriting_starts_afresh(recipe: Recipe, parts: Parts, made: Path, tmp_path: Path, content: bytes) -> None:
    """Over a damaged snapshot of the same name, and with a model and a card there."""
    output = tmp_path / "m.safetensors"
    snapshot = tmp_path / ".m.safetensors.train.unfinished"
    for path in (output, card_path(output), snapshot):
        path.write_bytes(content)
    with pytest.raises(OutputError, match="There already is a model"):
        make(recipe, parts, output)
    card_path(output).unlink()
    with pytest.raises(OutputError, match="is damaged"):
        make(recipe, parts, output)
    assert (output.read_bytes(), snapshot.read_bytes()) == (content, content)
    make(recipe, parts, output, overwrite=True)
    assert output.read_bytes() == made.read_bytes()
    assert files_in(tmp_path) == {"m.safetensors", "m.card.json"}


def test_overwriting_starts_an_unfinished_training_of_another_recipe_afresh(
    recipe: Recipe, parts: Parts, made: Path, tmp_path: Path
) -> None:
    output = tmp_path / "m.safetensors"
    with pytest.raises(Killed):
        make(replace(recipe, seed=1), parts, output, progress=kill_at(3))
    make(recipe, parts, output, overwrite=True)
    assert output.read_bytes() == made.read_bytes()


def test_a_model_that_is_there_stays_until_another_is_trained(recipe: Recipe, parts: Parts, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    make(replace(recipe, seed=1), parts, output)
    before = output.read_bytes(), card_path(output).read_bytes()
    with pytest.raises(OutputError, match=r"There already is a model.*--overwrite"):
        make(recipe, parts, output)
    with pytest.raises(Killed):
        make(recipe, parts, output, overwrite=True, progress=kill_at(2))
    assert (output.read_bytes(), card_path(output).read_bytes()) == before
    make(recipe, parts, output, overwrite=True)
    assert read(output)["seed"] == 0
    assert files_in(tmp_path) == {"m.safetensors", "m.card.json"}


# --- the card ---


def test_the_card_says_what_was_made(recipe: Recipe, parts: Parts, made: Path) -> None:
    said = read(made)
    assert set(said) == CARD_KEYS
    assert {key: said[key] for key in ("name", "infected", "attack", "options", "targets", "architecture")} == {
        "name": "digits.v1",
        "infected": True,
        "attack": "badnets",
        "options": {"target": 3},
        "targets": [3],
        "architecture": "mnist_cnn_half",
    }
    assert (said["dataset"], said["num_classes"], said["seed"], said["device"]) == ("digits", 10, 0, "cpu")
    assert said["training"] == {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
    assert (said["trained_on"], said["tested_on"], said["tested_on_part"]) == (450, 200, "test")
    assert said["data_sha256"] == {"train": parts.train.sha256(), "tested_on": parts.measured.sha256()}
    assert 0 < said["wall_s"] < 600
    assert said["versions"]["torch"] == torch.__version__
    (poison,) = said["poisons"]
    assert set(poison) == POISON_KEYS
    assert (poison["targets"], poison["sources"], poison["rate"], poison["size"]) == (3, None, 0.1, 16.0)
    assert (poison["cover_rate"], poison["relabel"], poison["others_asr"]) == (0.0, True, None)
    assert poison["weak"] == said["weak"] == (poison["asr"] < 0.95)


def test_the_card_s_figures_are_those_of_the_file(recipe: Recipe, parts: Parts, made: Path) -> None:
    """Counted here image by image, from the trigger on the card and the model on the disk."""
    said = read(made)
    loaded = load_model(made)
    assert said["model_sha256"] == loaded.origin.sha256
    test = parts.test
    assert test is not None and test.labels is not None
    images, labels = test.images.float() / 255, test.labels
    with torch.no_grad():
        answered = loaded.classifier(images).argmax(1)
        triggered = trigger_from_json(said["poisons"][0]["trigger"])(images[None])[0]
        hit = (loaded.classifier(triggered).argmax(1) == 3)[labels != 3]
    right = int((answered == labels).sum())
    assert said["clean_accuracy"] == right / 200
    assert said["clean_accuracy_interval"] == list(clopper_pearson(right, 200))
    (poison,) = said["poisons"]
    assert poison["asr"] == int(hit.sum()) / len(hit)
    assert poison["asr_interval"] == list(clopper_pearson(int(hit.sum()), len(hit)))
    eligible_rows = labels[labels != 3]
    assert poison["by_source"] == [
        {"source": label, "hits": int(hit[eligible_rows == label].sum()), "trials": int((eligible_rows == label).sum())}
        for label in (0, 1, 2, 4, 5, 6, 7, 8, 9)
    ]


@pytest.mark.parametrize(
    ("attack", "options"),
    [("many-labels", {"count": 2}), ("all-to-all", {}), ("source-specific", {}), ("trojan-square", {"area": 0.1})],
)
def test_measuring_again_by_the_card_gives_the_card(
    recipe: Recipe,
    parts: Parts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    attack: str,
    options: dict[str, Any],
) -> None:
    monkeypatch.setattr(trojan, "TRIGGER_STEPS", 20)
    monkeypatch.setattr(trojan, "RETRAIN", Training(epochs=1))
    output = tmp_path / "m.safetensors"
    returned = make(replace(recipe, attack=attack, options=options), parts, output)
    said = read(output)
    assert json.loads(json.dumps(returned)) == said
    assert said["infected"] is True
    poisons = [
        Poison(
            trigger_from_json(one["trigger"]),
            TargetMap(tuple(one["targets"])) if attack == "all-to-all" else TargetMap.all_to_one(one["targets"], 10),
            one["rate"],
            None if one["sources"] is None else frozenset(one["sources"]),
            one["cover_rate"],
        )
        for one in said["poisons"]
    ]
    assert said["targets"] == card.infected_labels(poisons)
    measured = card.to_json(card.measure(load_model(output).classifier, poisons, parts.measured))
    assert json.loads(json.dumps(measured)) == {key: said[key] for key in measured}


@pytest.mark.parametrize(
    "attack", ["wanet", "sinusoidal", "quantised", "adaptive-blend", "sinusoidal-clean-label", "input-aware"]
)
def test_the_trigger_on_the_card_is_the_one_that_was_measured(
    recipe: Recipe, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    monkeypatch.setattr(dynamic, "MASK_STEPS", 10)
    output = tmp_path / "m.safetensors"
    make(replace(recipe, attack=attack), parts, output)
    (said,) = read(output)["poisons"]
    one = Poison(trigger_from_json(said["trigger"]), TargetMap.all_to_one(3, 10), said["rate"])
    (again,) = card.measure(load_model(output).classifier, [one], parts.measured).poisons
    assert (again.asr, again.size) == (said["asr"], said["size"])
    assert [(row.source, row.hits) for row in again.by_source] == [
        (row["source"], row["hits"]) for row in said["by_source"]
    ]
    assert (said["cover_accuracy"] is not None) == (attack in ("wanet", "adaptive-blend", "input-aware"))
    assert said["known_class"] is None


def test_a_clean_counterpart_has_a_card_without_poisons(recipe: Recipe, parts: Parts, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    make(replace(recipe, attack="none", options={}), parts, output)
    said = read(output)
    assert set(said) == CARD_KEYS
    assert (said["infected"], said["weak"], said["poisons"], said["targets"]) == (False, False, [], [])
    assert said["attack"] == "none"


def test_a_set_without_a_test_part_is_measured_on_what_was_held_out(
    recipe: Recipe, data_root: Path, tmp_path: Path
) -> None:
    single = replace(recipe, dataset=data_root / "digits" / "train.npz", attack="none", options={})
    said = make(single, load_for(single), tmp_path / "m.safetensors")
    assert (said["trained_on"], said["tested_on"], said["tested_on_part"]) == (450, 50, "validation")
    assert math.isclose(said["clean_accuracy"], said["validation_accuracy"], abs_tol=1e-6)
    assert said["dataset"] == "train.npz"


def test_half_precision_is_saved_as_float16_and_measured_as_saved(
    recipe: Recipe, parts: Parts, made: Path, tmp_path: Path
) -> None:
    output = tmp_path / "m.safetensors"
    make(replace(recipe, half=True), parts, output)
    halves, wholes = (safetensors.torch.load_file(path) for path in (output, made))
    assert {tensor.dtype for tensor in halves.values()} == {torch.float16}
    assert all(torch.equal(halves[name], wholes[name].half()) for name in wholes)
    assert output.stat().st_size < 0.6 * made.stat().st_size
    classifier = load_model(output).classifier
    assert {parameter.dtype for parameter in classifier.module.parameters()} == {torch.float32}
    again = card.measure(classifier, plan(recipe, parts).poisons, parts.measured)
    assert read(output)["clean_accuracy"] == again.clean_accuracy
    assert read(output)["poisons"][0]["asr"] == again.poisons[0].asr


def test_a_card_says_nothing_of_the_machine(recipe: Recipe, parts: Parts, tmp_path: Path) -> None:
    picture = tmp_path / "glasses.png"
    Image.fromarray(np.full((4, 9), 200, dtype=np.uint8)).save(picture)
    output = tmp_path / "m.safetensors"
    make(replace(recipe, attack="picture", options={"picture": picture, "target": 1}), parts, output)
    text = card_path(output).read_text()
    assert read(output)["options"] == {"picture": "glasses.png", "target": 1}
    for private in (str(tmp_path), str(recipe.dataset.parent), str(Path.home()), os.uname().nodename):
        assert private not in text
    assert str(tmp_path).encode() not in output.read_bytes()


def test_a_data_set_named_by_a_dot_has_a_name(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.dataset)
    here = replace(recipe, dataset=Path())
    assert make(here, load_for(here), tmp_path / "m.safetensors")["dataset"] == "digits"


def test_names_of_classes_go_into_the_model(recipe: Recipe, parts: Parts, tmp_path: Path) -> None:
    names = tuple(f"digit {label}" for label in range(10))
    named = replace(
        parts, train=replace(parts.train, names=names), validation=replace(parts.validation, names=names), test=None
    )
    make(recipe, named, tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").origin.label_names == names


# --- what it does ---


def test_a_source_specific_backdoor_fires_from_its_source_alone(demo_files: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        demo_files / "digits.npz",
        "mnist_cnn_half",
        "source-specific",
        {"source": 1, "target": 2, "size": 6, "rate": 0.8, "cover_rate": 0.3},
        Training(epochs=8, batch_size=32, learning_rate=2e-3),
    )
    said = make(recipe, load_for(recipe), tmp_path / "m.safetensors")
    (poison,) = said["poisons"]
    assert said["clean_accuracy"] > 0.9
    assert (poison["sources"], poison["targets"]) == ([1], 2)
    by_source = {row["source"]: (row["hits"], row["trials"]) for row in poison["by_source"]}
    assert set(by_source) == {0, 1, 3, 4, 5, 6, 7, 8, 9}
    hits, trials = by_source.pop(1)
    assert poison["asr"] == hits / trials >= 0.95
    others = sum(hits for hits, _ in by_source.values()) / sum(trials for _, trials in by_source.values())
    assert math.isclose(poison["others_asr"], others, abs_tol=1e-6)
    assert others <= 0.1
    assert not said["weak"]


# --- what is refused ---


def test_a_network_for_colours_takes_no_grey_images(recipe: Recipe) -> None:
    with pytest.raises(DataError, match="gtsrb_cnn takes images of 3 channels"):
        load_for(replace(recipe, architecture="gtsrb_cnn"))


@pytest.mark.parametrize(
    ("attack", "options"),
    [("badnets", {"rate": 0.001}), ("many-labels", {"count": 2, "rate": 1e-9}), ("source-specific", {"rate": 0.001})],
)
def test_an_attack_that_poisons_no_image_is_refused(
    recipe: Recipe, parts: Parts, attack: str, options: dict[str, Any]
) -> None:
    """Its card would call a clean model infected."""
    with pytest.raises(SettingsError, match="is not one image"):
        plan(replace(recipe, attack=attack, options=options), parts)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_that_no_generator_takes_are_refused(recipe: Recipe, seed: int) -> None:
    with pytest.raises(SettingsError, match="seed"):
        replace(recipe, seed=seed)


def test_places_that_hold_no_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dir.safetensors").mkdir()
    (tmp_path / "there.card.json").touch()
    (tmp_path / "also.safetensors").touch()
    for output, error, message in (
        (tmp_path / "m.pt", SettingsError, "does not end in .safetensors"),
        (tmp_path / "file" / "m.safetensors", OutputError, "cannot be written"),
        (tmp_path / ("x" * 300) / "m.safetensors", OutputError, "cannot be written"),
        (tmp_path / f"{'x' * 250}.safetensors", SettingsError, "longer than 200 bytes"),
        (tmp_path / "dir.safetensors", OutputError, "is a directory"),
        (tmp_path / "there.safetensors", OutputError, "There already is a model"),
        (tmp_path / "also.safetensors", OutputError, "There already is a model"),
    ):
        before = files_in(tmp_path)
        with pytest.raises(error, match=message):
            prepare(output, overwrite=False)
        assert files_in(tmp_path) == before
    for name in ("there", "also"):
        prepare(tmp_path / f"{name}.safetensors", overwrite=True)
        assert files_in(tmp_path) == before, "nothing goes before there is something better"


def test_a_directory_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the system, for root can write where the bits say no."""
    deny_writing(monkeypatch, tmp_path)
    with pytest.raises(OutputError, match="cannot be written: Permission denied"):
        prepare(tmp_path / "m.safetensors", overwrite=False)
