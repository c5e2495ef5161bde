"""Benchmark rows to Markdown: how often a scan is wrong, by rule, attack, data set and network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from neural_cleanse.rates import RULES, Rate, Rates, calibration, median_of, rates, recorded
from neural_cleanse.report.zoo_table import kind

Row = Mapping[str, Any]
Grouping = Callable[[Row], str]


def markdown(rows: Sequence[Row]) -> str:
    """All tables over finished rows."""
    failed = [row for row in rows if "error" in row]
    done = [row for row in rows if "error" not in row]
    parts = [
        _summary(done),
        "### By rule\n\n" + by_rule(done),
        "### By attack\n\n" + by_attack(done),
        "### By data set and network\n\n" + by_cluster(done),
        "### Are p-values of clean models what they say?\n\n" + calibrated(done),
    ]
    if failed:
        parts.append("### Not scanned\n\n" + "\n".join(f"- {row['model']}: {row['error']}" for row in failed) + "\n")
    return "\n".join(parts)


def _summary(rows: Sequence[Row]) -> str:
    clean = sum(not row["truth"]["infected"] for row in rows)
    passes = median_of(rows, lambda row: row["image_passes"] / max(1, len(row["labels"])))
    seconds = median_of(rows, lambda row: row["wall_s"])
    cost = "" if passes is None else f" Median cost: {passes:,.0f} image passes a label, {seconds:.0f} s a model."
    return f"{len(rows)} models, {clean} of them clean.{cost}\n"


def by_rule(rows: Sequence[Row]) -> str:
    """One line a rule, with both kinds of bounds."""
    lines = [
        "| rule | clean models accused | clusters with any | infected models found | right label | every label "
        "| could not tell, clean / infected | AUC |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rule in RULES.items():
        one = rates(rows, rule)
        auc = "" if one.auc is None else "{:.3f} ({:.3f} to {:.3f})".format(*one.auc)
        lines.append(
            f"| {name} | {_bounded(one.accused)} | {_clusters(one.accused)} | {_bounded(one.detected)} "
            f"| {_bounded(one.right_label)} | {_share(one.every_label)} | {one.inconclusive_clean.hits} / "
            f"{one.inconclusive_infected.hits} | {auc} |"
        )
    return "\n".join(lines) + "\n"


def by_attack(rows: Sequence[Row]) -> str:
    """One line an attack: what the scan, and the paper's rule, make of it."""
    lines = [
        "| attack | models | weak | found | right label | every label | could not tell | median p "
        "| found by the paper's rule |",
        "|---|--:|--:|---|---|---|--:|--:|---|",
    ]
    infected = [row for row in rows if row["truth"]["infected"]]
    for name, group in _grouped(infected, lambda row: kind(row["truth"])):
        one, theirs = rates(group, recorded), rates(group, RULES["paper, index above 2"])
        p = median_of(group, lambda row: 1.0 if row["p_value"] is None else row["p_value"])
        lines.append(
            f"| {name} | {len(group)} | {one.weak or ''} | {_share(one.detected)} | {_share(one.right_label)} "
            f"| {_share(one.every_label)} | {one.inconclusive_infected.hits or ''} | {p:.2g} "
            f"| {_share(theirs.detected)} |"
        )
    return "\n".join(lines) + "\n"


def by_cluster(rows: Sequence[Row]) -> str:
    """One line a data set and network."""
    lines = [
        "| data set | network | clean models accused | by the paper's rule | infected models found | right label |",
        "|---|---|---|---|---|---|",
    ]
    for name, group in _grouped(rows, lambda row: f"{row['truth']['dataset']} | {row['truth']['architecture']}"):
        one, theirs = rates(group, recorded), rates(group, RULES["paper, index above 2"])
        lines.append(
            f"| {name} | {_share(one.accused)} | {_share(theirs.accused)} | {_share(one.detected)} "
            f"| {_share(one.right_label)} |"
        )
    return "\n".join(lines) + "\n"


def calibrated(rows: Sequence[Row]) -> str:
    """Share of clean models at or under a level; it should be the level, or less."""
    lines = ["| p at or under | clean models | expected |", "|--:|---|--:|"]
    lines += [f"| {level:g} | {hits} of {trials} | {level * trials:.1f} |" for level, hits, trials in calibration(rows)]
    return "\n".join(lines) + "\n"


def misses(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Clean models accused, and strong infected models not found or with a wrong label."""
    return tuple(
        row for row in rows if "error" not in row and not row["truth"]["weak"] and _wrong(rates([row], recorded))
    )


def _wrong(one: Rates) -> bool:
    return one.accused.hits > 0 or one.right_label.hits < one.right_label.trials


def _grouped(rows: Sequence[Row], grouping: Grouping) -> list[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(grouping(row), []).append(row)
    return sorted(groups.items())


def _share(rate: Rate) -> str:
    return f"{rate.hits} of {rate.trials}" if rate.trials else ""


def _bounded(rate: Rate) -> str:
    low, high = rate.interval
    return f"{_share(rate)} ({low:.1%} to {high:.1%})" if rate.trials else ""


def _clusters(rate: Rate) -> str:
    low, high = rate.cluster_interval
    return f"{rate.cluster_hits} of {rate.clusters} ({low:.0%} to {high:.0%})" if rate.trials else ""
