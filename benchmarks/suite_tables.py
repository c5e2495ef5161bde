"""The tables of docs/evaluation.md: one line a suite, one line an attack, the errors by name."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from neural_cleanse.evaluation.rates import PAPER, RULES, Rate, calibration, median_of, rates, recorded
from neural_cleanse.evaluation.tables import finished, hits_of, kind, misses
from neural_cleanse.report.tables import Table
from neural_cleanse.results.records import Verdict

Row = Mapping[str, Any]
Suites = Mapping[str, Sequence[Row]]
ALL_LABELS = 10  # targets: a backdoor that sends every class somewhere


def overview(suites: Suites) -> str:
    """One line a suite: what a scan said, with both intervals."""
    columns = (
        "suite", "clean models flagged", "infected models found", "right label / every label",
        "could not tell, clean / infected", "AUC", "image passes a label", "seconds a model",
    )  # fmt: skip
    lines = []
    for name, rows in suites.items():
        done = finished(rows)
        counted = rates(done, recorded)
        passes = median_of(done, lambda row: row["image_passes"] / max(1, len(row["labels"])))
        lines.append(
            [name, _bounded(counted.clean_flagged), _bounded(counted.detected),
             f"{counted.right_label.hits} / {counted.every_label.hits}",
             f"{counted.inconclusive_clean.hits} / {counted.inconclusive_infected.hits}",
             "" if counted.auc is None else "{:.2f} ({:.2f}-{:.2f})".format(*counted.auc),
             f"{passes or 0:,.0f}", f"{median_of(done, lambda row: row['wall_s']) or 0:.0f}"]
        )  # fmt: skip
    return Table("", columns, lines, frozenset(columns[6:])).markdown()


def other_rules(suites: Suites) -> str:
    """One line a suite: the same sizes by Grubbs' test and by the paper's rule."""
    names = ("Grubbs", PAPER)
    columns = ("suite", *(f"{name}: {what}" for name in names for what in ("clean flagged", "found, right label")))
    lines = []
    for suite, rows in suites.items():
        cells = []
        for name in names:
            counted = rates(finished(rows), RULES[name])
            found = f"{hits_of(counted.detected)}, {counted.right_label.hits}" if counted.detected.trials else ""
            cells += [hits_of(counted.clean_flagged), found]
        lines.append([suite, *cells])
    return Table("", columns, lines).markdown()


def by_attack(rows: Sequence[Row]) -> str:
    """One line an attack, one column a data set: found of those whose attack works; "open" are inconclusive ones."""
    done = finished(rows)
    datasets = sorted({row["truth"]["dataset"] for row in done})
    lines = []
    clean = [row for row in done if not row["truth"]["infected"]]
    if clean:
        cells = [hits_of(rates(_of(clean, dataset), recorded).clean_flagged) for dataset in datasets]
        lines.append(["none: flagged", *cells, "", hits_of(rates(clean, RULES[PAPER]).clean_flagged)])
    infected = [row for row in done if row["truth"]["infected"]]
    for attack in sorted({kind(row["truth"]) for row in infected}):
        group = [row for row in infected if kind(row["truth"]) == attack]
        p = median_of(group, lambda row: 1.0 if row["p_value"] is None else row["p_value"])
        theirs = hits_of(rates(group, RULES[PAPER]).detected)
        lines.append([attack, *(_found(_of(group, dataset)) for dataset in datasets), f"{p:.1g}", theirs])
    columns = ("attack", *datasets, "median p", "the paper's rule")
    return Table("", columns, lines, frozenset({"median p"})).markdown()


def errors(rows: Sequence[Row]) -> str:
    """Every clean model flagged, every infected one not found or with a wrong label, and what was not scanned."""
    lines = [f"- `{row['model']}`: {row['error']}" for row in rows if "error" in row]
    for row in misses(rows):
        targets = row["truth"]["targets"]
        labels = "all labels" if len(targets) == ALL_LABELS else "label " + ", ".join(map(str, targets))
        said = f"{row['verdict']} {', '.join(map(str, row['flagged']))}".strip()
        p = "" if row["p_value"] is None else f", p {row['p_value']:.2g}"
        lines.append(f"- `{row['model']}` ({labels if targets else 'clean'}): {said}{p}")
    said = "Missed, open or wrong:\n\n" + "\n".join(lines) if lines else "No error."
    left = [
        row["model"]
        for row in finished(rows)
        if not row["truth"]["infected"] and row["verdict"] == Verdict.INCONCLUSIVE.value
    ]
    return said + (f"\n\nClean ones that could not be told: {', '.join(f'`{name}`' for name in left)}." if left else "")


def calibrated(rows: Sequence[Row]) -> str:
    """How many p-values of clean models are at or under each level."""
    counts = calibration(finished(rows))
    levels = ", ".join(f"{level:g}" for level, _, _ in counts)
    hits = ", ".join(str(hits) for _, hits, _ in counts)
    return f"At or under {levels} are {hits} of {counts[0][2]}"


def zoo(cards: Sequence[Row]) -> str:
    """One line an attack: how many models, what they cost in accuracy, and the success on each data set."""
    datasets = sorted({card["dataset"] for card in cards})
    lines = []
    for attack in sorted({kind(card) for card in cards if card["infected"]}):
        group = [card for card in cards if kind(card) == attack]
        drops = [100 * (_counterparts(card, cards) - card["clean_accuracy"]) for card in group]
        weak = sum(card["weak"] for card in group)
        success = [_success(_named(group, dataset)) for dataset in datasets]
        lines.append([attack, str(len(group)), str(weak or ""), f"{statistics.median(drops):z.2f}", *success])
    columns = ("attack", "models", "weak", "drop, points", *(f"success, {name}, %" for name in datasets))
    return f"{_zoo_summary(cards, datasets)}\n\n{Table('', columns, lines, frozenset(columns[1:])).markdown()}"


def _zoo_summary(cards: Sequence[Row], datasets: Sequence[str]) -> str:
    """How many models, and the accuracy of the clean ones of each data set, %."""
    clean = [card for card in cards if not card["infected"]]
    told = []
    for dataset in datasets:
        accuracies = [100 * card["clean_accuracy"] for card in _named(clean, dataset)]
        told.append(f"{dataset} {min(accuracies):.1f} to {max(accuracies):.1f} %")
    return f"{len(cards)} models, {len(clean)} of them clean, with accuracies of {', '.join(told)}."


def _counterparts(card: Row, cards: Sequence[Row]) -> float:
    """Mean accuracy of the clean models of the card's data set and network."""
    same = [
        other["clean_accuracy"]
        for other in cards
        if not other["infected"]
        and (other["dataset"], other["architecture"]) == (card["dataset"], card["architecture"])
    ]
    return float(statistics.mean(same))


def _success(group: Sequence[Row]) -> str:
    """Median of the models' success, the lowest in brackets, %; a model's lowest trigger counts."""
    lowest = [100 * min(poison["asr"] for poison in card["poisons"]) for card in group]
    return f"{statistics.median(lowest):.2f} ({min(lowest):.2f})" if lowest else ""


def _named(cards: Sequence[Row], dataset: str) -> list[Row]:
    return [card for card in cards if card["dataset"] == dataset]


def _of(rows: Sequence[Row], dataset: str) -> list[Row]:
    return [row for row in rows if row["truth"]["dataset"] == dataset]


def _found(group: Sequence[Row]) -> str:
    counted = rates(group, recorded)
    untold = counted.inconclusive_infected.hits
    parts = [
        hits_of(counted.detected),
        f"{untold} open" if untold else "",
        f"{counted.weak} weak" if counted.weak else "",
    ]
    return ", ".join(part for part in parts if part)


def _bounded(rate: Rate) -> str:
    """The rate with its interval over models and, where there is one, over clusters, %."""
    if not rate.trials:
        return ""
    intervals = [rate.interval] + ([rate.over_clusters] if rate.over_clusters else [])
    return f"{hits_of(rate)} ({'; '.join(f'{100 * low:.0f}-{100 * high:.0f}' for low, high in intervals)})"
