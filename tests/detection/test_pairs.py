"""Pairs of labels: rows like any other, a plan that keeps its budget, and a planted pair found in a whole scan."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from planted_networks import SOURCE, TARGET, PairBackdoor
from shell import run

from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import Deadline
from neural_cleanse.detection import answer
from neural_cleanse.detection.kind_tester import Earlier
from neural_cleanse.detection.kinds_found import KindFound
from neural_cleanse.detection.one_class_all_steps import OneClassAllSteps
from neural_cleanse.detection.pairs import PairPlan, PairsFound, pair_inversion, search_pairs
from neural_cleanse.detection.progress import Part, Work
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.detection.stages import Stages
from neural_cleanse.detection.verdict import Decision, decide
from neural_cleanse.engines import InProcess
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.batching import BatchScheduler
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.memory import BatchLimit
from neural_cleanse.inversion.sampling import ScanImages, Split
from neural_cleanse.mitigation.base import known_backdoors
from neural_cleanse.report import content
from neural_cleanse.report import output_dir as directory
from neural_cleanse.report.page import html
from neural_cleanse.report.tables import pair_table
from neural_cleanse.report.text import bars, flagged
from neural_cleanse.results import storage
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import KindTest, LabelPair, Outcome, Recovered, ScanResult, Verdict

SHORT = Inversion(steps=6, restarts=1)


def silent() -> Part:
    """Reports to nobody, and counts."""
    return Work(lambda _: None).begin("pairs of labels", 0, 0, "pairs")


def stages() -> Stages:
    return Stages(InProcess(), BatchLimit(64), Work(lambda _: None))


def searched(classifier: Classifier, images: ScanImages, plan: PairPlan, report: Part | None = None) -> PairsFound:
    """All work in this process, reported in one place."""
    told = report or silent()
    slots = BatchScheduler(classifier, images, BatchLimit(128), told)
    return search_pairs(SHORT, classifier, images, range(10), plan, told, slots)


@pytest.fixture(scope="module")
def images(clean: Classifier, digits: ImageSet) -> ScanImages:
    """500 digits as a scan of the clean model sees them."""
    return ScanImages.of(clean, digits, seed=1)


@pytest.fixture(scope="module")
def found(clean: Classifier, digits: ImageSet) -> ScanResult:
    """The clean demo model with a planted pair, searched with three labels as targets."""
    planted = replace(clean, module=PairBackdoor(clean.module))
    return scan(planted, digits, ScanSettings(patches_only=True, labels=(0, TARGET, 8), restarts=1, pairs=True))


def test_pairs_in_a_batch_are_runs_of_their_own(clean: Classifier, images: ScanImages) -> None:
    pairs = [LabelPair(8, 3), LabelPair(8), LabelPair(3, 8), LabelPair(0, 1)]
    together = SHORT.advance(clean, images, SHORT.start(clean, pairs, 1), 6)
    for index, pair in enumerate(pairs):
        alone = SHORT.advance(clean, images, SHORT.start(clean, [pair], 1), 6)
        assert torch.equal(together.free[0][index], alone.free[0][0])
        assert torch.equal(together.free[1][index], alone.free[1][0])
    assert not torch.equal(together.free[0][0], together.free[0][1])


def test_where_the_budget_allows_all_pairs_get_all_steps(clean: Classifier, images: ScanImages) -> None:
    report = silent()
    all_of_them = searched(clean, images, PairPlan(passes_per_label=9 * SHORT.passes), report)
    assert len(all_of_them.found) == 90 == len(all_of_them.reference) == all_of_them.candidates == len(report.finished)
    assert all_of_them.screened == () and all_of_them.untried == 0 and all_of_them.lacking == ()


def test_a_smaller_budget_is_kept_and_what_it_leaves_out_is_counted(clean: Classifier, images: ScanImages) -> None:
    report, plan = silent(), PairPlan(passes_per_label=6 * SHORT.passes, first_steps=4)
    part = searched(clean, images, plan, report)
    assert report.done <= 10 * plan.passes_per_label
    assert len(part.reference) == 40
    assert len(part.screened) + len(part.found) + part.untried == part.candidates == 90
    assert part.untried == 35  # of 60 runs 40 make the reference, 10 are kept for finalists, the rest looks at 15 pairs
    assert all(one.outcome is Outcome.SCREENED_OUT and one.size is None for one in part.screened)
    for label in range(10):
        assert sum(pair.target == label for pair in part.reference) == 4
        assert 2 <= sum(pair.source == label for pair in part.reference) <= 6


def test_the_passes_that_put_pairs_in_their_order_are_counted(
    clean: Classifier, digits: ImageSet, images: ScanImages
) -> None:
    ordered = searched(clean, images, PairPlan(passes_per_label=5 * SHORT.passes, first_steps=2))
    assert ordered.forward_passes == len(images.parts[Split.OPTIMISE]) == 250
    assert searched(clean, images, PairPlan(passes_per_label=9 * SHORT.passes)).forward_passes == 0, "all are searched"
    late = clean.changed(deadline=Deadline(0))
    assert searched(late, images, PairPlan(0, 0, 0, 1)).forward_passes == 0, "none passed"
    settings = ScanSettings(pairs=True, patches_only=True, samples=400, max_passes=1)
    every, some = (scan(clean, digits, settings, pair_plan=PairPlan(passes_per_label=most)) for most in (10**6, 1))
    assert some.forward_passes == every.forward_passes + 200


def test_the_reference_is_drawn_before_anything_was_seen(
    clean: Classifier, infected: Classifier, images: ScanImages, digits: ImageSet
) -> None:
    plan = PairPlan(passes_per_label=5 * SHORT.passes, first_steps=2)
    others = ScanImages.of(infected, digits, seed=1)
    assert searched(clean, images, plan).reference == searched(infected, others, plan).reference
    assert searched(clean, images, plan).reference != searched(clean, replace(images, seed=2), plan).reference


def test_a_planted_pair_is_found_and_its_label_is_not(found: ScanResult) -> None:
    assert found.verdict is Verdict.INFECTED and found.flagged == (TARGET,)
    assert found.flagged_pairs == (LabelPair(TARGET, SOURCE),)
    assert f"mages of label {SOURCE} go to label {TARGET} with a trigger of" in found.reason
    patches, pairs = found.tests
    assert pairs.kind is Kind.PAIRS and pairs.verdict is Verdict.INFECTED and pairs.rows == ()
    assert pairs.flagged == found.flagged_pairs and "Looked for: patches, one-class patches" in found.reason
    (row,) = (row for row in found.pair_rows if row.pair == LabelPair(TARGET, SOURCE))
    assert pairs.p_value == row.p_value == found.p_value and pairs.p_value is not None and pairs.p_value <= found.alpha
    assert pairs.image_passes == sum(row.image_passes for row in found.pair_rows) > 0
    assert found.image_passes == patches.image_passes + pairs.image_passes
    mask = found.triggers[LabelPair(TARGET, SOURCE)]["mask"][0, 0]
    assert mask[2:5, 2:5].sum() > 0.5 * mask.sum()
    (evidence,) = found.evidence
    assert [rate.source for rate in evidence.by_source] == [SOURCE] and evidence.source == SOURCE
    assert evidence.answers_after.count(TARGET) >= len(evidence.answers_after) - 1


def test_pairs_change_nothing_of_the_labels_but_their_share_of_alpha(
    found: ScanResult, clean: Classifier, digits: ImageSet
) -> None:
    planted = replace(clean, module=PairBackdoor(clean.module))
    without = scan(planted, digits, ScanSettings(patches_only=True, labels=(0, TARGET, 8), restarts=1))
    assert [row.size for row in without.labels] == [row.size for row in found.label_rows]
    assert [row.anomaly_index for row in without.labels] == [row.anomaly_index for row in found.label_rows]
    assert [min(1.0, 2 * (row.p_value or 0.0)) for row in without.labels] == [row.p_value for row in found.label_rows]
    assert len(found.pair_rows) == 27 and all(row.anomaly_index is None for row in found.pair_rows)
    assert [bar.flagged for bar in bars(found)] == [False] * 3


def test_a_flagged_pair_comes_back_from_the_files_and_is_what_a_repair_takes(found: ScanResult, tmp_path: Path) -> None:
    directory.write(found, tmp_path)
    assert (tmp_path / f"label_{TARGET}_from_{SOURCE}" / "trigger.png").exists()
    again = storage.load_result(tmp_path)
    assert storage.to_json(again) == storage.to_json(found) and again.flagged_pairs == found.flagged_pairs
    assert set(again.triggers) == {*(LabelPair(label) for label in (0, TARGET, 8)), LabelPair(TARGET, SOURCE)}
    assert [one.pair for one in known_backdoors(again, again.flagged)] == [LabelPair(TARGET, SOURCE)]
    assert [one.pair for one in known_backdoors(again, None)] == [
        LabelPair(0), LabelPair(TARGET, SOURCE), LabelPair(8)
    ]  # fmt: skip
    clean_again = replace(found, evidence=(), flagged=())
    directory.write(clean_again, tmp_path)
    assert not (tmp_path / f"label_{TARGET}_from_{SOURCE}").exists()


def test_page_and_table_name_the_pair(found: ScanResult) -> None:
    table = pair_table(found)
    assert table.rows[0][:2] == (str(SOURCE), str(TARGET)) and table.rows[0][-1] == "flagged"
    assert [row[-1] == "flagged" for row in table.rows] == [True, *[False] * 5]
    page, (one,) = html(found), flagged(found)
    assert f"Label {SOURCE} -&gt; {TARGET}" in page and "one-class patches" in page
    assert one.row.size is not None and one.compared.startswith(f"{one.row.size:.1f} px, p = ")
    assert content.FROM_ONE_CLASS not in content.not_checked(found) and "Also:" not in content.looked_for(found)


def of_labels(smallest: float) -> Decision:
    """What a scan says of ten labels, label 3 being the smallest."""
    sizes = [100.0, 110.0, 90.0, smallest, 95.0, 105.0, 115.0, 108.0, 102.0, 97.0]
    known = [
        Recovered(LabelPair(label), None, size, None, 0, 0, Outcome.CONVERGED, 0, 0) for label, size in enumerate(sizes)
    ]
    return decide(known, 0.01, 784, share=0.5)


def screened(classifier: Classifier, images: ScanImages, labels: Decision) -> KindFound:
    """One step for every pair: what is said of it, not what is found."""
    prepared: Any = SimpleNamespace(
        classifier=classifier, images=images, settings=ScanSettings(pairs=True), inversion=Inversion(), doubt=None,
        pairs=[LabelPair(label) for label in range(10)], area=784,
    )  # fmt: skip
    return OneClassAllSteps(prepared, stages(), PairPlan(900, 0, 0, 1)).run(Earlier((), labels))


def test_a_label_with_a_trigger_of_its_own_is_no_target(clean: Classifier, images: ScanImages) -> None:
    result = screened(clean, images, of_labels(3.0))
    assert len(result.searched) == 81 and all(one.pair.target != 3 for one in result.searched)
    assert any("pairs to label 3 were not searched" in note for note in result.notes)


def test_a_source_that_is_answered_as_the_target_anyway_is_said_and_nothing_is_called_clean(
    clean: Classifier, digits: ImageSet
) -> None:
    """As a planted trigger that leaks into clean images of its source would have it."""
    found = ScanImages.of(clean, digits, 0)
    assert found.labels is not None
    leaking = replace(found, answers=torch.where(found.labels == 2, 7, found.answers))
    result = screened(clean, leaking, of_labels(100.0))
    assert result.test.verdict is not Verdict.CLEAN
    assert "2 to 7: the model gives so many images" in result.test.reason
    assert any("2 to 7" in note for note in result.notes)


def test_classes_with_too_few_images_are_said_and_nothing_is_called_clean(clean: Classifier, digits: ImageSet) -> None:
    assert digits.labels is not None
    few = digits.take(torch.cat([(digits.labels != 5).nonzero()[:, 0], (digits.labels == 5).nonzero()[:10, 0]]))
    assert of_labels(100.0).verdict is Verdict.CLEAN
    result = screened(clean, ScanImages.of(clean, few.without_labels(), 0), of_labels(100.0))
    assert result.test.verdict is Verdict.INCONCLUSIVE
    assert len(result.searched) == 81 and all(one.pair.source != 5 for one in result.searched)
    assert result.record["pair_search"]["sources_without_enough_images"] == [5]
    said = " ".join(result.notes)
    assert "label 5 has fewer than 30 images" in said and "answers stand for the source" in said


def test_a_pair_that_a_map_explains_has_one_row_and_the_evidence_of_the_map() -> None:
    pair, other = LabelPair(1, 0), LabelPair(5, 4)
    subject: Any = SimpleNamespace(classifier=None, images=None)

    def found(kind: Kind, pairs: tuple[LabelPair, ...], size: float) -> KindFound:
        rows = tuple(replace(Recovered.skipped(one, Outcome.CONVERGED), size=size) for one in pairs)
        mapped = pairs if kind is Kind.ALL_TO_ALL else ()
        test = KindTest(kind, 0.1, Verdict.INFECTED, "said", 1e-6, pairs, mapped)
        return KindFound(test, rows, subject, searched=rows if kind is Kind.PAIRS else ())

    kinds = found(Kind.PAIRS, (pair, other), 9.0), found(Kind.ALL_TO_ALL, (pair,), 40.0)
    compared = SimpleNamespace(decision=SimpleNamespace(flagged_pairs=()))
    parts: Any = SimpleNamespace(found=(), kinds=kinds, compared=compared, prepared=None)
    assert {one.pair: one.size for one in answer._shown(parts)} == {pair: 40.0, other: 9.0}
    shown = [(kind, one.pair) for kind, _, _, one in answer._to_show(parts, kinds, ())]
    assert shown == [(Kind.PAIRS, other), (Kind.ALL_TO_ALL, pair)]


def test_pairs_that_no_budget_reached_are_not_said_to_be_checked(found: ScanResult) -> None:
    """Also of older records, in which `--pairs` has no test of its own."""
    older = replace(found, tests=found.tests[:1])
    assert content.FROM_ONE_CLASS not in content.not_checked(older)
    assert flagged(replace(older, evidence=(replace(found.evidence[0], kind=Kind.PATCH),))) == flagged(found)
    rows = tuple(row if row.source is None else replace(row, outcome=Outcome.NOT_SEARCHED) for row in found.labels)
    tests = found.tests[0], replace(found.tests[1], verdict=Verdict.INCONCLUSIVE, p_value=None, flagged=())
    assert content.FROM_ONE_CLASS in content.not_checked(replace(found, labels=rows, tests=tests, evidence=()))


def test_the_search_of_a_pair_is_the_default_one_whatever_the_labels_get() -> None:
    assert pair_inversion("swapped").restarts == 1 and pair_inversion("ce").passes == 1000


def test_pairs_are_searched_with_the_numbers_that_the_scan_computes_with(
    clean: Classifier, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Searched(Exception):
        """Ends the scan where pairs are searched, with how they would have been."""

    def stop(inversion: Inversion, *_: object) -> None:
        raise Searched(inversion.precision)

    monkeypatch.setattr("neural_cleanse.detection.one_class_all_steps.search_pairs", stop)
    settings = ScanSettings(pairs=True, patches_only=True, samples=200, max_passes=1, precision="bf16")
    with pytest.raises(Searched) as found:
        scan(clean, digits, settings)
    assert found.value.args == ("bf16",)


def test_the_command_says_what_it_searched(demo_files: Path) -> None:
    ran = run("scan", demo_files / "clean.safetensors", "--data", demo_files / "digits.npz", "--labels", "3", "--pairs")
    assert ran.code == 2 and "needs 4 labels" in ran.err
