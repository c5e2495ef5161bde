"""Model cards to a table: every attack on every data set, its success and what it costs in accuracy."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from neural_cleanse.report.table import Table

COLUMNS = (
    "data set", "network", "attack", "models", "weak", "clean accuracy, %", "drop, points", "attack success, %",
)  # fmt: skip
# Options that make another attack of it for the reader; places, targets and seeds are pooled.
TELLING = ("size", "colour", "count", "share", "area", "training_data")

Card = Mapping[str, Any]


def zoo_table(cards: Sequence[Card]) -> Table:
    """Medians over the models of a row, the lowest success beside. The drop is against the clean counterparts' mean."""
    rows: dict[tuple[str, str, str], list[Card]] = defaultdict(list)
    for card in cards:
        rows[card["dataset"], card["architecture"], kind(card)].append(card)
    return Table("", COLUMNS, [_row(key, rows[key], cards) for key in sorted(rows)], frozenset(COLUMNS[3:]))


def kind(card: Card) -> str:
    """The attack with the options that matter to a reader."""
    given = {name: card["options"][name] for name in TELLING if name in card["options"]}
    told = [f"{name.replace('_', ' ')} {_plain(value)}" for name, value in given.items()]
    return ", ".join([card["attack"], *told])


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _row(key: tuple[str, str, str], group: Sequence[Card], cards: Sequence[Card]) -> list[str]:
    dataset, network, attack = key
    accuracies = [card["clean_accuracy"] for card in group]
    rates = [min(one["asr"] for one in card["poisons"]) for card in group if card["poisons"]]
    counterparts = [
        card["clean_accuracy"]
        for card in cards
        if not card["infected"] and (card["dataset"], card["architecture"]) == (dataset, network)
    ]
    weak = sum(card["weak"] for card in group)
    return [
        dataset,
        network,
        attack,
        str(len(group)),
        str(weak or ""),
        f"{100 * statistics.median(accuracies):.2f}",
        f"{100 * (statistics.mean(counterparts) - statistics.median(accuracies)):z.2f}"
        if counterparts and rates
        else "",
        f"{100 * statistics.median(rates):.2f} ({100 * min(rates):.2f})" if rates else "",
    ]
