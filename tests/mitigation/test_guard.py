"""The input filter rejects as many clean images as it was asked to, and the images that carry the trigger."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from token_network import Tokens
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import DataError, OutputError, SettingsError, UnusableOutputs
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.metrics import FORWARD_BATCH, pixels, stamped
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.mitigation.guard import JSON_FILE, TENSOR_FILE, Detector, Guard
from neural_cleanse.mitigation.guard_fitting import (
    CALIBRATED,
    LEAST_RANKED,
    SHRINKAGE,
    Direction,
    GuardReport,
    fisher,
    fit_guard,
    top,
)
from neural_cleanse.outputs import OutputKind
from neural_cleanse.results.records import LabelPair
from neural_cleanse.triggers.patch import PatchTrigger


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def all_digits(demo_files: Path) -> ImageSet:
    """2,000 real digits in a random order."""
    data = load_data(demo_files / "digits.npz")
    return data.take(torch.randperm(len(data), generator=seeded()))


@pytest.fixture(scope="module")
def fitted(infected: Classifier, all_digits: ImageSet, recovered: Backdoor) -> tuple[Guard, GuardReport]:
    """A guard of 1,000 digits at 5 %."""
    return fit_guard(infected, [recovered], all_digits.take(torch.arange(1000)), generator=seeded())


@pytest.fixture(scope="module")
def guard(fitted: tuple[Guard, GuardReport]) -> Guard:
    return fitted[0]


@pytest.fixture(scope="module")
def fresh(all_digits: ImageSet) -> ImageSet:
    """1,000 digits that the guard never saw."""
    return all_digits.take(torch.arange(1000, 2000))


def spread(asked: float, calibrated: int, trials: int) -> float:
    """Standard deviation of the share rejected: the threshold is one of `calibrated` images, the share of `trials`."""
    return math.sqrt(asked * (1 - asked) * (1 / (calibrated + 2) + 1 / trials))


# --- what it rejects ---


@pytest.mark.parametrize("asked", [0.01, 0.05, 0.2])
def test_fresh_clean_images_are_rejected_as_often_as_was_asked(
    infected: Classifier, all_digits: ImageSet, fresh: ImageSet, recovered: Backdoor, asked: float
) -> None:
    known = all_digits.take(torch.arange(1000))
    made, report = fit_guard(infected, [recovered], known, false_positive_rate=asked, generator=seeded(1))
    rejected = (~made.check(fresh.images).accepted).float().mean().item()
    calibrated = round(CALIBRATED * len(known))
    assert abs(rejected - asked) < 3 * spread(asked, calibrated, len(fresh))
    assert report.clean_trials == 300
    assert abs(report.clean_rejected / 300 - asked) < 3 * spread(asked, calibrated, 300)


@pytest.mark.parametrize("asked", [0.05, 0.3])
def test_over_many_guards_the_rate_is_that_of_its_rank(asked: float) -> None:
    """Vovk et al. 2005: with rank r of c calibration images the next image is above it with chance 1 - r / (c + 1)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    classifier = Classifier(module, (1, 4, 4), 3)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :2] = 1
    backdoor = Backdoor(LabelPair(0), PatchTrigger(mask, torch.ones(1, 1, 4, 4)))
    images = torch.randint(0, 256, (6_000, 1, 4, 4), generator=seeded()).to(torch.uint8)
    rejected = trials = 0
    for number, part in enumerate(images.split(100)):
        data = ImageSet(part, torch.arange(100) % 3)
        _, report = fit_guard(classifier, [backdoor], data, false_positive_rate=asked, generator=seeded(number))
        rejected, trials = rejected + report.clean_rejected, trials + report.clean_trials
    calibrated = 40
    expected = 1 - math.ceil((1 - asked) * (calibrated + 1)) / (calibrated + 1)
    assert asked - 1 / (calibrated + 1) < expected <= asked, "never more than asked"
    guards = len(images) // 100
    assert abs(rejected / trials - expected) < 3 * spread(expected, calibrated, 30) / math.sqrt(guards)


def test_images_with_the_trigger_are_rejected(
    fitted: tuple[Guard, GuardReport], fresh: ImageSet, recovered: Backdoor, original: Backdoor
) -> None:
    made, report = fitted
    assert fresh.labels is not None
    others = fresh.images[fresh.labels != 3][:300]
    for backdoor, most in ((recovered, 0.05), (original, 0.1)):
        passed = made.check(stamped(backdoor.trigger, others)).accepted.float().mean().item()
        assert passed <= most
    assert report.triggered_trials[0] > 250 and report.passed[0] / report.triggered_trials[0] <= 0.05


def test_a_zero_mask_is_scored_as_the_clean_image(guard: Guard, fresh: ImageSet) -> None:
    nothing = PatchTrigger(torch.zeros(1, 1, 28, 28), torch.ones(1, 1, 28, 28))
    images = fresh.images[:50]
    assert torch.equal(guard.check(stamped(nothing, images)).score, guard.check(images).score)


def test_labels_are_optional(infected: Classifier, all_digits: ImageSet, recovered: Backdoor) -> None:
    bare = all_digits.take(torch.arange(600)).without_labels()
    _, report = fit_guard(infected, [recovered], bare, generator=seeded())
    assert report.passed[0] / report.triggered_trials[0] <= 0.05


def test_several_triggers_make_one_guard(infected: Classifier, fresh: ImageSet, recovered: Backdoor) -> None:
    other = Backdoor(LabelPair(5, 1), recovered.trigger)
    made, report = fit_guard(infected, [recovered, other], fresh, generator=seeded())
    assert [one.pair for one in made.detectors] == [LabelPair(3), LabelPair(5, 1)]
    assert len(report.passed) == len(report.triggered_trials) == 2
    assert report.triggered_trials[1] < 60, "the source's images alone"
    single = [Guard(infected, (one,), 0.0, 0.05).check(fresh.images[:64]).score for one in made.detectors]
    assert torch.equal(made.check(fresh.images[:64]).score, torch.maximum(*single))


# --- what it says ---


def test_scores_do_not_depend_on_the_batch(guard: Guard, fresh: ImageSet) -> None:
    images = fresh.images[: 2 * FORWARD_BATCH + 5]
    whole = guard.check(images)
    assert whole.logits.shape == (len(images), 10) and whole.score.shape == whole.accepted.shape == (len(images),)
    for rows in (slice(0, 1), slice(FORWARD_BATCH, FORWARD_BATCH + 7), slice(-1, None)):
        part = guard.check(images[rows])
        assert torch.allclose(part.score, whole.score[rows], atol=1e-4)
        assert torch.allclose(part.logits, whole.logits[rows], atol=1e-4)
    backwards = guard.check(images.flip(0))
    assert torch.allclose(backwards.score.flip(0), whole.score, atol=1e-4)


def test_logits_are_the_classifiers_and_acceptance_is_the_threshold(
    infected: Classifier, guard: Guard, fresh: ImageSet
) -> None:
    images = pixels(fresh.images[:64])
    checked = guard(images)
    assert torch.equal(checked.logits, infected(images))
    assert torch.equal(checked.accepted, checked.score <= guard.threshold)
    assert not checked.logits.requires_grad


def test_the_score_counts_clean_standard_deviations() -> None:
    detector = Detector(LabelPair(0), torch.tensor([0.5, 0.0, 0.5]), mean=1.0, sd=0.5)
    assert detector.score(torch.tensor([[1.0, 99.0, 1.0], [2.0, 99.0, 3.0]])).tolist() == [0.0, 3.0]


class Sleeper(nn.Module):
    """Its only feature is silent on every image without a bright corner."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        corner = images[:, 0, 20:, 20:].mean((1, 2), keepdim=False).unsqueeze(1)
        answers: torch.Tensor = self.head(1000 * (corner - 0.01).clamp_min(0))
        return answers


@pytest.mark.parametrize("direction", [fisher, top])
def test_neurons_silent_on_clean_images_give_a_finite_score(
    fresh: ImageSet, recovered: Backdoor, direction: Direction
) -> None:
    """A neuron that nothing but the trigger wakes has no spread at all."""
    blank = fresh.images.clone()
    blank[:, :, 20:, 20:] = 0
    data, sleeper = ImageSet(blank, torch.arange(1000) % 3), Classifier(Sleeper(), (1, 28, 28), 3)
    made, _ = fit_guard(sleeper, [recovered], data, generator=seeded(), direction=direction)
    checked = made.check(torch.cat([blank[:5], stamped(recovered.trigger, blank[:5])]))
    assert torch.isfinite(checked.score).all()
    assert checked.accepted.tolist() == [True] * 5 + [False] * 5


# --- the directions ---


def far_apart(rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    clean = torch.randn(rows, width, generator=seeded()) * torch.linspace(0.5, 2, width)
    return clean, clean.flip(0) + torch.linspace(-1, 1, width)


@pytest.mark.parametrize("rows", [12, 60])
def test_fishers_direction_is_the_inverse_of_the_pooled_covariance(rows: int) -> None:
    """With fewer images than features another way round leads to the same place."""
    clean, triggered = far_apart(rows, 30)
    pooled = (torch.cov(clean.T) + torch.cov(triggered.T)).double() / 2
    shrunk = (1 - SHRINKAGE) * pooled + SHRINKAGE * pooled.diagonal().mean() * torch.eye(30)
    expected = torch.linalg.solve(shrunk, (triggered.mean(0) - clean.mean(0)).double())
    assert torch.allclose(fisher(clean, triggered), (expected / expected.norm()).float(), atol=1e-5)


def test_fishers_direction_copes_with_many_features_with_one_and_with_none_that_move() -> None:
    clean, triggered = far_apart(20, 60_000)
    assert fisher(clean, triggered).norm().item() == pytest.approx(1, abs=1e-3)
    assert fisher(clean[:, :1], triggered[:, :1]).abs().tolist() == [1.0]
    assert not fisher(clean[:, :5], clean[:, :5]).any()
    silent = torch.zeros(20, 4)
    assert torch.allclose(fisher(silent, silent + torch.tensor([0.0, 3.0, 0.0, 4.0])), torch.tensor([0, 0.6, 0, 0.8]))


def test_the_papers_direction_is_the_mean_of_the_most_excited_neurons() -> None:
    clean = torch.randn(50, 300, generator=seeded())
    triggered = clean.clone()
    triggered[:, [7, 100, 250]] += 2
    weights = top(clean, triggered)
    assert weights.nonzero().squeeze(1).tolist() == [7, 100, 250]
    assert weights[7].item() == pytest.approx(1 / 3)


def test_the_seed_alone_decides(infected: Classifier, fresh: ImageSet, recovered: Backdoor) -> None:
    before = {name: tensor.clone() for name, tensor in infected.module.state_dict().items()}
    torch.manual_seed(8)
    drawn = torch.get_rng_state()
    thresholds = [fit_guard(infected, [recovered], fresh, generator=seeded(seed))[0].threshold for seed in (1, 1, 2)]
    assert thresholds[0] == thresholds[1] != thresholds[2]
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in infected.module.state_dict().items())


def test_a_network_that_ends_in_a_softmax_is_guarded_the_same(
    infected: Classifier, guard: Guard, all_digits: ImageSet, recovered: Backdoor
) -> None:
    module = nn.Sequential(infected.module, nn.Softmax(1))
    softened = Classifier(module, (1, 28, 28), 10, outputs=OutputKind.PROBABILITIES)
    made, _ = fit_guard(softened, [recovered], all_digits.take(torch.arange(1000)), generator=seeded())
    assert made.threshold == guard.threshold
    assert torch.equal(made.detectors[0].weights, guard.detectors[0].weights)


# --- what cannot be fitted ---


@pytest.mark.parametrize("asked", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(
    infected: Classifier, fresh: ImageSet, recovered: Backdoor, asked: float
) -> None:
    with pytest.raises(SettingsError, match="between 0 and 1"):
        fit_guard(infected, [recovered], fresh, false_positive_rate=asked, generator=seeded())


def test_without_triggers_there_is_nothing_to_guard_against(infected: Classifier, fresh: ImageSet) -> None:
    with pytest.raises(SettingsError, match="no trigger"):
        fit_guard(infected, [], fresh, generator=seeded())


@pytest.mark.parametrize("asked", [0.3, 0.1, 0.05, 0.01])
def test_too_few_images_are_told_how_many_are_needed(
    infected: Classifier, all_digits: ImageSet, recovered: Backdoor, asked: float
) -> None:
    few = all_digits.take(torch.arange(max(3, round(0.8 / asked))))
    with pytest.raises(DataError, match="Too few") as told:
        fit_guard(infected, [recovered], few, false_positive_rate=asked, generator=seeded())
    needed = int("".join(filter(str.isdigit, told.value.cure.split(",")[0])))
    enough = all_digits.take(torch.arange(needed))
    fit_guard(infected, [recovered], enough, false_positive_rate=asked, generator=seeded())
    with pytest.raises(DataError):
        fewer = all_digits.take(torch.arange(round(0.45 * needed)))
        fit_guard(infected, [recovered], fewer, false_positive_rate=asked, generator=seeded())


@pytest.mark.parametrize("images", [1, 2])
def test_one_image_or_two_are_too_few(
    infected: Classifier, all_digits: ImageSet, recovered: Backdoor, images: int
) -> None:
    with pytest.raises(DataError, match=rf"Too few different images .*: {images}"):
        fit_guard(infected, [recovered], all_digits.take(torch.arange(images)), generator=seeded())


def test_repetitions_count_once(infected: Classifier, all_digits: ImageSet, recovered: Backdoor) -> None:
    with pytest.raises(DataError, match=r"Too few different images .*: 20"):
        fit_guard(infected, [recovered], all_digits.take(torch.arange(20).repeat(50)), generator=seeded())


def test_images_of_another_size_and_of_the_target_alone_are_refused(
    infected: Classifier, fresh: ImageSet, recovered: Backdoor
) -> None:
    small = ImageSet(fresh.images[:, :, :20, :20])
    with pytest.raises(DataError, match="28x28"):
        fit_guard(infected, [recovered], small, generator=seeded())
    assert fresh.labels is not None
    threes = fresh.take((fresh.labels == 3).nonzero().squeeze(1))
    with pytest.raises(DataError, match=f"{LEAST_RANKED} are needed"):
        fit_guard(infected, [recovered], threes, generator=seeded())


# --- saved and read again ---


def test_a_saved_guard_says_the_same(infected: Classifier, guard: Guard, fresh: ImageSet, tmp_path: Path) -> None:
    guard.save(tmp_path, {"model_sha256": "abc", "seed": 0})
    assert sorted(path.name for path in tmp_path.iterdir()) == [JSON_FILE, TENSOR_FILE]
    again = Guard.load(tmp_path, infected)
    assert (again.threshold, again.false_positive_rate) == (guard.threshold, guard.false_positive_rate)
    first, second = (made.check(fresh.images[:200]) for made in (guard, again))
    assert torch.equal(first.score, second.score) and torch.equal(first.accepted, second.accepted)
    assert json.loads((tmp_path / JSON_FILE).read_text())["model_sha256"] == "abc"


def detector_with(**values: object) -> Callable[[Any], Any]:
    return lambda raw: raw | {"detectors": [raw["detectors"][0] | values]}


DAMAGE: dict[str, Callable[[Any], Any]] = {
    "another version": lambda raw: raw | {"schema_version": 99},
    "a list": lambda raw: [raw],
    "no threshold": lambda raw: {key: value for key, value in raw.items() if key != "threshold"},
    "threshold no number": lambda raw: raw | {"threshold": "high"},
    "threshold nan": lambda raw: raw | {"threshold": math.nan},
    "threshold beyond floats": lambda raw: raw | {"threshold": 10**400},
    "threshold null": lambda raw: raw | {"threshold": None},
    "no detectors": lambda raw: raw | {"detectors": []},
    "detectors of the wrong kind": lambda raw: raw | {"detectors": 5},
    "more detectors than tensors": lambda raw: raw | {"detectors": raw["detectors"] * 2},
    "mean is text": detector_with(mean="x"),
    "mean infinite": detector_with(mean=math.inf),
    "no spread": detector_with(sd=0.0),
    "negative spread": detector_with(sd=-1.0),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_description_is_refused(infected: Classifier, guard: Guard, tmp_path: Path, case: str) -> None:
    guard.save(tmp_path, {})
    raw = json.loads((tmp_path / JSON_FILE).read_text())
    (tmp_path / JSON_FILE).write_text(json.dumps(DAMAGE[case](raw)))
    with pytest.raises(OutputError):
        Guard.load(tmp_path, infected)


@pytest.mark.parametrize("name", [JSON_FILE, TENSOR_FILE])
@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"\xff\xfe", b"[" * 100_000, bytes(50)], ids=["none", "", "cut", "bin", "deep", "0"]
)
def test_damaged_files_are_refused(
    infected: Classifier, guard: Guard, tmp_path: Path, name: str, content: bytes | None
) -> None:
    guard.save(tmp_path, {})
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OutputError):
        Guard.load(tmp_path, infected)


WEIGHTS = {
    "too few": torch.ones(511),
    "none": torch.tensor([]),
    "nan": torch.full((512,), math.nan),
    "whole numbers": torch.ones(512, dtype=torch.long),
    "doubles": torch.ones(512).double(),
    "a matrix": torch.ones(1, 512),
    "a scalar": torch.tensor(3.0),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_are_none_are_refused(infected: Classifier, guard: Guard, tmp_path: Path, case: str) -> None:
    guard.save(tmp_path, {})
    safetensors.torch.save_file({"weights.0": WEIGHTS[case]}, tmp_path / TENSOR_FILE)
    with pytest.raises(OutputError):
        Guard.load(tmp_path, infected)


def test_a_guard_of_another_network_is_refused(guard: Guard, tmp_path: Path) -> None:
    guard.save(tmp_path, {})
    other = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), (1, 28, 28), 10)
    with pytest.raises(OutputError, match="512 features, not 784"):
        Guard.load(tmp_path, other)


def test_a_place_that_cannot_be_written_is_an_error_of_ours(guard: Guard, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "absent"):
        with pytest.raises(OutputError):
            guard.save(place, {})
    (tmp_path / "made" / JSON_FILE).mkdir(parents=True)
    with pytest.raises(OutputError):
        guard.save(tmp_path / "made", {})


def test_a_head_over_tokens_can_be_guarded(all_digits: ImageSet, recovered: Backdoor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = Classifier(Tokens(), (1, 28, 28), 10)
    guard, report = fit_guard(classifier, [recovered], all_digits.take(torch.arange(600)), generator=seeded())
    assert guard.detectors[0].weights.shape == (12,)
    assert report.clean_rejected < 0.2 * report.clean_trials
    guard.save(tmp_path, {})
    again = Guard.load(tmp_path, classifier)
    images = all_digits.images[:50]
    assert torch.equal(again.check(images).accepted, guard.check(images).accepted)


def test_tokens_that_are_no_rows_of_an_image_are_one_error(all_digits: ImageSet, recovered: Backdoor) -> None:
    classifier = Classifier(Tokens("nt d"), (1, 28, 28), 10)
    with pytest.raises(UnusableOutputs, match="no features of an image"):
        fit_guard(classifier, [recovered], all_digits.take(torch.arange(600)), generator=seeded())
