"""Every figure that the documentation quotes, from the rows in benchmarks/results; a test fails when a page is stale.

    python benchmarks/tables.py

writes docs/benchmarks.md, docs/zoo.md, docs/how-often-wrong.md and the block between the `results` marks of README.md.
"""

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from neural_cleanse.evaluation.rates import MIN_CLUSTERS, rates, recorded
from neural_cleanse.evaluation.rates_table import by_attack, by_rule, summary, tables
from neural_cleanse.evaluation.suite import read_rows
from neural_cleanse.evaluation.zoo import read_cards
from neural_cleanse.evaluation.zoo_table import zoo_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
WRONG_PAGE = ROOT / "docs" / "how-often-wrong.md"
ZOO_PAGE = ROOT / "docs" / "zoo.md"
CARDS = ROOT / "benchmarks" / "zoo" / "cards"
ZOOS = ("small", "standard", "limits")
MARKED = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- end of results -->)", re.DOTALL)


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
    """The suspect against the others after so many steps."""
    lines = [
        "| model | steps | passes a label | smallest label | its size, px | median, px | sd of the others' logs | t |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['model']} | {step['steps']} | {step['passes_a_label']:,} | {step['smallest_label']} "
        f"| {step['smallest_px']:.1f} | {step['median_px']:.1f} | {step['sd_of_log_sizes_of_others']:.2f} | {step['t']} |"
        for row in rows("steps")
        for step in row["rows"]
    ]
    return "\n".join(lines)


def share() -> str:
    """How much of a step is the model's own work."""
    lines = ["| model | images a step | step, ms | model alone, ms | share |", "|---|--:|--:|--:|--:|"]
    lines += [
        f"| {row['model']} | {row['images_a_step']} | {row['step_ms']} | {row['model_ms']} | {row['share']:.2f} |"
        for row in rows("share")
    ]
    return "\n".join(lines)


def choices() -> str:
    """What each choice of the default is worth."""
    path = RESULTS / "choices.json"
    if not path.exists():
        return "Not run."
    record = json.loads(path.read_text())
    lines = [
        "| variant | passes a label | size ratio at the reference's success | true target, px | labels with a size | p |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in record["rows"]:
        ratio, target, p = row["size_ratio_at_reference_asr"], row["target_px"], row["p_value"]
        lines.append(
            f"| {row['variant']} | {row['passes_a_label']:,} | {'-' if ratio is None else f'{ratio:.2f}'} "
            f"| {'-' if target is None else f'{target:.1f}'} | {row['labels_with_size']} | {'-' if p is None else f'{p:.1g}'} |"
        )
    return "\n".join(lines)


def compared(name: str, part: str, key: str) -> str:
    """Candidates held against what is in use."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return "Not run."
    lines = [
        f"| {key} | clean, infected | found without accusing | over, under | at .01: found, right, accused | AUC | its difference "
        "| median p, infected |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in json.loads(path.read_text())[part]:
        low, high = row["auc_difference"]
        lines.append(
            f"| {row[key]} | {row['clean']}, {row['infected']} | {row['found_without_accusing']} "
            f"| {len(row['over'])}, {len(row['under'])} | {row['found_at_alpha']}, {row['right_at_alpha']}, {row['accused_at_alpha']} "
            f"| {row['auc']:.3f} | {low:+.3f} to {high:+.3f} | {row['median_p_infected']:.1g} |"
        )
    return "\n".join(lines)


def priors() -> str:
    """Priors on recorded sizes, and what they cost where labels spread otherwise."""
    path = RESULTS / "tails_compared.json"
    if not path.exists():
        return "Not run."
    rows = json.loads(path.read_text())["priors"]
    spreads = list(rows[0]["false_alarms"])
    lines = [
        f"| prior sd | degrees of freedom | found at .01 | accused | {' | '.join(f'alarms, sd {sd}' for sd in spreads)} |",
        "|--:|--:|--:|--:" + "|--:" * len(spreads) + "|",
    ]
    lines += [
        f"| {row['sd']} | {row['dof']} | {row['found_at_alpha']} of {row['infected']} "
        f"| {row['accused_at_alpha']} of {row['clean']} "
        f"| {' | '.join(f'{alarms:.2%}' for alarms in row['false_alarms'].values())} |"
        for row in rows
    ]
    return "\n".join(lines)


def hardware() -> str:
    """What the rows were measured on."""
    seen = {f"{row['hardware']}, {row['threads']} thread, torch {row['torch']}" for row in rows("compare")}
    return "; ".join(sorted(seen)) or "not recorded"


def page() -> str:
    """docs/benchmarks.md."""
    return f"""# Benchmarks

Made from the rows in `benchmarks/results/` by `python benchmarks/tables.py`; each row carries hardware, seed and
commit. Times are of a shared machine ({hardware()}): only ratios within a run mean anything. An image pass is one
image forward and backward through the model.

## Default against reference

`make bench DATA=directory` (`benchmarks/presets.py`). Both presets search the same models with the same 1,000 images;
success rates are measured on 4,000 others. For the size ratio the default's kept triggers are chosen at the level that
makes the two mean success rates equal; above 1 the default's are larger.

{compare()}

## Steps

How far the smallest label stands from the others, in standard deviations (leave-one-out t), after so many steps of the
default; three restarts up to ten labels, one above.

{steps()}

## Share of time in the model

Medians over rounds of 31 steps of the default, and of the model's own forward and backward pass on as many images.

{share()}

## What the choices of the default are worth

`python benchmarks/choices.py --data DATA --output benchmarks/results`: one setting changed at a time, same image
passes, on the infected MNIST network.

{choices()}

## Other statistics than the size

`python benchmarks/trajectories.py --zoo zoo/small --data DATA --output benchmarks/results/trajectories.jsonl` records
searches on models of the choosing part, `python benchmarks/statistics_compared.py --trajectories
benchmarks/results/trajectories.jsonl --output benchmarks/results/statistics_compared.json` compares. One value a label,
through the scan's test; from the second line on the prior spread is that of clean models of the other data set, and sizes
are medians of three restarts where nothing else is said. "Found without accusing": infected models with a smaller p than
every clean one. "Over, under": those of them that the second line does not find so, and the other way round, on the same
models. AUC is of the smallest label's t, with the 95 % bootstrap interval (over models) of its difference to the second
line's. What came of it is in [design-notes.md](design-notes.md).

{compared("statistics_compared", "rows", "statistic")}

## Other tails, other priors

`python benchmarks/tails_compared.py --rows benchmarks/results/scans_small.jsonl --output
benchmarks/results/tails_compared.json`: the recorded sizes of the choosing part. A tail is fitted to clean models of the
other data set; AUC is here of the model's p-value.

{compared("tails_compared", "tails", "tail")}

Priors for the test in use, and the share of simulated clean models of ten labels that they accuse at .01 where log sizes
are normal and spread by so much:

{priors()}
"""


def zoo() -> str:
    """docs/zoo.md."""
    built = {name: read_cards(CARDS / name) for name in ZOOS if (CARDS / name).exists()}
    tables = "\n".join(
        f"""## {name}: {len(cards)} models, {sum(not card["infected"] for card in cards)} of them clean

`neural-cleanse zoo build benchmarks/zoo/{name}.toml --data DATA --output zoo/{name}`

{zoo_table(cards).markdown()}"""
        for name, cards in built.items()
    )
    return f"""# The zoo

Models with a known answer, built from the lists in `benchmarks/zoo/`; every model's card is in `benchmarks/zoo/cards/`.
Made by `python benchmarks/tables.py` from those cards; `neural-cleanse zoo table DIR` prints the same of your own.
What each attack does is in [attacks.md](attacks.md).

Clean accuracy and attack success rate are of the test images (of other classes than the target), medians over the
models of a row, the lowest success in brackets; with several triggers a model's lowest counts. The drop is against the
mean of the clean networks of the same data set and architecture. A model is weak where a trigger succeeds under 95 %.

For comparison, the BadNets models of Wang et al. 2019 (Table II, as recalled): MNIST 99.90 % success at 98.54 % accuracy
(clean 98.88), GTSRB 97.40 % at 96.51 % (clean 96.83), faces (DeepID, YouTube) 97.20 % at 97.50 % (clean 98.14); Trojan
square 99.9 % at 70.8 %, Trojan watermark 97.6 % at 71.4 % (clean 77.2, VGG-Face).

{tables}"""


def how_often_wrong() -> str:
    """docs/how-often-wrong.md."""
    parts = [
        f"""## {title}

`{command}`

{summary(found)}

{chr(10).join(table.markdown() for table in tables(found))}"""
        for title, command, found in _suites()
        if found
    ]
    compared = _tests_compared()
    return f"""# How often is it wrong?

Made by `python benchmarks/tables.py` from the rows in `benchmarks/results/scans_*.jsonl`; each row is one model under
default settings, with its true labels, every label's size, hardware and commit. The rows of `--plan full` are older: what
was the default then. What the default plan chose its numbers on is the choosing part (docs/speed.md).

Models of one data set and network resemble each other, so a rate has two bounds: the exact 95 % interval as if every
model were a trial of its own, and the share of clusters (data set and network) in which the error ever happened. What a
new data set will show lies between, nearer to the second. "Right label": something is flagged, and every flagged label
is a target; "every label": exactly the targets are flagged. Weak attacks (success under 95 % on some trigger) are scanned
but do not count as missed.

Detections also have, "over clusters", the 95 % interval of a bootstrap that draws whole clusters anew, from {MIN_CLUSTERS} clusters on.
Where every model is found it would say 100 % to 100 %; there the exact interval of as many clusters stands instead. Six
clusters are few, and such an interval is rather too narrow: of the two lower ends, trust the lower.

{chr(10).join(parts)}
## The misses, explained

- **Patches of 8x8 on 28x28 images** (8.2 %) make the label's trigger about half as large as other labels' on
  Fashion-MNIST, which with ten labels is just above the detection limit; on MNIST it is somewhat smaller. Over a clean
  twin (`--baseline`) all four such models have p under .001.
- **Blended patterns** are no patch: the smallest mask that works is a third to a half of other labels'.
- **Source-specific and all-to-all** backdoors give no label a small trigger for images of all classes, and look
  ordinary; the first needs a search over label pairs, the second a map of labels.
- **Published watermark over the whole image** (CIFAR-10): found, but for the short look alone. With `--plan full` its
  label is the smallest too, and the others spread so widely by then that the answer is "could not tell".
- **Published network of 1,283 faces** (sunglasses, label 0): [many labels](many-labels.md) tells its story.
- **Published all-to-all** (four pixels, y to y + 1): as above, no label has a small trigger for images of all classes.

p-values of clean models are on the safe side: the prior spread is wider than these networks', and every step of the
test pays for the others.

{compared}"""


def _suites() -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Title, command and rows of what was scanned."""
    line = "neural-cleanse benchmark {} --data DATA --rows benchmarks/results/{}"
    small, sequential, standard, published, reference = (
        list(read_rows(RESULTS / f"scans_{name}.jsonl"))
        for name in ("small", "sequential", "standard", "published", "reference")
    )
    faces = [row for row in sequential if row["truth"]["dataset"] == "lfw"]
    signs = [row for row in standard if row["model"] not in {face["model"] for face in faces}]  # by --plan full
    there = "benchmarks/published --models PUBLISHED --allow-code"
    return [
        (
            "The final part of the small zoo (MNIST and Fashion-MNIST, three widths of network)",
            line.format("zoo/small", "scans_sequential.jsonl --part final"),
            [row for row in sequential if row["truth"]["dataset"] != "lfw"],
        ),
        (
            "The same with all steps for every label (`--plan full`)",
            line.format("zoo/small", "scans_small.jsonl --part final --plan full"),
            [row for row in small if row["part"] == "final"],
        ),
        ("Traffic signs and faces (both parts)", line.format("zoo/standard", "scans_sequential.jsonl"), faces + signs),
        ("Models that other people infected", line.format(there, "scans_published.jsonl"), published),
        (
            "The authors' schedule, on a clean and an infected model",
            line.format("DIR", "scans_reference.jsonl --preset reference"),
            reference,
        ),
    ]


def _tests_compared() -> str:
    path = RESULTS / "tests_compared.json"
    if not path.exists():
        return ""
    record = json.loads(path.read_text())
    lines = [
        "| test | clean models accused | infected models found | right label | every label | AUC |",
        "|---|---|---|---|---|--:|",
    ]
    lines += [
        f"| {row['test']} | {row['accused']} of {row['clean']} | {row['found']} of {row['infected']} | {row['right_label']} "
        f"| {row['every_label']} | {'' if row['auc'] is None else row['auc']} |"
        for row in record["rows"]
    ]
    table = "\n".join(lines)
    offsets = json.loads((RESULTS / "class_offsets.json").read_text())["mean_correlation"]
    names = ("gap", "distance", "pixels", "twin")
    correlations = "\n".join(
        f"| {dataset} | {' | '.join(f'{values[name]:.2f}' for name in names)} |" for dataset, values in offsets.items()
    )
    return f"""## Tests compared

`python benchmarks/tests_compared.py --rows benchmarks/results/scans_small.jsonl --output benchmarks/results/tests_compared.json`:
other tests on the same recorded sizes of the {record["part"]} part. What they are, and why one was kept, is in
[design-notes.md](design-notes.md).

{table}

## Can a label's usual size be told from clean data?

`python benchmarks/class_offsets.py --zoo zoo/small --data DATA --rows benchmarks/results/scans_small.jsonl --output
benchmarks/results/class_offsets.json`: mean correlation, over the labels of clean models, between log size and what could
predict it. The columns are explained in the script.

| data set | {" | ".join(names)} |
|---|--:|--:|--:|--:|
{correlations}

The square is the share of variance that a prediction removes: at most a quarter from clean data, about two thirds or more
from a clean twin.
"""


def readme() -> str:
    """README.md with its block of results."""
    ratios = [(row["model"], row["passes_ratio"], row["equal_asr"]["size_ratio_median"]) for row in rows("compare")]
    cheaper = " to ".join(
        f"{ratio:g}" for ratio in sorted({min(r for _, r, _ in ratios), max(r for _, r, _ in ratios)})
    )
    larger = " to ".join(f"{size:.2f}" for size in sorted({min(s for *_, s in ratios), max(s for *_, s in ratios)}))
    title, command, final = _suites()[0]
    said = rates(final, recorded)
    block = f"""
{title}: {said.accused.hits} of {said.accused.trials} clean models accused, {said.detected.hits} of
{said.detected.trials} infected ones found, {said.right_label.hits} with the right label. Models of other people and of
other data sets, every miss by name, and how sure such figures are: [How often is it wrong?](docs/how-often-wrong.md)
(`{command}`)

{replace(by_rule(final), heading="").markdown()}
{replace(by_attack(final), heading="").markdown()}
(The paper's rule is applied to the same sizes, where a short look settled it those of the look; where all steps are taken
it accuses 1 of 31.) Against the authors' schedule on the same models all steps take {cheaper} times fewer image passes, and
the short look that settles most models a third of that ([speed](docs/speed.md)); triggers are
{larger} times as large at equal success rate ([benchmarks](docs/benchmarks.md), `make bench`).

"""
    return MARKED.sub(lambda _: block, (ROOT / "README.md").read_text(encoding="utf-8"))


def main() -> None:
    """The command line, which takes nothing."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    text = readme()
    PAGE.write_text(page(), encoding="utf-8")
    ZOO_PAGE.write_text(zoo(), encoding="utf-8")
    WRONG_PAGE.write_text(how_often_wrong(), encoding="utf-8")
    (ROOT / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
