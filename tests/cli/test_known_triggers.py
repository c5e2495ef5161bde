"""Triggers that the user knows: those of a card are measured as the card says, whatever their kind."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neural_cleanse.attacks.base import AttackContext
from neural_cleanse.attacks.by_name import attack
from neural_cleanse.attacks.card import measure as measure_for_card
from neural_cleanse.attacks.card import to_json
from neural_cleanse.classifier import Classifier
from neural_cleanse.cli.triggers import read_backdoors
from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.mitigation.base import measure
from neural_cleanse.triggers.generated import GeneratedTrigger

KINDS = ("badnets", "filter", "input-aware", "low-frequency", "sinusoidal-clean-label", "wanet", "wanet-all-to-all")


def card(name: str, classifier: Classifier, data: ImageSet) -> dict[str, object]:
    """What `attack` would write of that trigger on that network, which never learned it."""
    (one,) = attack(name, AttackContext(data.shape, 10, torch.Generator().manual_seed(2)), {}).poisons
    if isinstance(one.trigger, GeneratedTrigger):
        one = replace(one, trigger=replace(one.trigger, weights=one.trigger.weights.half().float()))
    return to_json(measure_for_card(classifier, [one], data))


@pytest.mark.parametrize("name", KINDS)
def test_a_repair_measures_the_attackers_trigger_as_its_card_does(
    name: str, clean: Classifier, digits: ImageSet, tmp_path: Path
) -> None:
    said = card(name, clean, digits)
    (tmp_path / "m.card.json").write_text(json.dumps(said))
    backdoors = read_backdoors(tmp_path / "m.card.json", clean, None)
    found = measure(clean, backdoors, digits)
    (poison,) = said["poisons"]  # type: ignore[misc]
    by_source = poison["by_source"]
    if name == "wanet-all-to-all":
        assert [(one.pair.source, one.pair.target) for one in backdoors] == [(y, (y + 1) % 10) for y in range(10)]
        assert list(found.hits) == [row["hits"] for row in by_source]
    else:
        assert [(one.pair.source, one.pair.target) for one in backdoors] == [(None, poison["targets"])]
        assert found.hits == (sum(row["hits"] for row in by_source),)
    assert sum(found.trials) == sum(row["trials"] for row in by_source)


@pytest.mark.parametrize("name", KINDS)
def test_a_trigger_for_other_images_is_refused(
    name: str, clean: Classifier, digits: ImageSet, planted: Classifier, tmp_path: Path
) -> None:
    (tmp_path / "m.card.json").write_text(json.dumps(card(name, clean, digits)))
    with pytest.raises(SettingsError, match=r"is for images \(1, 28, 28\), not \(1, 16, 16\)"):
        read_backdoors(tmp_path / "m.card.json", planted, None)
