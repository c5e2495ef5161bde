"""Every figure that the documentation quotes, from the rows in benchmarks/results; a test fails when a page is stale.

    python benchmarks/tables.py

fills the marked places of README.md and of the pages of docs/ named in PAGES; the prose is theirs.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import against_reference
import suite_tables
from cost_table import costs
from neural_cleanse.evaluation import base_rates
from neural_cleanse.evaluation.cards import measured_cards
from neural_cleanse.evaluation.rates import MIN_CLUSTERS, rates, recorded
from neural_cleanse.evaluation.suite import read_rows
from neural_cleanse.evaluation.tables import finished, hits_of
from neural_cleanse.report.tables import Table
from neural_cleanse.results.kind import Kind
from pages import filled
from reproduce_page import reproduction
from resumable import rows_in
from search_table import searched

ROOT = Path(__file__).parents[1]
ALPHA = 0.01  # the default, at which all rows were decided
LATER_SEEDS = 3  # of ordinary architectures, from which on they were scanned later
RESULTS = ROOT / "benchmarks" / "results"
CARDS = ROOT / "benchmarks" / "zoo"
ZOOS = ("small", "standard")
SHOWN = {  # suites of docs/evaluation.md, as its overview names them
    "small": "small zoo",
    "small, full": "small zoo, all steps",
    "small, every kind": "small zoo, a part, every kind",
    "standard": "signs and faces",
    "published": "published, patches",
    "published, every kind": "published, every kind",
    "strangers": "strangers, patches",
    "strangers, every kind": "strangers, every kind",
    "architectures": "ordinary architectures",
    "reference": "the authors' schedule",
}
PEER_KINDS = ("patch", "blended or sinusoidal", "WaNet or input-aware", "all-to-all or one class")  # of triggers
BY_ATTACK = ("small", "standard", "published")  # suites of which the page has a table of attacks


def rows(name: str) -> list[dict[str, Any]]:
    """The recorded rows of a table, none where it was not run."""
    path = RESULTS / f"{name}.json"
    return list(json.loads(path.read_text())) if path.exists() else []


def compare() -> str:
    """One line a model: the default against the reference."""
    lines = [
        "| model | labels compared | image passes, reference / default | ratio | wall time a label, ratio "
        "| held-out success, reference / default | size at equal success, median ratio | flagged, reference / default |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows("compare"):
        default, reference, equal = row["default"], row["reference"], row["equal_asr"]
        count = len(row["labels_compared"])
        share = default["image_passes"] * count // len(default["sizes"])
        flagged = reference.get("flagged", "not all labels run")
        lines.append(
            f"| {row['model']} | {count} | {reference['image_passes']:,} / {share:,} | {row['passes_ratio']} "
            f"| {row['wall_ratio_a_label']} | {equal['reference_held_out_asr']:.3f} / {equal['held_out_asr']:.3f} "
            f"| {equal['size_ratio_median']:.2f} | {flagged} / {default['flagged']} |"
        )
    return "\n".join(lines)


def steps() -> str:
    """The smallest label against the others, one line a model, one column a number of steps."""
    found = rows("steps")
    columns = [f"{step['steps']} steps" for step in found[0]["rows"]] if found else []
    lines = [f"| model | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row in found:
        cells = [f"{step['smallest_px']:.1f} / {step['median_px']:.1f}, t {step['t']:.1f}" for step in row["rows"]]
        lines.append(f"| {row['model']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def share() -> str:
    """How much of a step is the model's own work."""
    lines = ["| model | images a step | step, ms | model alone, ms | share |", "|---|--:|--:|--:|--:|"]
    lines += [
        f"| {row['model']} | {row['images_a_step']} | {row['step_ms']} | {row['model_ms']} | {row['share']:.2f} |"
        for row in rows("share")
    ]
    return "\n".join(lines)


def peers() -> str:
    """One line a detector, on the same models and images."""
    kinds = PEER_KINDS
    lines = [
        f"| detector | models | clean flagged | {' | '.join(kinds)} | CPU s a model | passes a label |",
        "|---" * 9 + "|",
    ]
    for row in rows("peers"):
        counts = [f"{hits} of {trials}" if trials else "" for hits, trials in (row[kind] for kind in ("clean", *kinds))]
        lines.append(
            f"| {row['detector']} | {row['models']} | {' | '.join(counts)} "
            f"| {row['median_cpu_s']:g} | {row['passes_a_label']:,} |"
        )
    return "\n".join(lines)


def peers_sentence() -> str:
    """Detectors that ran on all models, in a sentence."""
    found = rows("peers")
    whole = [row for row in found if row["models"] == max(row["models"] for row in found) and row["median_cpu_s"]]
    counted = [(row, *(sum(row[kind][part] for kind in PEER_KINDS) for part in (0, 1))) for row in whole]
    each = [
        f"{row['detector'].partition(',')[0]} finds {hits} in {row['median_cpu_s']:g} s a model and flags "
        f"{row['clean'][0]} of {row['clean'][1]} clean ones"
        for row, hits, _ in counted
    ]
    return f"of {counted[0][2]} infected MNIST models, {', '.join(each)}"


def architectures_found() -> str:
    """How many squares are found in ordinary architectures."""
    found = rates(finished(suites()["architectures"]), recorded).detected
    return f"{found.hits} of {found.trials}"


def architectures_by_seed() -> str:
    """Ordinary architectures, those scanned later apart."""
    parts: dict[str, list[dict[str, Any]]] = {"0 to 2": [], "3 and more": []}
    for row in finished(suites()["architectures"]):
        parts["0 to 2" if int(row["model"].rpartition("seed")[2]) < LATER_SEEDS else "3 and more"].append(dict(row))
    columns = ("seeds", "networks", "squares found", "with another label too", "clean flagged", "could not tell, clean")
    lines = []
    for seeds, found in parts.items():
        counted = rates(found, recorded)
        more = counted.detected.hits - counted.every_label.hits
        cells = (hits_of(one) for one in (counted.detected, counted.clean_flagged))
        lines.append([seeds, str(len(found)), next(cells), str(more), next(cells), hits_of(counted.inconclusive_clean)])
    return Table("", columns, lines, frozenset(columns[1:])).markdown()


def with_margins() -> str:
    """How many rows of the suite of triggers are of scans that compare margins."""
    found = [row for name, rows in suites().items() if name.startswith("triggers") for row in rows]
    made = sum(any(test["kind"] == Kind.MARGIN.value for test in row["tests"]) for row in found)
    return f"{made} of {len(found)}"


def hardware() -> str:
    """What the rows were measured on."""
    seen = {f"{row['hardware']}, {row['threads']} thread, torch {row['torch']}" for row in rows("compare")}
    return "; ".join(sorted(seen)) or "not recorded"


def evaluation() -> dict[str, str]:
    """The marked places of docs/evaluation.md; those of simulated false alarms and of pairs have their own scripts."""
    found = suites()
    shown = {title: found[name] for name, title in SHOWN.items()}
    attacks = {f"{name}, by attack": suite_tables.by_attack(found[name]) for name in BY_ATTACK}
    wrong = {name: suite_tables.errors(found[name]) for name in SHOWN}
    zoos = {f"zoo {name}": suite_tables.zoo(measured_cards(CARDS / f"{name}.jsonl")) for name in ZOOS}
    return (
        attacks
        | wrong
        | zoos
        | {
            "overview": suite_tables.overview(shown),
            "other rules": suite_tables.other_rules(shown),
            "calibrated": suite_tables.calibrated(found["small"]),
            "architectures found": architectures_found(),
            "architectures, seeds": architectures_by_seed(),
            "compare": compare(),
            "hardware": hardware(),
            "least clusters": str(MIN_CLUSTERS),
            "search": searched(),
            "peers": peers(),
        }
    )


def scale() -> dict[str, str]:
    """The marked places of docs/scale.md; memory, kills and speed have their own scripts."""
    found = suites()
    every_kind = [row for name, rows in found.items() for row in rows if not name.startswith("small")]
    return {
        "steps": steps(),
        "share": share(),
        "costs": costs([row for row in every_kind if _by_maps(row)]),
        "against reference": against_reference.table(rows_in(RESULTS / "against_reference.jsonl")),
    }


def _by_maps(row: dict[str, Any]) -> bool:
    """Whether it is of a scan that looks for all-to-all triggers as it does today."""
    return any(test["kind"] == Kind.ALL_TO_ALL.value for test in row.get("tests", ()))


@functools.cache
def suites() -> dict[str, list[dict[str, Any]]]:
    """The recorded rows of every suite, by the name of its marked place."""
    small, sequential, every_kind, standard, published, strangers, reference, triggers, architectures = (
        list(read_rows(RESULTS / f"scans_{name}.jsonl"))
        for name in (
            "small", "sequential", "small_every_kind", "standard", "published", "strangers", "reference", "triggers",
            "architectures",
        )
    )  # fmt: skip
    faces = [row for row in sequential if row["truth"]["dataset"] == "lfw"]
    signs = [row for row in standard if row["model"] not in {face["model"] for face in faces}]  # by --plan full
    return {
        "small": [row for row in sequential if row["truth"]["dataset"] != "lfw"],
        "small, full": [row for row in small if row["part"] == "final"],
        "small, every kind": every_kind,
        "standard": faces + signs,
        "published": [row for row in published if row["settings"]["patches_only"]],
        "published, every kind": [row for row in published if not row["settings"]["patches_only"]],
        "architectures": architectures,
        "strangers": [row for row in strangers if row["settings"]["patches_only"]],
        "strangers, every kind": [row for row in strangers if not row["settings"]["patches_only"]],
        "reference": reference,
        "triggers, development": [row for row in triggers if row["part"] != "final"],
        "triggers, test": [row for row in triggers if row["part"] == "final"],
    }


def readme() -> dict[str, str]:
    """The marked places of README.md."""
    rows_compared = rows("compare")
    against = rows_in(RESULTS / "against_reference.jsonl")
    larger = sorted(row["equal_asr"]["size_ratio_median"] for row in rows_compared)
    final = suites()["small"]
    counted, strangers = rates(final, recorded), finished(suites()["strangers, every kind"])
    theirs = rates(strangers, recorded)
    return {
        "strangers clean": f"{theirs.clean_flagged.hits} of {theirs.clean_flagged.trials}",
        "strangers found": f"{theirs.detected.hits} of {theirs.detected.trials}",
        "strangers open": str(sum(row["verdict"] == "inconclusive" for row in strangers)),
        "architectures found": architectures_found(),
        "clean flagged": f"{counted.clean_flagged.hits} of {counted.clean_flagged.trials}",
        "infected found": f"{counted.detected.hits} of {counted.detected.trials}",
        "right label": str(counted.right_label.hits),
        "cost of patches": against_reference.ratios("patches", against),
        "cost of all": against_reference.ratios("every_kind", against),
        "size ratio": f"{larger[0]:.2f} to {larger[-1]:.2f}",
        "peers": peers_sentence(),
    }


def triggers() -> dict[str, str]:
    """The marked places of the section on every kind of trigger."""
    parts = {part: suites()[f"triggers, {part}"] for part in ("development", "test")}
    made = {
        f"triggers, {part}": f"{suite_tables.by_attack(one)}\n{suite_tables.errors(one)}" for part, one in parts.items()
    }
    return made | {
        "with margins": with_margins(),
        "triggers": f"{suite_tables.overview(parts)}\n{suite_tables.other_rules(parts)}",
    }


def results() -> dict[str, str]:
    """The marked place of docs/results.md."""
    return {"base rates": base_rates.table(rates(suites()["small"], recorded), ALPHA).markdown()}


PAGES = {
    ROOT / "README.md": readme,
    ROOT / "docs" / "evaluation.md": lambda: evaluation() | triggers(),
    ROOT / "docs" / "reproduction.md": reproduction,
    ROOT / "docs" / "results.md": results,
    ROOT / "docs" / "scale.md": scale,
}


def main() -> None:
    """The command line, which takes nothing."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for path, places in PAGES.items():
        path.write_text(filled(path.read_text(encoding="utf-8"), places()), encoding="utf-8")


if __name__ == "__main__":
    main()
