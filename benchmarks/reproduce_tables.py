"""The tables of docs/reproduction.md on detection, from benchmarks/results/reproduce.jsonl and rows of other scripts.

Figures of the paper (Wang et al., S&P 2019) are as recalled; beside each stands how sure: H some 90 %, M 70 %, L 50 %.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neural_cleanse.evaluation.cards import measured_cards
from neural_cleanse.evaluation.suite import read_rows
from neural_cleanse.report.tables import Table
from neural_cleanse.report.text import number
from reproduce_rows import Row, quartiles, size_of
from resumable import rows_in

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ROWS = RESULTS / "reproduce.jsonl"
WAYS = ("reference", "default")
# Task: attack success, accuracy, accuracy of the clean model, in per cent (Table II, all H).
TABLE_TWO = {
    "MNIST, badnets": (99.90, 98.54, 98.88),
    "GTSRB, badnets": (97.40, 96.51, 96.83),
    "faces, badnets": (97.20, 97.50, 98.14),
    "trojan-square": (99.9, 70.8, 77.2),
    "trojan-watermark": (97.6, 71.4, 77.2),
}
STEPS_SHOWN = (1, 2, 5, 10, 20, 50, 100)
PIXELS = 28 * 28  # of an image of MNIST
VARIANTS = ("many-labels", "nine-triggers", "source-specific")
ABOVE = 3.0  # the anomaly index of every infected model in the paper; clean ones are under 2


def short(row: Mapping[str, Any]) -> str:
    """A model's name without data set, network and seed."""
    name = str(row["model"]).removeprefix(f"{row['dataset']}-{row['architecture']}-")
    return "clean" if name.startswith("none") else name.rpartition("-seed")[0] or name


def of_way(found: Sequence[Row], way: str) -> dict[str, Row]:
    """Rows of MNIST by the model's short name."""
    return {short(row): row for row in found if row["way"] == way and row["dataset"] == "mnist"}


def per_cent(value: float | None, digits: int = 2) -> str:
    """A share in per cent, without the sign."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def p_value(value: float | None) -> str:
    """Two digits are enough."""
    return "–" if value is None else f"{value:.2g}"


def attacks(found: Sequence[Row]) -> Table:
    """Table II: attack success and accuracy."""
    seen = of_way(found, "default")
    clean = seen["clean"]["accuracy"] if "clean" in seen else None
    names = (("badnets", "MNIST, badnets"), ("noise-size5", ""), ("trojan-square",) * 2, ("trojan-watermark",) * 2)
    lines = [
        ("MNIST", name, per_cent(max(seen[name]["attack_success"])), per_cent(seen[name]["accuracy"]), per_cent(clean),
         _paper(task))
        for name, task in names if name in seen
    ]  # fmt: skip
    cards = measured_cards(ROOT / "benchmarks" / "zoo" / "standard.jsonl")
    for dataset, place, task in (("gtsrb", "GTSRB", "GTSRB, badnets"), ("lfw", "LFW faces", "faces, badnets")):
        mine = [card for card in cards if card["dataset"] == dataset]
        spared = max(card["clean_accuracy"] for card in mine if not card["infected"])
        for card in mine:
            if card["attack"] in ("badnets", "trojan-square"):
                size = f", {card['poisons'][0]['size']:.0f} px"
                rates = per_cent(card["poisons"][0]["asr"]), per_cent(card["clean_accuracy"]), per_cent(spared)
                lines.append(
                    (place, card["attack"] + size, *rates, _paper(task if card["attack"] == "badnets" else ""))
                )
    columns = ("data", "attack", "attack success, %", "accuracy, %", "clean model, %", "paper: the same three")
    return Table("", columns, lines)


def _paper(task: str) -> str:
    return " / ".join(f"{value:g}" for value in TABLE_TWO[task]) + " (H)" if task else "–"


def norms(found: Sequence[Row]) -> Table:
    """Figures 3 and 4: anomaly index, and the L1 norm of the infected label against those of the others."""
    lines = [
        line
        for way in WAYS
        for name in ("clean", "badnets", "noise-size5", "trojan-square", "trojan-watermark")
        if (row := of_way(found, way).get(name)) is not None
        for line in [_norm("MNIST", name, way, row)]
    ]
    lines += [_norm(place, short(row), row["way"], row) for place, row in elsewhere()]
    columns = (
        "model", "way", "index", "infected label, px", "others: smallest", "quartiles", "says (p)", "paper's rule",
    )  # fmt: skip
    return Table("", columns, lines)


def elsewhere() -> Iterator[tuple[str, Row]]:
    """Scans that other benchmarks recorded, with the name of the data."""
    files = (("scans_reference", "reference"), ("scans_standard", "default, all steps"), ("scans_published", "default"))
    names = {"gtsrb": "GTSRB", "lfw": "LFW faces", "mnist": "MNIST"}
    for file, way in files:
        for row in read_rows(RESULTS / f"{file}.jsonl"):
            made = {"scan": row, "model": row["model"], "way": way} | row["truth"]
            if file != "scans_published":
                yield names[made["dataset"]], made
            elif made["dataset"] in ("gtsrb", "lfw"):  # of the latter the network knows YouTube faces
                yield {"gtsrb": "GTSRB", "lfw": "YouTube faces"}[made["dataset"]], made


def _norm(place: str, name: str, way: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    found = row["scan"]
    infected = size_of(row, row["targets"][0] if row["targets"] else None)
    others = [
        size
        for label, size in zip(found["labels"], found["sizes"], strict=True)
        if size is not None and label not in row["targets"]
    ]
    return (
        f"{place} {name}",
        way,
        number(found["paper_index"], 2),
        number(infected, 1),
        number(min(others, default=None), 1),
        ", ".join(number(value, 0) for value in quartiles(row)),
        f"{_flagged(found, row['targets'])} ({p_value(found['p_value'])})",
        ", ".join(map(str, found["paper_flagged"])) or "none",
    )


def _flagged(found: Mapping[str, Any], targets: Sequence[int]) -> str:
    """What a scan says, and whether it is right."""
    if found["verdict"] != "infected":
        return str(found["verdict"])
    pairs = [target for _, target in found.get("flagged_pairs", ())]
    flagged = sorted({*found["flagged"], *pairs})
    right = "right" if flagged and set(flagged) <= set(targets) else "wrong"
    return f"{', '.join(map(str, flagged))}: {right}"


def rank_table(found: Sequence[Row]) -> Table:
    """Figure 5: the place of the infected label by size after so many steps; 1 is the smallest."""
    lines = []
    for row in found:
        ranks = row["scan"].get("ranks")
        if ranks is None or row["targets"] == [] or short(row) not in ("badnets", "noise-size5", "trojan-square",
                                                                      "trojan-watermark"):  # fmt: skip
            continue
        places = ranks["places"]
        shown = [str(places[step - 1]) if step <= len(places) else "" for step in STEPS_SHOWN]
        first = ranks["first_from"]
        lines.append(
            (short(row), row["way"], *shown, "never" if first is None else f"{first} of {ranks['steps']}",
             "–" if first is None else f"{100 * first / ranks['steps']:.1f} %")
        )  # fmt: skip
    columns = ("model", "way", *map(str, STEPS_SHOWN), "first for good from step", "share")
    return Table("", columns, lines)


def section_seven(found: Sequence[Row]) -> Table:
    """Larger triggers, several infected labels, several triggers to one label, one source."""
    mine = [row for row in found if row["dataset"] == "mnist"]
    rows = [row for row in (*mine, *recorded()) if row["attack"] in VARIANTS or row["trigger_px"][:1] > [20.0]]
    rows = [row for row in rows if row["attack"] in (*VARIANTS, "badnets")]
    order = {attack: number for number, attack in enumerate(("badnets", *VARIANTS))}
    rows.sort(key=lambda row: (order[row["attack"]], len(row["targets"]), row["trigger_px"][0], row["way"]))
    columns = (
        "model", "way", "trigger, % of the image", "success, %", "infected: px", "others' median", "index",
        "paper's rule flags", "says (p)",
    )  # fmt: skip
    return Table("", columns, [_variant(row) for row in rows])


def _variant(row: Row) -> tuple[str, ...]:
    found, targets = row["scan"], row["targets"]
    return (
        short(row),
        row["way"],
        f"{100 * row['trigger_px'][0] / PIXELS:.1f}",
        per_cent(min(row["attack_success"]), 1),
        ", ".join(f"{target}: {number(size_of(row, target), 0)}" for target in targets),
        number(quartiles(row)[1], 0),
        number(found["paper_index"], 2),
        ", ".join(map(str, found["paper_flagged"])) or "none",
        f"{_flagged(found, targets)} ({p_value(found['p_value'])})",
    )


def recorded() -> Iterator[Row]:
    """Scans of the same network in the small zoo."""
    cards = {card["name"]: card for card in measured_cards(ROOT / "benchmarks" / "zoo" / "small.jsonl")}
    for file, way in (("scans_sequential", "default, patches"), ("scans_small", "patches, all steps")):
        for row in read_rows(RESULTS / f"{file}.jsonl"):
            truth = row["truth"]
            if (truth["dataset"], truth["architecture"]) == ("mnist", "mnist_cnn") and truth["targets"]:
                poisons = cards[row["model"]]["poisons"]
                yield {
                    "model": row["model"],
                    "way": way,
                    "trigger_px": [one["size"] for one in poisons],
                    "attack_success": [one["asr"] for one in poisons],
                    "scan": row,
                } | truth


def missing() -> Table:
    """What was not run on a processor, and the hours that the recorded rows let expect."""
    timed = {row["model"]: row for row in rows_in(RESULTS / "against_reference.jsonl")}

    def hours(model: str, times: float = 1.0) -> str:
        row = timed[model]
        return f"{times * row['reference_s_a_label'] * row['labels'] / 3600:.1f} h"

    faces = timed["csaw-youtube-sunglasses"]["reference_s_a_label"]
    compared = {row["model"]: row for row in json.loads((RESULTS / "compare.json").read_text())}
    five = compared["gtsrb_badnets4_target33_seed0"]
    signs = f"{43 * five['reference']['wall_s'] / len(five['labels_compared']) / 3600:.1f} h"
    lines = [
        ("GTSRB, the authors' schedule on all 43 labels", f"{signs} a model in the full-width network on one thread "
         f"(five labels were run: [evaluation](evaluation.md#size-of-triggers-against-the-authors-schedule)); "
         f"{hours('gtsrb-gtsrb_cnn_half-badnets-seed10')} in the half-width one"),
        ("YouTube faces, the authors' schedule on 1,283 labels", f"{faces:.0f} s a label, "
         f"{hours('csaw-youtube-sunglasses')} a model; the images are not here, LFW stands in"),
        ("LFW faces, the authors' schedule on 423 labels", f"some {423 * faces / 3600:.0f} h a model at that rate"),
        ("PubFig, VGG-16 from VGG-Face", "neither images nor weights are here; the stand-in (`benchmarks/faces.py`, "
         "a pretrained network tuned on 65 people of LFW) is built, and its scan was not run to the end"),
        ("The authors' two Trojan models (VGG-Face, 2,622 labels)", "not here; the attack was made again on MNIST, "
         "GTSRB and LFW"),
        ("Low-cost detection: overlap of the 100 smallest labels", "needs more than 100 labels; for screening of many "
         "labels see [scale](scale.md#many-labels)"),
    ]  # fmt: skip
    return Table("", ("not run", "why"), lines)
