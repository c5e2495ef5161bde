"""The claims of the paper (Wang et al., S&P 2019), as recalled, and what the rows say of each.

A claim is told for one way of searching at a time, or of rows that were made with the default's triggers alone.
"""

from collections.abc import Callable, Sequence

from neural_cleanse.evaluation.suite import read_rows
from neural_cleanse.report.tables import Table
from neural_cleanse.report.text import number
from repair_tables import asr_after, drop, known
from reproduce_mitigation import MODELS, repaired
from reproduce_rows import Row, quartiles, size_of
from reproduce_tables import ABOVE, PIXELS, RESULTS, WAYS, elsewhere, of_way, recorded
from resumable import rows_in

NO = "**no**"
SCANS = (("reference",), ("default", "default, patches", "patches, all steps"))  # ways that either column counts
Told = tuple[str, bool] | None  # in words, and whether it holds; None where there is no row

Claim = tuple[str, str, Callable[[dict[str, Row]], Told]]


def claims(found: Sequence[Row], *, missed: bool) -> Table:
    """What the paper claims, and what the rows say of it for either way: what does not hold somewhere, or the rest."""
    recorded_too = [*(row for _, row in elsewhere()), *found]  # a clean model by the authors' schedule among them
    by_way = [of_way(recorded_too, way) for way in WAYS]
    lines = [(claim, sure, *(_cell(told(rows)) for rows in by_way)) for claim, sure, told in CLAIMS]
    lines += [(claim, sure, *(_cell(told(found, ways)) for ways in SCANS)) for claim, sure, told in OF_SCANS]
    lines += [(claim, sure, "not run", _cell(told(found))) for claim, sure, told in OF_DEFAULT]
    shown = [line for line in lines if any(cell.startswith(NO) for cell in line) is missed]
    return Table("", ("claim of the paper", "sure", "`--preset reference`", "default"), shown)


def _cell(told: Told) -> str:
    return "not run" if told is None else f"{'yes' if told[1] else NO}: {told[0]}"


def _infected(rows: dict[str, Row]) -> list[Row]:
    return [rows[name] for name in MODELS if name in rows]


def _index_of_infected(rows: dict[str, Row]) -> Told:
    values = [row["scan"]["paper_index"] for row in _infected(rows)]
    return None if not values else (_listed(values, 2), min(values) > ABOVE)


def _index_of_clean(rows: dict[str, Row]) -> Told:
    if "clean" not in rows:
        return None
    value = rows["clean"]["scan"]["paper_index"]
    return number(value, 2), value < 2.0


def _index_elsewhere(_: Sequence[Row]) -> Told:
    rows = [row for _, row in elsewhere() if row["way"] != "reference"]
    infected = sorted(row["scan"]["paper_index"] for row in rows if row["targets"])
    clean = sorted(row["scan"]["paper_index"] for row in rows if not row["targets"])
    text = f"infected {_listed(infected, 2)}; clean {_listed(clean, 2)}"
    return text, min(infected) > ABOVE and max(clean) < 2.0


def _smallest(rows: dict[str, Row]) -> Told:
    told = [(size_of(row, row["targets"][0]), quartiles(row)[1]) for row in _infected(rows)]
    if not told:
        return None
    shares = [1.0 if size is None or middle is None else size / middle for size, middle in told]
    first = [size is not None and size == min(one for one in row["scan"]["sizes"] if one is not None)
             for row, (size, _) in zip(_infected(rows), told, strict=True)]  # fmt: skip
    return f"{_listed(shares, 2)} of the median", all(first)


def _early(rows: dict[str, Row]) -> Told:
    ranks = [row["scan"]["ranks"] for row in _infected(rows) if "ranks" in row["scan"]]
    if not ranks:
        return None
    firsts = [one["first_from"] or one["steps"] + 1 for one in ranks]
    return f"first for good from step {_listed(firsts, 0)}", max(firsts) <= 20


def _lifted(rows: dict[str, Row]) -> Told:
    told = [row["activations"] for row in _infected(rows) if "activations" in row]
    times = [one["recovered"] / one["clean"] for one in told if one["clean"]]
    return None if not times else (f"{_listed(times, 2)} times", min(times) >= 3.0)


def _filtered(bound: float, names: Sequence[str]) -> Callable[[dict[str, Row]], Told]:
    def told(rows: dict[str, Row]) -> Told:
        rates = [
            one["fnr"]
            for name in names
            if "filter" in rows.get(name, {})
            for one in rows[name]["filter"]
            if (one["direction"], one["wanted"]) == ("paper", 0.05)
        ]
        return None if not rates else (f"{_listed([100 * rate for rate in rates], 1)} %", max(rates) <= bound)

    return told


def _pruned(place: str, share: float, most: float) -> Callable[[dict[str, Row]], Told]:
    def told(rows: dict[str, Row]) -> Told:
        points = [
            point
            for name in ("badnets", "noise-size5")
            for curve in rows.get(name, {}).get("pruning", ())
            if (curve["place"], curve["ranking"]) == (place, "difference")
            for point in [min(curve["points"], key=lambda point: abs(point[0] - share))]
        ]
        rates = [100 * point[3] for point in points]
        return None if not points else (f"{_listed(rates, 1)} % left", max(rates) <= 100 * most)

    return told


def _trojan_pruned(rows: dict[str, Row]) -> Told:
    for curve in rows.get("trojan-square", {}).get("pruning", ()):
        if (curve["place"], curve["ranking"]) == ("features", "difference"):
            point = min(curve["points"], key=lambda point: abs(point[0] - 0.3))
            return f"{100 * point[2]:.1f} % and {100 * point[3]:.1f} %", point[2] < 0.2 and point[3] > 0.5
    return None


def _unlearned(arm: str) -> Callable[[Sequence[Row]], Told]:
    def told(_: Sequence[Row]) -> Told:
        rows = [row for row in repaired() if len(row["before"]["asr"]) == 1]
        rates, lost = known(rows, lambda row: asr_after(row, arm)), known(rows, lambda row: drop(row, arm))
        over = sum(rate > 0.067 for rate in rates)
        text = f"{over} of {len(rates)} models keep more; most accuracy lost {100 * max(lost):.1f} points"
        return text, over == 0 and max(lost) <= 0.036

    return told


def _clean_images(attacks: Sequence[str], stays: bool) -> Callable[[Sequence[Row]], Told]:
    def told(_: Sequence[Row]) -> Told:
        rows = [row for row in repaired() if row["attack"] in attacks and row["dataset"] == "mnist"]
        rates = known(rows, lambda row: asr_after(row, "clean images"))
        text = f"{100 * min(rates):.0f} to {100 * max(rates):.0f} % left on MNIST"
        return text, min(rates) > 0.9 if stays else max(rates) < 0.11

    return told


def _larger(found: Sequence[Row], ways: Sequence[str]) -> Told:
    rows = [row for row in (*found, *recorded()) if row["attack"] == "badnets" and row["way"] in ways]
    share = {True: set[float](), False: set[float]()}
    for row in rows:
        share[row["scan"]["flagged"] == row["targets"]].add(100 * row["trigger_px"][0] / PIXELS)
    if not share[True]:
        return None
    least = min(share[False], default=None)
    text = f"largest found {max(share[True]):.1f} %, smallest missed {'none' if least is None else f'{least:.1f} %'}"
    return text, max(share[True]) >= 18


def _many_labels(found: Sequence[Row], ways: Sequence[str]) -> Told:
    rows = [row for row in (*found, *recorded()) if row["attack"] == "many-labels" and row["way"] in ways]
    if not rows:
        return None
    caught: dict[int, list[bool]] = {}
    for row in sorted(rows, key=lambda row: len(row["targets"])):
        hit = set(row["scan"]["paper_flagged"]) == set(row["targets"])
        caught.setdefault(len(row["targets"]), []).append(hit)
    text = ", ".join(f"with {count}: {sum(hits)} of {len(hits)} scans" for count, hits in caught.items())
    few = all(all(hits) for count, hits in caught.items() if count <= 3)
    return f"found by the paper's rule {text}", few and not any(any(hits) for n, hits in caught.items() if n > 3)


def _nine(_: Sequence[Row]) -> Told:
    rows = [row for row in repaired() if row["attack"] == "nine-triggers"]
    rates = known(rows, lambda row: asr_after(row, "repair"))
    rounds = [row["arms"]["repair"]["rounds"] for row in rows if "repair" in row["arms"]]
    text = f"{', '.join(map(str, rounds))} rounds leave {_listed([100 * rate for rate in rates], 1)} %"
    return text, max(rates) < 0.01


def _one_source(_: Sequence[Row]) -> Told:
    alone = [row for row in recorded() if row["attack"] == "source-specific" and row["way"].startswith("default")]
    pairs = [row for row in rows_in(RESULTS / "pairs.jsonl")
             if row["dataset"] == "mnist" and row["planted"] and not row["weak"]]  # fmt: skip
    missed = sum(row["scan"]["verdict"] != "infected" for row in alone)
    right = sum(row["flagged_pairs"] == row["planted"] for row in pairs)
    text = f"label by label {missed} of {len(alone)} missed, `--pairs` finds {right} of {len(pairs)}"
    return text, missed == len(alone) and right == len(pairs)


def _complex(_: Sequence[Row]) -> Told:
    rows = [
        row
        for row in read_rows(RESULTS / "scans_sequential.jsonl")
        if row["truth"]["dataset"] != "lfw" and row["truth"]["attack"] in ("noise", "checkerboard", "triangle")
    ]
    right = sum(row["flagged"] == row["truth"]["targets"] for row in rows)
    return f"{right} of {len(rows)} in the small zoo's test set", right == len(rows)


def _listed(values: Sequence[float], digits: int) -> str:
    return ", ".join(number(value, digits) for value in values)


CLAIMS: tuple[Claim, ...] = (
    ("The anomaly index of every infected model is above 3", "H", _index_of_infected),
    ("That of every clean model is under 2", "H", _index_of_clean),
    ("The infected label has the smallest trigger, far under the median", "H", _smallest),
    ("Its rank settles after some 12 iterations (asked here: 20)", "M", _early),
    ("The recovered trigger lifts the top 1 % of neurons to at least 3 times their clean mean", "H", _lifted),
    ("Filter, BadNets: under 1.63 % pass where 5 % of clean images are rejected", "H",
     _filtered(0.0163, ("badnets", "noise-size5"))),
    ("Filter, Trojan: 4.3 % (square) and 28.5 % (watermark) pass", "H",
     _filtered(0.285, ("trojan-square", "trojan-watermark"))),
    ("Pruning 30 % of the second last layer leaves no success (BadNets)", "H", _pruned("features", 0.3, 0.05)),
    ("Pruning at most 8 % of the last convolution leaves under 1 % (BadNets)", "H", _pruned("convolution", 0.08, 0.01)),
    ("Trojan square, 30 % of the second last layer pruned: 10.1 % left of the reversed trigger, 87.3 % of the original",
     "H", _trojan_pruned),
)  # fmt: skip
# Of all scans of one way.
OF_SCANS: tuple[tuple[str, str, Callable[[Sequence[Row], Sequence[str]], Told]], ...] = (
    ("On MNIST triggers of up to 18 % of the image are found", "H", _larger),
    ("The MAD rule finds up to 3 infected labels of MNIST's 10, and fails for more", "H", _many_labels),
)
# Of rows that other benchmarks recorded, with triggers of the default.
OF_DEFAULT: tuple[tuple[str, str, Callable[[Sequence[Row]], Told]], ...] = (
    ("An index above 3 of infected models and under 2 of clean ones, on GTSRB and faces", "H", _index_elsewhere),
    ("One epoch of unlearning with the reversed trigger leaves at most 6.70 % and costs at most 3.6 points", "H",
     _unlearned("one epoch")),
    ("The same, with our `repair`", "–", _unlearned("repair")),
    ("Fine-tuning on clean images alone leaves BadNets on MNIST 93.37 %", "M", _clean_images(("badnets",), True)),
    ("It removes the Trojan backdoors (10.91 % and 0 %)", "H",
     _clean_images(("trojan-square", "trojan-watermark"), False)),
    ("Nine triggers to one label: three rounds leave under 1 % on MNIST", "M", _nine),
    ("A backdoor of one source is missed label by label and found pair by pair", "H", _one_source),
    ("Noise squares, triangles and checkerboards are all found", "H", _complex),
)  # fmt: skip
