"""The tables of docs/reproduction.md on mitigation (section VI of the paper)."""

import statistics
from collections.abc import Sequence

from neural_cleanse.report.tables import Table
from neural_cleanse.report.text import number
from repair_tables import ROWS as REPAIRS
from repair_tables import asr_after, drop, known
from reproduce_rows import Row, ratio
from reproduce_tables import per_cent, short
from resumable import rows_in

MODELS = ("badnets", "noise-size5", "trojan-square", "trojan-watermark")
# Mean activation of the top 1 % of neurons: clean, reversed, original (Table III; ratios H, digits M).
TABLE_THREE = {
    ("mnist", "badnets"): (1.19, 4.20, 4.74),
    ("gtsrb", "badnets"): (42.86, 270.11, 304.05),
    ("mnist", "trojan-square"): (2.14, 8.10, 17.11),
    ("mnist", "trojan-watermark"): (1.20, 6.93, 13.97),
}
# Triggered images that pass where 5 % of clean ones are rejected (section VI-A, H).
FILTER = {
    ("mnist", "badnets"): "< 1.63",
    ("gtsrb", "badnets"): "< 1.63",
    ("mnist", "trojan-square"): "4.3",
    ("mnist", "trojan-watermark"): "28.5",
}
SHARES_SHOWN = (0.0, 0.1, 0.2, 0.3, 0.5)
# Accuracy / attack success after unlearning with the reversed trigger, the original one, and clean images (Table IV).
TABLE_FOUR = {
    ("mnist", "badnets"): "97.69 / 0.57 (H), 97.77 / 0.29 (M), 97.38 / 93.37 (M)",
    ("gtsrb", "badnets"): "92.91 / 0.14 (H), 90.06 / 0.19 (M), 92.02 / 95.69 (M)",
    ("mnist", "trojan-square"): "79.20 / 3.70 (H), 79.60 / 0.0 (M), 79.50 / 10.91 (H), on VGG-Face",
    ("mnist", "trojan-watermark"): "78.80 / 0.00 (H), 79.60 / 0.0 (M), 79.50 / 0.00 (H), on VGG-Face",
}
OURS = "repair"
ARMS = ("one epoch", OURS, "original trigger", "clean images")


def activation_table(found: Sequence[Row]) -> Table:
    """Table III."""
    lines = []
    for row in _with(found, "activations"):
        values = row["activations"]
        paper = TABLE_THREE.get((row["dataset"], short(row)))
        lines.append(
            (
                f"{short(row)}, {row['way']}",
                *(number(values[name], 2) for name in ("clean", "recovered", "original")),
                ratio(values, "recovered"),
                ratio(values, "original"),
                "–" if paper is None else f"{paper[1] / paper[0]:.1f}, {paper[2] / paper[0]:.1f} (H){_whose(row)}",
            )
        )
    columns = (
        "model, trigger found by", "clean", "recovered", "original", "recovered / clean", "original / clean",
        "paper: both ratios",
    )  # fmt: skip
    return Table("", columns, lines)


def _whose(row: Row) -> str:
    return ", VGG-Face" if row["attack"].startswith("trojan") else ""


def filter_table(found: Sequence[Row]) -> Table:
    """Figure 8 at two rates: original triggers that pass, and clean images really rejected."""
    lines = []
    for row in _with(found, "filter"):
        cells = {(one["direction"], one["wanted"]): one for one in row["filter"]}
        shown = [
            f"{per_cent(cells[name, rate]['fnr'], 1)} ({per_cent(cells[name, rate]['fpr'], 1)})"
            for name in ("paper", "top", "fisher")
            for rate in (0.05, 0.1)
        ]
        paper = FILTER.get((row["dataset"], short(row)))
        lines.append((f"{short(row)}, {row['way']}", *shown, "–" if paper is None else f"{paper} (H){_whose(row)}"))
    columns = (
        "model, trigger found by", "paper's way, 5 %", "10 %", "by spread, 5 %", "10 % ", "Fisher, 5 %",
        "10 %  ", "paper, 5 %",
    )  # fmt: skip
    return Table("", columns, lines)


def pruning_table(found: Sequence[Row]) -> Table:
    """Accuracy, success of the recovered and of the original trigger after pruning a share of the neurons.

    Neurons in the paper's order; the rows hold ours as well.
    """
    lines = []
    for row in _with(found, "pruning"):
        for curve in row["pruning"]:
            if curve["ranking"] == "difference":
                points = [min(curve["points"], key=lambda point: abs(point[0] - share)) for share in SHARES_SHOWN]
                cells = ["/".join(per_cent(value, 1) for value in point[1:]) for point in points]
                lines.append((f"{short(row)}, {row['way']}", PLACES[curve["place"]], *cells))
    shares = [f"{share:.0%}" for share in SHARES_SHOWN]
    return Table("", ("model, trigger found by", "layer", *shares), lines)


PLACES = {"convolution": "convolution", "features": "second last"}


def _with(found: Sequence[Row], part: str) -> list[Row]:
    order = {name: number for number, name in enumerate(MODELS)}
    return sorted(
        (row for row in found if part in row),
        key=lambda row: (row["dataset"] != "mnist", order[short(row)], row["way"] != "reference"),
    )


def repaired() -> list[Row]:
    """Rows of models repaired with a tenth of the training images, the paper's share."""
    return [row for row in rows_in(REPAIRS) if row["budget"].startswith("0.1")]


def unlearning_table() -> Table:
    """Table IV: accuracy and success of the original trigger, medians over models."""
    rows = repaired()
    lines = []
    for dataset, network in (("mnist", "mnist_cnn"), ("gtsrb", "gtsrb_cnn_half")):
        for attack in MODELS:
            name = attack.partition("-size")[0]
            group = [
                row for row in rows if (row["dataset"], row["architecture"], row["attack"]) == (dataset, network, name)
            ]
            cells = [_arm(group, arm) for arm in ARMS]
            paper = TABLE_FOUR.get((dataset, name), "–")
            lines.append(
                (f"{dataset} {name}", str(len({row["model"] for row in group})), _before(group), *cells, paper)
            )
    columns = (
        "attack", "models", "before", "recovered, one epoch", "recovered, `repair`", "original", "clean images",
        "paper: reversed, original, clean",
    )  # fmt: skip
    return Table("", columns, lines, frozenset({"models"}))


def _before(group: Sequence[Row]) -> str:
    accuracy = statistics.median(row["before"]["accuracy"] for row in group)
    return f"{per_cent(accuracy, 1)}/{per_cent(statistics.median(max(row['before']['asr']) for row in group), 1)}"


def _arm(group: Sequence[Row], arm: str) -> str:
    """Median accuracy after, and median and worst success after."""
    rates = known(group, lambda row: asr_after(row, arm))
    if not rates:
        return "–"
    after = known(group, lambda row: None if (lost := drop(row, arm)) is None else row["before"]["accuracy"] - lost)
    left = f"{per_cent(statistics.median(rates), 1)} ({per_cent(max(rates), 1)})"
    return f"{per_cent(statistics.median(after), 1)}/{left}"


def nine_triggers() -> str:
    """Rounds of detecting and patching, and what is left of the most successful of nine triggers."""
    rows = [row for row in repaired() if row["attack"] == "nine-triggers" and OURS in row["arms"]]
    said = [f"{row['arms'][OURS]['rounds']} rounds leave at most {per_cent(asr_after(row, OURS), 1)} %" for row in rows]
    return "; ".join(said)


def all_labels() -> str:
    """Mean success over the ten triggers of a model with every label infected, after patching all labels."""
    rows = [row for row in repaired() if row["attack"] == "many-labels" and OURS in row["arms"]]

    def mean(rates: Sequence[float]) -> str:
        return f"{per_cent(statistics.mean(rates), 1)} %"

    return ", ".join(f"{mean(row['before']['asr'])} to {mean(row['arms'][OURS]['asr'])}" for row in rows)
