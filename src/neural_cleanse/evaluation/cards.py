"""Model cards of a suite: the truth about each model, in a file beside it or as a line of a file of JSON lines.

`attack` and `zoo build` write `NAME.card.json` beside the model. A suite whose models lie elsewhere keeps its cards in
one `SUITE.jsonl`, a card a line, told apart by "name". A card of somebody else's model says in "scan" what its file and
its images need: "file", "architecture" (a name, or FILE.py:FUNCTION), "mean", "std", "scale", "crop", "resize",
"ignore_labels". Files are relative to the directory of models, files of code to that of the cards or of the models.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neural_cleanse.attacks.make import model_of
from neural_cleanse.errors import OutputError
from neural_cleanse.regular_files import read_regular

CARD_SUFFIX = ".card.json"
LINES_SUFFIX = ".jsonl"
_TRUTH = {"architecture", "attack", "dataset", "infected", "options", "targets", "weak"}  # what every card says ...
_MEASURED = {"clean_accuracy", "poisons", "seed", "training"}  # ... and what those of our own models say besides


@dataclass(frozen=True)
class ModelCard:
    """The truth about one model. `directory` is where the card lies, `file` where the model lies among the models."""

    name: str
    directory: Path
    file: Path
    truth: Mapping[str, Any]


def read_card(path: Path) -> dict[str, Any]:
    """The card in a file of its own. Raises OutputError when the file is no card."""
    try:
        card = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(
            f"The card {path} cannot be read: {error}", cure="Check the path, or build the model again."
        ) from error
    return _checked(card, str(path))


def read_cards(suite: Path) -> tuple[ModelCard, ...]:
    """Every card of a directory (by path) or of a file of JSON lines (in its order).

    Raises OutputError when there is none, when one is damaged, and when two have one name.
    """
    cards = tuple(_of_lines(suite) if suite.suffix == LINES_SUFFIX else _of_directory(suite))
    if not cards:
        raise OutputError(
            f"There is no model card in {suite}.",
            cure=f"Name a directory with models and NAME{CARD_SUFFIX} files, as zoo build writes them, or a .jsonl.",
        )
    names = [card.name for card in cards]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OutputError(
            f"Two cards in {suite} are called {twice[0]}: rows could not tell them apart.",
            cure="Give each model a name of its own.",
        )
    return cards


def measured_cards(suite: Path) -> tuple[Mapping[str, Any], ...]:
    """The cards of our own models, which say what was measured. Raises OutputError where one does not."""
    cards = read_cards(suite)
    for card in cards:
        if not card.truth.keys() >= _MEASURED or not _is_measured(card.truth):
            raise OutputError(
                f"The card {card.name} in {suite} does not say what was measured: it is damaged or not ours.",
                cure="Leave its card out of this suite, or build the model again.",
            )
    return tuple(card.truth for card in cards)


def _is_measured(truth: Mapping[str, Any]) -> bool:
    """Whether what tables are made of has the right kind."""
    poisons = truth["poisons"]
    shares = [truth["clean_accuracy"]]
    if not isinstance(poisons, list) or not all(isinstance(one, dict) for one in poisons):
        return False
    shares += [one.get("asr") for one in poisons]
    return all(isinstance(share, int | float) and 0 <= share <= 1 for share in shares)


def _of_directory(directory: Path) -> Iterator[ModelCard]:
    """Models lie beside their cards, or under a path that the card names."""
    for path in sorted(directory.glob(f"**/*{CARD_SUFFIX}")):
        truth = read_card(path)
        file = truth.get("scan", {}).get("file", model_of(path).name)
        yield ModelCard(path.name.removesuffix(CARD_SUFFIX), path.parent, Path(file), truth)


def _of_lines(path: Path) -> Iterator[ModelCard]:
    try:
        lines = read_regular(path).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise OutputError(
            f"The cards in {path} cannot be read: {error}", cure="Check the path: a .jsonl holds one card per line."
        ) from error
    for number, line in enumerate(lines, 1):
        place = f"Line {number} of {path}"
        try:
            truth = _checked(json.loads(line), place)
        except (ValueError, RecursionError) as error:
            raise OutputError(
                f"{place} cannot be read: {error}", cure="Correct that line: it holds one JSON object."
            ) from error
        name = truth.get("name")
        if not isinstance(name, str) or not name:
            raise OutputError(f'{place} is a card without a "name".', cure='Give it a "name" of its own.')
        file = truth.get("scan", {}).get("file", f"{name}.safetensors")
        yield ModelCard(name, path.parent, Path(file), truth)


def _checked(card: Any, place: str) -> dict[str, Any]:
    if not isinstance(card, dict) or not card.keys() >= _TRUTH or not isinstance(card.get("scan", {}), dict):
        raise OutputError(
            f"{place} is no model card of this version.", cure="Build the model again, or correct the card."
        )
    return card
