"""Benchmark rows and model cards to tables: how often a scan is wrong, and which attacks it was tried on."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from neural_cleanse.evaluation.rates import PAPER, RULES, Rate, Rates, calibration, median_of, rates, recorded
from neural_cleanse.report.tables import Table

Row = Mapping[str, Any]
Card = Mapping[str, Any]

COLUMNS = (
    "data set", "network", "attack", "models", "weak", "clean accuracy, %", "drop, points", "attack success, %",
)  # fmt: skip
# Options that make another attack of it for the reader; places, targets and seeds are pooled.
TELLING = ("size", "colour", "count", "share", "area", "training_data")


def markdown(rows: Sequence[Row]) -> str:
    """A summary line and all tables."""
    return "\n".join([summary(rows) + "\n", *(table.markdown() for table in tables(rows))])


def summary(rows: Sequence[Row]) -> str:
    """How many models, and what a scan cost."""
    done = finished(rows)
    clean = sum(not row["truth"]["infected"] for row in done)
    passes = median_of(done, lambda row: row["image_passes"] / max(1, len(row["labels"])))
    seconds = median_of(done, lambda row: row["wall_s"])
    cost = "" if passes is None else f" Median cost: {passes:,.0f} image passes a label, {seconds:.0f} s a model."
    return f"{len(done)} models, {clean} of them clean.{cost}"


def tables(rows: Sequence[Row]) -> tuple[Table, ...]:
    """All tables that have rows; the last one lists what is wrong, model by model."""
    done = finished(rows)
    made = (by_rule(done), by_attack(done), by_cluster(done), calibrated(done), wrong(rows))
    return tuple(table for table in made if table.rows)


def finished(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows of models that could be scanned."""
    return tuple(row for row in rows if "error" not in row)


def by_rule(rows: Sequence[Row]) -> Table:
    """One line a rule, with both kinds of bounds."""
    columns = (
        "rule", "clean models flagged", "clusters with any", "infected models found", "right label", "every label",
        "could not tell, clean / infected", "AUC",
    )  # fmt: skip
    lines = []
    for name, rule in RULES.items():
        one = rates(rows, rule)
        auc = "" if one.auc is None else "{:.3f} ({:.3f} to {:.3f})".format(*one.auc)
        untold = f"{one.inconclusive_clean.hits} / {one.inconclusive_infected.hits}"
        lines.append(
            [name, _bounded(one.clean_flagged), _clusters(one.clean_flagged), _over_clusters(one.detected),
             _over_clusters(one.right_label), hits_of(one.every_label), untold, auc]
        )  # fmt: skip
    return Table("By rule", columns, lines)


def by_attack(rows: Sequence[Row]) -> Table:
    """One line an attack: what the scan, and the paper's rule, make of it."""
    columns = (
        "attack", "models", "weak", "found", "right label", "every label", "could not tell", "median p",
        "found by the paper's rule",
    )  # fmt: skip
    lines = []
    for name, group in _grouped([row for row in rows if row["truth"]["infected"]], lambda row: kind(row["truth"])):
        one, theirs = rates(group, recorded), rates(group, RULES[PAPER])
        p = median_of(group, lambda row: 1.0 if row["p_value"] is None else row["p_value"])
        lines.append(
            [name, str(len(group)), str(one.weak or ""), hits_of(one.detected), hits_of(one.right_label),
             hits_of(one.every_label), str(one.inconclusive_infected.hits or ""), f"{p:.2g}", hits_of(theirs.detected)]
        )  # fmt: skip
    return Table("By attack", columns, lines, frozenset({"models", "weak", "could not tell", "median p"}))


def by_cluster(rows: Sequence[Row]) -> Table:
    """One line a data set and network."""
    columns = (
        "data set, network", "clean models flagged", "by the paper's rule", "infected models found", "right label",
    )  # fmt: skip
    lines = []
    for name, group in _grouped(rows, lambda row: f"{row['truth']['dataset']}, {row['truth']['architecture']}"):
        one, theirs = rates(group, recorded), rates(group, RULES[PAPER])
        lines.append(
            [
                name,
                hits_of(one.clean_flagged),
                hits_of(theirs.clean_flagged),
                hits_of(one.detected),
                hits_of(one.right_label),
            ]
        )
    return Table("By data set and network", columns, lines)


def calibrated(rows: Sequence[Row]) -> Table:
    """Share of clean models at or under a level; it should be the level, or less."""
    lines = [
        [f"{level:g}", f"{hits} of {trials}", f"{level * trials:.1f}"]
        for level, hits, trials in calibration(rows)
        if trials
    ]
    return Table("Are p-values of clean models what they say?", ("p at or under", "clean models", "expected"), lines)


def wrong(rows: Sequence[Row]) -> Table:
    """Every clean model flagged, every infected one not found or with a wrong label, and what was not scanned."""
    lines = []
    for row in rows:
        if "error" in row:
            lines.append([row["model"], "", row["error"], ""])
        elif row in misses([row]):
            said = f"{row['verdict']} {', '.join(map(str, row['flagged']))}".strip()
            truth = ", ".join(map(str, row["truth"]["targets"])) or "clean"
            lines.append([row["model"], truth, said, "" if row["p_value"] is None else f"{row['p_value']:.2g}"])
    return Table("What is wrong, model by model", ("model", "true labels", "said", "p"), lines)


def misses(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Clean models flagged, and infected models, weak ones left out, not found or with a wrong label."""
    judged = (row for row in finished(rows) if not row["truth"]["weak"])
    return tuple(row for row in judged if _wrong(rates([row], recorded)))


def _wrong(one: Rates) -> bool:
    return one.clean_flagged.hits > 0 or one.right_label.hits < one.right_label.trials


def _grouped(rows: Sequence[Row], grouping: Callable[[Row], str]) -> list[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(grouping(row), []).append(row)
    return sorted(groups.items())


def hits_of(rate: Rate) -> str:
    """Hits of trials, in words; empty without trials."""
    return f"{rate.hits} of {rate.trials}" if rate.trials else ""


def _bounded(rate: Rate) -> str:
    low, high = rate.interval
    return f"{hits_of(rate)} ({low:.1%} to {high:.1%})" if rate.trials else ""


def _over_clusters(rate: Rate) -> str:
    """Both intervals: models as trials of their own, and whole clusters."""
    between = rate.over_clusters
    if between is None:
        return _bounded(rate)
    return _bounded(rate).removesuffix(")") + f"; over clusters {between[0]:.1%} to {between[1]:.1%})"


def _clusters(rate: Rate) -> str:
    low, high = rate.cluster_interval
    return f"{rate.cluster_hits} of {rate.clusters} ({low:.0%} to {high:.0%})" if rate.trials else ""


def zoo_table(cards: Sequence[Card]) -> Table:
    """Medians over the models of a row, the lowest success beside. The drop is against the clean counterparts' mean."""
    rows: dict[tuple[str, str, str], list[Card]] = defaultdict(list)
    for card in cards:
        rows[card["dataset"], card["architecture"], kind(card)].append(card)
    return Table("", COLUMNS, [_zoo_row(key, rows[key], cards) for key in sorted(rows)], frozenset(COLUMNS[3:]))


def kind(card: Card) -> str:
    """The attack with the options that matter to a reader."""
    given = {name: card["options"][name] for name in TELLING if name in card["options"]}
    told = [f"{name.replace('_', ' ')} {_plain(value)}" for name, value in given.items()]
    return ", ".join([card["attack"], *told])


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _zoo_row(key: tuple[str, str, str], group: Sequence[Card], cards: Sequence[Card]) -> list[str]:
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
