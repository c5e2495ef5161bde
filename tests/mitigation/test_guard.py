"""The input filter rejects as many clean images as it was asked to, and the images that carry the trigger."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from networks import seeded
from token_network import Tokens
from torch import nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import DataError, OutputError, SettingsError, UnusableOutputs
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.images.load import load_data
from neural_cleanse.metrics import FORWARD_BATCH, pixels, predict, stamped
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.mitigation.guard import JSON_FILE, TENSOR_FILE, Detector, Direction, Guard
from neural_cleanse.mitigation.guard_fitting import CALIBRATED, LEAST_LEARNED, SHRINKAGE, GuardReport, fisher, fit_guard
from neural_cleanse.outputs import OutputKind
from neural_cleanse.results.records import LabelPair
from neural_cleanse.triggers.patch import PatchTrigger


@pytest.fixture(scope="module")
def all_digits(demo_files: Path) -> ImageSet:
    """2,000 real digits in a random order."""
    data = load_data(demo_files / "digits.npz")
    return data.take(torch.randperm(len(data), generator=seeded()))


@pytest.fixture(scope="module")
def recovered(recovered: Backdoor) -> Backdoor:
    """The recovered trigger alone: without a natural size no others are searched for, which takes seconds."""
    return replace(recovered, natural=None)


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


def rates_fit(rejected: int, trials: int, asked: float, calibrated: int) -> bool:
    """Within three standard deviations: the threshold is one of `calibrated` images, the share of `trials`."""
    sd = math.sqrt(asked * (1 - asked) * (1 / (calibrated + 2) + 1 / trials))
    return abs(rejected / trials - asked) < 3 * sd


# --- what it rejects ---


@pytest.mark.parametrize("asked", [0.05, 0.2])
def test_fresh_clean_images_of_the_guarded_label_are_rejected_as_often_as_was_asked(
    infected: Classifier, all_digits: ImageSet, fresh: ImageSet, recovered: Backdoor, asked: float
) -> None:
    known = all_digits.take(torch.arange(1000))
    made, report = fit_guard(infected, [recovered], known, false_positive_rate=asked, generator=seeded(1))
    calibrated = round(CALIBRATED * int((made.check(known.images).logits.argmax(1) == 3).sum()))
    checked = made.check(fresh.images)
    of_label = checked.logits.argmax(1) == 3
    assert rates_fit(int((~checked.accepted & of_label).sum()), int(of_label.sum()), asked, calibrated)
    assert checked.accepted[~of_label].all(), "no other label is guarded"
    assert (report.labels, report.clean_trials) == ((3,), 200)
    assert rates_fit(report.label_rejected[0], report.label_trials[0], asked, calibrated)
    assert report.clean_rejected == report.label_rejected[0]


@pytest.mark.parametrize("asked", [0.05, 0.3])
def test_over_many_guards_the_rate_is_that_of_its_rank(asked: float) -> None:
    """Vovk et al. 2005: with rank r of c calibration images the next image is above it with chance 1 - r / (c + 1)."""
    head = nn.Linear(16, 3, bias=False)
    with torch.no_grad():
        head.weight.zero_()[[0, 1, 2], [0, 6, 10]] = 1.0  # the brightest of three pixels
    classifier = Classifier(nn.Sequential(nn.Flatten(), head), (1, 4, 4), 3)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 0, 0] = 1
    backdoor = Backdoor(LabelPair(0), PatchTrigger(mask, torch.ones(1, 1, 4, 4)))
    images = torch.randint(0, 256, (6_000, 1, 4, 4), generator=seeded()).to(torch.uint8)
    answers = predict(classifier, images)
    chosen, other = images[answers == 0][:1500], images[answers != 0]
    rejected = trials = 0
    parts = [*zip(chosen.split(100), other.split(30), strict=False)]
    for number, (part, rest) in enumerate(parts):
        data = ImageSet(torch.cat([part, rest]))
        _, report = fit_guard(classifier, [backdoor], data, false_positive_rate=asked, generator=seeded(number))
        rejected, trials = rejected + report.label_rejected[0], trials + report.label_trials[0]
    calibrated = 40
    expected = 1 - math.ceil((1 - asked) * (calibrated + 1)) / (calibrated + 1)
    assert asked - 1 / (calibrated + 1) < expected <= asked, "never more than asked"
    sd = math.sqrt(expected * (1 - expected) * (1 / (calibrated + 2) + 1 / 20) / len(parts))
    assert abs(rejected / trials - expected) < 3 * sd


def test_images_with_the_trigger_are_rejected(
    fitted: tuple[Guard, GuardReport], fresh: ImageSet, recovered: Backdoor, original: Backdoor
) -> None:
    made, report = fitted
    assert fresh.labels is not None
    others = fresh.images[fresh.labels != 3][:300]
    for backdoor in (recovered, original):
        checked = made.check(stamped(backdoor.trigger, others))
        got_label = checked.logits.argmax(1) == 3
        assert got_label.float().mean() > 0.9, "the trigger works"
        assert (checked.accepted & got_label).float().mean() <= 0.02
        assert checked.accepted[~got_label].all(), "what the trigger fails on is no harm"
    assert report.triggered_trials[0] > 150 and report.passed[0] / report.triggered_trials[0] <= 0.02


def test_others_of_the_family_are_learned_from(
    infected: Classifier, all_digits: ImageSet, recovered: Backdoor, original: Backdoor
) -> None:
    """Recovered from the model with the images that are learned from, and put on them beside the known trigger."""
    useless = PatchTrigger(torch.zeros(1, 1, 28, 28), torch.zeros(1, 1, 28, 28))
    known = Backdoor(LabelPair(3), useless, natural=1.5 * recovered.trigger.size().item())
    data = all_digits.take(torch.arange(700))
    with pytest.raises(DataError, match="triggers of label 3 send"):
        fit_guard(infected, [replace(known, natural=None)], data, generator=seeded())
    made, _ = fit_guard(infected, [known], data, generator=seeded())
    assert all_digits.labels is not None
    others = all_digits.images[1000:][all_digits.labels[1000:] != 3][:200]
    checked = made.check(stamped(original.trigger, others))
    assert (checked.accepted & (checked.logits.argmax(1) == 3)).float().mean() <= 0.05


def test_a_zero_mask_is_scored_as_the_clean_image(guard: Guard, fresh: ImageSet) -> None:
    nothing = PatchTrigger(torch.zeros(1, 1, 28, 28), torch.ones(1, 1, 28, 28))
    images = fresh.images[:50]
    assert torch.equal(guard.check(stamped(nothing, images)).score, guard.check(images).score)


def test_labels_are_optional(infected: Classifier, all_digits: ImageSet, recovered: Backdoor) -> None:
    bare = all_digits.take(torch.arange(600)).without_labels()
    _, report = fit_guard(infected, [recovered], bare, generator=seeded())
    assert report.passed[0] / report.triggered_trials[0] <= 0.05


def test_triggers_of_one_label_share_a_detector_and_labels_have_their_own(
    infected: Classifier, fresh: ImageSet, recovered: Backdoor
) -> None:
    whole = torch.zeros(1, 1, 28, 28)
    black = Backdoor(LabelPair(1), PatchTrigger(whole + 1, one_of(fresh, 1)))  # every image becomes that digit
    backdoors = [recovered, Backdoor(LabelPair(3, 7), recovered.trigger), black]
    made, report = fit_guard(infected, backdoors, fresh, generator=seeded())
    assert [one.target for one in made.detectors] == [1, 3] == [*report.labels]
    assert len(report.passed) == len(report.triggered_trials) == 3
    assert report.triggered_trials[1] < 40, "the source's images alone"
    checked = made.check(fresh.images)
    for detector in made.detectors:
        alone = Guard(infected, (detector,), 0.05).check(fresh.images)
        mine = checked.logits.argmax(1) == detector.target
        assert torch.equal(alone.score[mine], checked.score[mine])
        assert (alone.score[~mine] == -math.inf).all() and alone.accepted[~mine].all()


def one_of(data: ImageSet, label: int) -> torch.Tensor:
    assert data.labels is not None
    return pixels(data.images[data.labels == label][:1])


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
    assert torch.equal(checked.accepted, checked.score <= 0)
    assert torch.equal(checked.score > -math.inf, checked.logits.argmax(1) == 3)
    assert not checked.logits.requires_grad


def test_the_score_counts_clean_standard_deviations_above_the_threshold() -> None:
    first = Direction(torch.tensor([0.5, 0.0, 0.5]), mean=1.0, sd=0.5)
    values = torch.tensor([[1.0, 99.0, 1.0], [2.0, 99.0, 3.0]])
    assert first.score(values).tolist() == [0.0, 3.0]
    second = Direction(torch.tensor([1.0]), mean=0.0, sd=1.0)
    detector = Detector(0, (first, second), threshold=2.0)
    assert detector.score((values, torch.tensor([[1.5], [0.0]]))).tolist() == [-0.5, 1.0], "the larger view counts"


class Sleeper(nn.Module):
    """Answers by brightness; one feature is silent on every image without a bright corner, and means label 2."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 1.0]]))
            self.head.bias.copy_(torch.tensor([0.1, 0.0, 0.2]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        corner = 1000 * (images[:, 0, 20:, 20:].mean((1, 2)) - 0.01).clamp_min(0)
        answers: torch.Tensor = self.head(torch.stack([images.mean((1, 2, 3)), corner], 1))
        return answers


def test_neurons_silent_on_clean_images_give_a_finite_score(fresh: ImageSet, recovered: Backdoor) -> None:
    """A neuron that nothing but the trigger wakes has no spread at all."""
    blank = fresh.images.clone()
    blank[:, :, 20:, 20:] = 0
    sleeper = Classifier(Sleeper(), (1, 28, 28), 3)
    backdoor = Backdoor(LabelPair(2), recovered.trigger)
    made, _ = fit_guard(sleeper, [backdoor], ImageSet(blank), generator=seeded())
    others = blank[predict(sleeper, blank) != 2][:5]
    checked = made.check(stamped(recovered.trigger, others))
    assert checked.logits.argmax(1).tolist() == [2] * 5
    assert torch.isfinite(checked.score).all() and not checked.accepted.any()


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


def test_the_seed_alone_decides(infected: Classifier, fresh: ImageSet, recovered: Backdoor) -> None:
    before = {name: tensor.clone() for name, tensor in infected.module.state_dict().items()}
    torch.manual_seed(8)
    drawn = torch.get_rng_state()
    guards = [fit_guard(infected, [recovered], fresh, generator=seeded(seed))[0] for seed in (1, 1, 2)]
    thresholds = [made.detectors[0].threshold for made in guards]
    assert thresholds[0] == thresholds[1] != thresholds[2]
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in infected.module.state_dict().items())


def test_a_network_that_ends_in_a_softmax_is_guarded_the_same(
    infected: Classifier, guard: Guard, all_digits: ImageSet, recovered: Backdoor
) -> None:
    module = nn.Sequential(infected.module, nn.Softmax(1))
    softened = Classifier(module, (1, 28, 28), 10, outputs=OutputKind.PROBABILITIES)
    made, _ = fit_guard(softened, [recovered], all_digits.take(torch.arange(1000)), generator=seeded())
    assert made.detectors[0].threshold == pytest.approx(guard.detectors[0].threshold, abs=0.3)
    images = all_digits.images[1000:1400]
    assert (made.check(images).accepted == guard.check(images).accepted).float().mean() > 0.98


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


@pytest.mark.parametrize("asked", [0.3, 0.1, 0.05])
def test_too_few_images_of_the_label_are_told_how_many_are_needed(
    infected: Classifier, all_digits: ImageSet, recovered: Backdoor, asked: float
) -> None:
    answers = predict(infected, all_digits.images)
    mine, others = ((answers == 3).nonzero().squeeze(1), (answers != 3).nonzero().squeeze(1)[:200])
    few = all_digits.take(torch.cat([mine[:5], others]))
    with pytest.raises(DataError, match="gives 5 different images the guarded label 3") as told:
        fit_guard(infected, [recovered], few, false_positive_rate=asked, generator=seeded())
    needed = int(re.findall(r"(\d+) are needed", str(told.value))[0])
    fit_guard(
        infected, [recovered], all_digits.take(torch.cat([mine[:needed], others])), false_positive_rate=asked,
        generator=seeded(),
    )  # fmt: skip


def test_repetitions_count_once(infected: Classifier, all_digits: ImageSet, recovered: Backdoor) -> None:
    with pytest.raises(DataError, match=r"gives \d different images"):
        fit_guard(infected, [recovered], all_digits.take(torch.arange(20).repeat(50)), generator=seeded())


def test_images_of_another_size_and_of_the_target_alone_are_refused(
    infected: Classifier, fresh: ImageSet, recovered: Backdoor
) -> None:
    small = ImageSet(fresh.images[:, :, :20, :20])
    with pytest.raises(DataError, match="28x28"):
        fit_guard(infected, [recovered], small, generator=seeded())
    assert fresh.labels is not None
    threes = fresh.take((fresh.labels == 3).nonzero().squeeze(1))
    with pytest.raises(DataError, match=f"{LEAST_LEARNED} are needed"):
        fit_guard(infected, [recovered], threes, generator=seeded())


# --- saved and read again ---


def test_a_saved_guard_says_the_same(infected: Classifier, guard: Guard, fresh: ImageSet, tmp_path: Path) -> None:
    guard.save(tmp_path, {"model_sha256": "abc", "seed": 0})
    assert sorted(path.name for path in tmp_path.iterdir()) == [JSON_FILE, TENSOR_FILE]
    again = Guard.load(tmp_path, infected)
    assert again.false_positive_rate == guard.false_positive_rate
    first, second = (made.check(fresh.images[:200]) for made in (guard, again))
    assert torch.equal(first.score, second.score) and torch.equal(first.accepted, second.accepted)
    assert json.loads((tmp_path / JSON_FILE).read_text())["model_sha256"] == "abc"


def detector_with(**values: object) -> Callable[[Any], Any]:
    return lambda raw: raw | {"detectors": [raw["detectors"][0] | values]}


def view_with(**values: object) -> Callable[[Any], Any]:
    def damaged(raw: Any) -> Any:
        first, *others = raw["detectors"][0]["views"]
        return detector_with(views=[first | values, *others])(raw)

    return damaged


DAMAGE: dict[str, Callable[[Any], Any]] = {
    "another version": lambda raw: raw | {"schema_version": 1},
    "a list": lambda raw: [raw],
    "no rate": lambda raw: {key: value for key, value in raw.items() if key != "false_positive_rate"},
    "threshold no number": detector_with(threshold="high"),
    "threshold nan": detector_with(threshold=math.nan),
    "threshold beyond floats": detector_with(threshold=10**400),
    "threshold null": detector_with(threshold=None),
    "target is text": detector_with(target="3"),
    "target is a truth value": detector_with(target=True),
    "target below the labels": detector_with(target=-1),
    "target beyond the labels": detector_with(target=99),
    "target beyond whole numbers": detector_with(target=10**30),
    "threshold is a truth value": detector_with(threshold=True),
    "no views": detector_with(views=[]),
    "an unknown view": view_with(name="pixels"),
    "no detectors": lambda raw: raw | {"detectors": []},
    "detectors of the wrong kind": lambda raw: raw | {"detectors": 5},
    "more detectors than tensors": lambda raw: raw | {"detectors": raw["detectors"] * 2},
    "mean is text": view_with(mean="x"),
    "mean infinite": view_with(mean=math.inf),
    "no spread": view_with(sd=0.0),
    "negative spread": view_with(sd=-1.0),
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
    tensors = safetensors.torch.load_file(tmp_path / TENSOR_FILE)
    safetensors.torch.save_file(tensors | {"weights.0.features": WEIGHTS[case]}, tmp_path / TENSOR_FILE)
    with pytest.raises(OutputError):
        Guard.load(tmp_path, infected)


def test_a_guard_of_another_network_is_refused(guard: Guard, tmp_path: Path) -> None:
    guard.save(tmp_path, {})
    other = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), (1, 28, 28), 10)
    with pytest.raises(OutputError, match=r"\[512, 32\] values of .*, not \[784\]"):
        Guard.load(tmp_path, other)


def test_a_place_that_cannot_be_written_is_an_error_of_ours(guard: Guard, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "absent"):
        with pytest.raises(OutputError):
            guard.save(place, {})
    (tmp_path / "made" / JSON_FILE).mkdir(parents=True)
    with pytest.raises(OutputError):
        guard.save(tmp_path / "made", {})


def test_a_head_over_tokens_can_be_guarded(all_digits: ImageSet, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = Classifier(Tokens(), (1, 28, 28), 10)
    images = all_digits.take(torch.arange(600))
    most = int(predict(classifier, images.images).mode().values)
    white = PatchTrigger(
        torch.ones(1, 1, 28, 28), pixels(images.images[predict(classifier, images.images) == most][:1])
    )
    backdoor = Backdoor(LabelPair(most), white)
    guard, report = fit_guard(classifier, [backdoor], images, generator=seeded())
    assert guard.detectors[0].directions[0].weights.shape == (12,)
    assert report.clean_rejected < 0.2 * report.clean_trials
    guard.save(tmp_path, {})
    again = Guard.load(tmp_path, classifier)
    images = all_digits.images[:50]
    assert torch.equal(again.check(images).accepted, guard.check(images).accepted)


def test_tokens_that_are_no_rows_of_an_image_are_one_error(all_digits: ImageSet, recovered: Backdoor) -> None:
    classifier = Classifier(Tokens("nt d"), (1, 28, 28), 10)
    with pytest.raises(UnusableOutputs, match="no features of an image"):
        fit_guard(classifier, [recovered], all_digits.take(torch.arange(600)), generator=seeded())
