"""Error rates on hand-made rows, where every figure can be counted."""

from typing import Any

import pytest

from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.evaluation.rates import MIN_CLUSTERS, RULES, Rate, auc, calibration, grubbs, paper, rates, recorded
from neural_cleanse.evaluation.tables import markdown, misses

SPREAD = [90.0, 95.0, 100.0, 104.0, 110.0, 98.0, 102.0, 93.0, 107.0]


def row(model: str, *, targets: tuple[int, ...] = (), flagged: tuple[int, ...] = (), **other: Any) -> dict[str, Any]:
    """A finished row; label 0 is small where it is flagged or a target."""
    truth = {
        "infected": bool(targets), "weak": False, "targets": list(targets), "dataset": "mnist", "attack": "badnets",
        "architecture": "mnist_cnn", "options": {},
    }  # fmt: skip
    truth |= {key: other.pop(key) for key in list(other) if key in truth}
    values = {
        "model": model, "verdict": "infected" if flagged else "clean", "flagged": list(flagged), "alpha": 0.01,
        "p_value": 1e-5 if flagged else 0.6, "labels": list(range(10)), "sizes": [9.0 if targets else 99.0, *SPREAD],
        "image_passes": 30000, "wall_s": 9.0, "truth": truth,
    }  # fmt: skip
    return values | other


def test_what_is_counted_is_what_happened() -> None:
    rows = [
        row("clean a"),
        row("clean b", flagged=(3,)),
        row("clean c", verdict="inconclusive", dataset="fashion"),
        row("found", targets=(0,), flagged=(0,)),
        row("wrong label", targets=(0,), flagged=(0, 4)),
        row("missed", targets=(0,), dataset="fashion"),
        row("half found", targets=(0, 1), flagged=(1,)),
        row("weak", targets=(0,), weak=True),
    ]
    said = rates(rows, recorded)
    assert (said.clean_flagged.hits, said.clean_flagged.trials) == (1, 3)
    assert (said.clean_flagged.cluster_hits, said.clean_flagged.clusters) == (1, 2)
    assert said.inconclusive_clean.hits == 1
    assert (said.detected.hits, said.detected.trials) == (3, 4)
    assert (said.right_label.hits, said.every_label.hits) == (2, 1)
    assert said.weak == 1
    assert said.clean_flagged.interval == clopper_pearson(1, 3)
    assert [one["model"] for one in misses(rows)] == ["clean b", "wrong label", "missed"]


def of_clusters(*counts: tuple[int, int]) -> Rate:
    """A rate made by hand."""
    return Rate(counts)


def test_a_rate_adds_up_over_its_clusters() -> None:
    one = of_clusters((0, 4), (2, 3), (1, 1))
    assert (one.hits, one.trials, one.cluster_hits, one.clusters) == (3, 8, 2, 3)
    assert one.share == 3 / 8
    nothing = of_clusters()
    assert (nothing.hits, nothing.trials, nothing.share, nothing.over_clusters) == (0, 0, 0.0, None)


def test_the_bootstrap_draws_whole_clusters() -> None:
    """Ten clusters wholly found and ten wholly missed: twenty trials, whatever their number of models."""
    few, many = (of_clusters(*[(n, n)] * 10, *[(0, n)] * 10).over_clusters for n in (1, 50))
    assert few == many
    assert few is not None
    low, high = clopper_pearson(10, 20)
    assert low - 0.05 < few[0] < 0.4 and 0.6 < few[1] < high + 0.05


def test_the_bootstrap_is_the_same_every_time_and_holds_the_rate() -> None:
    one = of_clusters((9, 10), (3, 4), (1, 5), (6, 6), (2, 4))
    low, high = one.over_clusters or (1.0, 0.0)
    assert low < one.share < high
    assert one.over_clusters == (low, high)


@pytest.mark.parametrize("hits", [0, 3])
def test_of_all_or_nothing_the_bound_of_the_clusters_is_given(hits: int) -> None:
    """A bootstrap would say 0 to 0, or 1 to 1."""
    assert of_clusters(*[(hits, 3)] * 6).over_clusters == clopper_pearson(6 if hits else 0, 6)


def test_few_or_equal_clusters_are_not_drawn_from() -> None:
    assert of_clusters(*[(1, 2)] * MIN_CLUSTERS).over_clusters is None
    assert of_clusters((1, 2), *[(2, 2)] * (MIN_CLUSTERS - 2)).over_clusters is None
    assert of_clusters((1, 2), *[(2, 2)] * (MIN_CLUSTERS - 1)).over_clusters is not None


def test_the_table_shows_both_intervals_of_detections() -> None:
    found = [row(f"found {name}", targets=(0,), flagged=(0,), dataset=name) for name in "abcde"]
    assert "5 of 5 (47.8% to 100.0%; over clusters 47.8% to 100.0%)" in markdown(found)
    missed = [row("missed", targets=(0,), dataset="a"), *found]
    assert "5 of 6 (35.9% to 99.6%; over clusters 6" in markdown(missed)
    of_the_scan = next(line for line in markdown(missed[:3]).splitlines() if line.startswith("| scan |"))
    assert "2 of 3" in of_the_scan and "over clusters" not in of_the_scan


def test_the_paper_and_grubbs_are_applied_to_the_recorded_sizes() -> None:
    small = row("found", targets=(0,), labels=list(range(5, 15)))
    assert paper(small).flagged == (5,)
    assert grubbs(small).flagged == (5,)
    assert paper(row("clean")).flagged == grubbs(row("clean")).flagged == ()
    two = row("two", targets=(0, 1), sizes=[9.0, 11.0, *SPREAD, 101.0], labels=list(range(12)))
    assert len(grubbs(two).flagged) <= 1


def test_labels_without_a_size_are_left_out() -> None:
    gap = row("gap", targets=(1,), sizes=[None, 9.0, *SPREAD], labels=list(range(11)))
    assert paper(gap).flagged == grubbs(gap).flagged == (1,)
    empty = row("nothing", sizes=[], labels=[])
    assert all(rule(empty).flagged == () for rule in RULES.values())


@pytest.mark.parametrize(
    ("clean", "infected", "expected"),
    [
        ([0.0, 1.0], [2.0, 3.0], 1.0),
        ([2.0], [1.0], 0.0),
        ([1.0], [1.0], 0.5),
        ([0.0, 2.0], [1.0], 0.5),
        ([], [1.0], None),
    ],
)
def test_auc_is_the_chance_of_the_right_order(
    clean: list[float], infected: list[float], expected: float | None
) -> None:
    assert auc(clean, infected) == expected


def test_calibration_counts_clean_models_alone() -> None:
    rows = [row("a", p_value=0.04), row("b", p_value=0.4), row("c", targets=(0,), p_value=1e-9), row("d", p_value=None)]
    assert calibration(rows) == ((0.01, 0, 2), (0.05, 1, 2), (0.1, 1, 2), (0.25, 1, 2), (0.5, 2, 2))


def test_the_page_names_what_was_not_scanned() -> None:
    text = markdown([row("clean"), {"model": "broken", "truth": {}, "error": "no images"}])
    assert "1 models, 1 of them clean" in text
    assert "| broken |  | no images |  |" in text


def test_no_rows_make_no_figures() -> None:
    assert "0 models" in markdown([])
