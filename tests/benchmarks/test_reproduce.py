"""What the reproduction of the paper computes beside the package: ranks, the paper's ranking of neurons, tables."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import reproduce
import reproduce_charts
import reproduce_claims
import reproduce_mechanism
import reproduce_rows
from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.batching import BatchScheduler
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.memory import BatchLimit
from neural_cleanse.inversion.presets import preset
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.metrics import pixels
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.results.records import LabelPair

ROOT = Path(__file__).parents[2]
PAIRS = [LabelPair(label) for label in (3, 0, 5)]
SHORT_REFERENCE = replace(preset("reference"), batch_size=4, batches_per_step=2, steps=40)


@pytest.mark.parametrize(
    "inversion",
    [
        replace(SHORT_REFERENCE, cost=replace(SHORT_REFERENCE.cost, patience=1, stop_patience=3)),
        Inversion(steps=20, restarts=2, race=((8, 1),)),
    ],
    ids=["reference", "default"],
)
def test_a_search_step_by_step_finds_what_a_scan_finds(
    infected: Classifier, digits: ImageSet, inversion: Inversion
) -> None:
    images = ScanImages.of(infected, digits, 0)
    found, track = reproduce.step_by_step(infected, images, inversion, PAIRS)
    whole = sorted(BatchScheduler(infected, images, BatchLimit(128))(inversion, PAIRS), key=_pair)
    assert [(one.pair, one.size, one.hits, one.image_passes) for one in found] == [
        (one.pair, one.size, one.hits, one.image_passes) for one in whole
    ]
    assert all(set(sizes) == set(PAIRS) for sizes in track), "a label that is done keeps its size"
    assert (
        len(track) == max(one.image_passes for one in whole) // (inversion.batch_size * inversion.batches_per_step)
        or inversion.restarts > 1
    )


def _pair(one: object) -> object:
    return one.pair  # type: ignore[attr-defined]


def test_the_rank_of_a_label_counts_those_that_are_smaller() -> None:
    sizes = [{LabelPair(0): 9.0, LabelPair(1): 5.0, LabelPair(2): 7.0}, {LabelPair(0): 1.0, LabelPair(1): 5.0}]
    assert [reproduce.ranks(sizes, label) for label in (0, 1)] == [[3, 1], [1, 2]]


@pytest.mark.parametrize(("places", "step"), [([4, 2, 1, 1], 3), ([1, 1], 1), ([1, 2, 1], 3), ([1, 1, 2], None)])
def test_a_label_is_first_for_good_from_the_step_after_its_last_other_place(
    places: list[int], step: int | None
) -> None:
    assert reproduce.first_for_good(places) == step


def test_the_papers_ranking_takes_bare_differences_and_its_filter_their_mean() -> None:
    clean = torch.zeros(4, 200)
    clean[:2, 0] = 100.0  # a neuron that varies much, lifted by most
    triggered = torch.zeros(4, 200)
    triggered[:, 0], triggered[:, 7], triggered[:, 9] = 80.0, 20.0, 10.0
    assert reproduce_mechanism.by_difference(clean, triggered)[:3].tolist() == [0, 7, 9]
    weights = reproduce_mechanism.paper_top(clean, triggered)
    assert weights.nonzero().flatten().tolist() == [0, 7] and weights.sum() == 1


def test_channels_are_positive_means_behind_the_norm(infected: Classifier, digits: ImageSet) -> None:
    found = reproduce_mechanism.channels(infected, pixels(digits.images[:5]))
    layer = infected.module.get_submodule("3")
    before = infected.module[:3](pixels(digits.images[:5]))  # type: ignore[index]
    assert torch.allclose(found, layer(before).relu().mean((2, 3)), atol=1e-6)
    assert (found >= 0).all()


def test_a_backdoor_shows_in_activations_filter_and_pruning(
    infected: Classifier, digits: ImageSet, recovered: Backdoor, original: Backdoor
) -> None:
    calm, fresh = digits.take(torch.arange(0, 500, 2)), digits.take(torch.arange(1, 500, 2))
    found = reproduce_mechanism.mechanism(infected, recovered, original, calm, fresh)
    shown = found["activations"]
    assert shown["neurons"] == 5 and shown["clean"] < shown["recovered"] and shown["clean"] < shown["original"]
    assert {(one["direction"], one["wanted"]) for one in found["filter"]} == {
        (name, rate) for name in ("paper", "top", "fisher") for rate in (0.05, 0.1)
    }
    assert all(0 <= one["fnr"] <= 1 and one["fpr"] < 0.3 for one in found["filter"])
    assert len(found["pruning"]) == 4
    for curve in found["pruning"]:
        first, last = curve["points"][0], curve["points"][-1]
        assert first[0] == 0 and first[1] > 0.9 and first[3] > 0.9, "nothing pruned: the model as it came"
        assert last[0] > 0.8 and last[3] < first[3]


def row(**changes: object) -> dict[str, object]:
    scan = {
        "labels": [0, 1, 2, 3, 4], "sizes": [10.0, 100.0, None, 80.0, 90.0], "verdict": "infected", "flagged": [0],
        "paper_index": 3.456, "paper_flagged": [0],
    }  # fmt: skip
    made: dict[str, object] = {
        "model": "mnist-mnist_cnn-badnets-seed10", "way": "default", "dataset": "mnist", "architecture": "mnist_cnn",
        "attack": "badnets", "targets": [0], "accuracy": 0.98, "attack_success": [0.999], "trigger_px": [16.0],
        "scan": scan,
    }  # fmt: skip
    return made | changes


def test_quartiles_are_of_the_labels_that_are_no_target_and_have_a_size() -> None:
    assert reproduce_rows.quartiles(row()) == (85.0, 90.0, 95.0)
    assert reproduce_rows.quartiles(row(targets=[0, 1, 3])) == (None, 90.0, None)
    assert (
        reproduce_rows.size_of(row(), 0) == 10.0
        and reproduce_rows.size_of(row(), 2) is None
        and reproduce_rows.size_of(row(), None) is None
    )


def test_a_comparison_names_what_differs_and_what_has_no_row() -> None:
    lines = reproduce_rows.comparison([row(), row(way="reference")], [row(accuracy=0.97)]).rows
    different = [(way, figure, here, there) for _, way, figure, here, there, said in lines if said]
    assert ("default", "accuracy, %", "98.00", "97.00") in different
    assert ("reference", "verdict", "infected 0", "no row") in different
    assert not [figure for way, figure, *_ in different if way == "default" and figure != "accuracy, %"]


def told(found: list[dict[str, object]]) -> dict[str, tuple[str, str]]:
    """Of every claim the reference's cell and the default's."""
    both = [line for missed in (True, False) for line in reproduce_claims.claims(found, missed=missed).rows]
    return {claim: (reference, default) for claim, _, reference, default in both}


def test_a_claim_without_rows_is_not_run_and_one_with_rows_holds_or_not() -> None:
    index = "The anomaly index of every infected model is above 3"
    spared = row(model="mnist-mnist_cnn-none-seed11", way="reference", targets=[], attack="none")
    answers = told([row(), spared])
    assert answers[index] == ("not run", "yes: 3.46")
    assert answers["That of every clean model is under 2"] == ("**no**: 3.46", "not run")
    assert not [
        line for line in reproduce_claims.claims([row()], missed=False).rows if reproduce_claims.NO in "".join(line)
    ]
    weak = row()["scan"] | {"paper_index": 2.5}  # type: ignore[operator]
    assert told([row(scan=weak)])[index] == ("not run", "**no**: 2.50")


def test_a_pruning_claim_takes_the_papers_ranking_and_the_original_trigger() -> None:
    curve = {"place": "features", "neurons": 10, "points": [[0.0, 0.98, 0.97, 0.99], [0.3, 0.9, 0.5, 0.02]]}
    other = [[0.3, 0.9, 0.0, 0.9]]
    pruned = row(pruning=[curve | {"ranking": "difference"}, curve | {"ranking": "spread", "points": other}])
    (claim,) = (claim for claim in told([]) if claim.startswith("Pruning 30 %"))
    assert told([pruned])[claim][1] == "yes: 2.0 % left"


def test_a_chart_stands_by_itself_and_draws_every_curve() -> None:
    curves = [
        reproduce_charts.Curve("one", [(0.0, 0.0), (1.0, 1.0)], "alarm"),
        reproduce_charts.Curve("two", [(0.0, 1.0)], "good", "5 2"),
    ]
    svg = reproduce_charts.drawn("a chart", curves, "share", lambda tick: f"{tick:g}", [(0.0, "0%"), (1.0, "100%")])
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"') and "--alarm:#" in svg
    assert svg.count("<circle") == 3 and ">one<" in svg and ">two<" in svg
    frame = reproduce_charts.FRAME
    assert f'cx="{frame.left}" cy="{frame.bottom}"' in svg and f'cx="{frame.right}" cy="{frame.top}"' in svg


def test_the_charts_of_the_page_are_those_of_the_recorded_rows() -> None:
    found = reproduce_charts.rows_in(reproduce_charts.ROWS)
    for path, chart in reproduce_charts.CHARTS.items():
        assert path.read_text(encoding="utf-8") == chart(found), "run: python benchmarks/reproduce_charts.py"


def test_every_model_that_is_searched_is_in_the_spec(tmp_path: Path) -> None:
    names = [job.name for job in reproduce.read_spec(reproduce.SPEC, tmp_path)]
    wanted = reproduce.work(names, quick=False)
    assert {name for name, _ in wanted} == set(names) and len(wanted) == len(set(wanted))
    assert set(reproduce.work(names, quick=True)) < set(wanted)


def test_channels_are_means_of_the_last_convolutions_positive_values_and_leave_no_hook() -> None:
    convolution = nn.Conv2d(1, 2, 1, bias=False)
    convolution.weight.data[:] = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    network = nn.Sequential(convolution, nn.Flatten(), nn.Linear(32, 3))
    images = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    classifier = Classifier(network, (1, 4, 4), 3)
    found = reproduce_mechanism.channels(classifier, images)
    assert torch.allclose(found, torch.stack([images.mean((1, 2, 3)), torch.zeros(5)], 1))
    assert not any(layer._forward_hooks for layer in classifier.module.modules())
