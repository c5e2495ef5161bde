"""Triggers that the user knows: of a model card, or a picture with the label it leads to."""

import json
from pathlib import Path

from neural_cleanse.attacks.patterns import picture
from neural_cleanse.attacks.trigger_json import trigger_from_json
from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import DataError, OutputError, SettingsError
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.regular_files import read_regular
from neural_cleanse.results.records import LabelPair

NO_FILE: dict[str, tuple[Backdoor, ...] | None] = {"recovered": None, "clean": ()}  # values of --with that are none


def attackers_own(
    with_: str, verify: Path | None, target: int | None, classifier: Classifier
) -> tuple[tuple[Backdoor, ...], tuple[Backdoor, ...] | None]:
    """What --verify-trigger and --with name: the triggers to verify, and those to repair with (None: recovered ones).

    Raises SettingsError on a target of no trigger, and as `read_backdoors`.
    """
    if target is not None and verify is None and with_ in NO_FILE:
        raise SettingsError(
            f"--verify-target {target} is the label of a picture, and none is given.",
            cure="Give it with --verify-trigger, or leave --verify-target out.",
        )
    measured = () if verify is None else read_backdoors(verify, classifier, target)
    return measured, NO_FILE[with_] if with_ in NO_FILE else read_backdoors(Path(with_), classifier, target)


def read_backdoors(path: Path, classifier: Classifier, target: int | None) -> tuple[Backdoor, ...]:
    """Every trigger of a card (JSON), or the one in a picture, whose alpha channel is the mask, to label `target`.

    A trigger that sends each class elsewhere is one for every class. Raises OutputError, DataError and SettingsError.
    """
    found = _read(path, classifier.input_shape, target)
    for pair in (backdoor.pair for backdoor in found):
        if any(label is not None and not 0 <= label < classifier.num_classes for label in (pair.target, pair.source)):
            raise SettingsError(
                f"The trigger of {path} leads to label {pair.target}"
                + ("" if pair.source is None else f" from {pair.source}")
                + f", the model has the labels 0 to {classifier.num_classes - 1}.",
                cure="Is this the trigger of this model?",
            )
    return found


def _read(path: Path, shape: tuple[int, int, int], target: int | None) -> tuple[Backdoor, ...]:
    try:
        content = read_regular(path)
    except OSError as error:
        raise OutputError(f"The trigger {path} cannot be read: {error.strerror}.", cure="Check the path.") from error
    if content.startswith(b"{"):
        return _of_card(content, path, shape)
    try:
        trigger = picture(shape, path)
    except DataError as error:
        raise DataError(
            f"{path} is neither a model card nor a picture of a trigger.",
            cure="Give the card that the attack command wrote, or a PNG with --verify-target LABEL.",
        ) from error
    if target is None:
        raise SettingsError(f"{path} is a picture and does not say where it leads.", cure="Name --verify-target LABEL.")
    return (Backdoor(LabelPair(target), trigger),)


def _of_card(content: bytes, path: Path, shape: tuple[int, int, int]) -> tuple[Backdoor, ...]:
    found = []
    try:
        for poison in json.loads(content)["poisons"]:
            trigger = trigger_from_json(poison["trigger"])
            if trigger.image_shape != shape:
                raise SettingsError(
                    f"The trigger of {path} is for images {trigger.image_shape}, not {shape}.",
                    cure="Give a trigger of the model's size.",
                )
            targets, sources = poison["targets"], poison["sources"]
            if isinstance(targets, int):
                pairs = [LabelPair(targets, source) for source in (sources or [None])]
            else:
                pairs = [LabelPair(target, source) for source, target in enumerate(targets)]
            if not all(isinstance(pair.target, int) and isinstance(pair.source, int | None) for pair in pairs):
                raise ValueError(f"targets {targets}, sources {sources}")
            found += [Backdoor(pair, trigger) for pair in pairs]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise OutputError(
            f"{path} is no card with triggers: {type(error).__name__} {error}.",
            cure="Give a card as the attack command wrote it, or a picture with --verify-target.",
        ) from error
    if not found:
        raise OutputError(
            f"{path} is the card of a clean model: it has no trigger.", cure="Give the card of an infected one."
        )
    return tuple(found)
