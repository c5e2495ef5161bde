"""Arguments of another kind than Python's annotations say are told by name, with what to give instead."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import neural_cleanse as nc
from neural_cleanse.api.arguments import expect_count, expect_parts, expect_progress, expect_result, expect_settings
from neural_cleanse.api.form import _names, _normalize, _size, parsed
from neural_cleanse.api.guard import FittedGuard
from neural_cleanse.api.progress import reporting
from neural_cleanse.checks import LARGEST_SEED, expect_rate
from neural_cleanse.detection.progress import Phase, Progress
from neural_cleanse.engines import InProcess
from neural_cleanse.errors import SettingsError
from neural_cleanse.mitigation.repair import RepairSettings


def with_field(settings: Any, name: str, value: object) -> Any:
    """The settings with a field that nothing checked."""
    object.__setattr__(settings, name, value)
    return settings


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expect_parts("patch", None, None, InProcess()), "trigger= is 'patch'.*subclass"),
        (lambda: expect_parts(None, "adam", None, InProcess()), r"inversion= is 'adam'.*nc\.Inversion"),
        (lambda: expect_parts(None, None, "full", InProcess()), r"plan= is 'full'.*nc\.plans"),
        (lambda: expect_parts(None, None, None, "ray"), "engine= is 'ray'"),
        (lambda: expect_result(3, "baseline"), r"baseline= is a int.*nc\.scan"),
        (lambda: expect_progress("yes"), "progress= is 'yes'"),
        (lambda: expect_count(0, "samples", 1), "samples= is 0.*at least 1"),
        (lambda: expect_count("all", "samples", 1), "samples= is 'all'"),
        (lambda: expect_count(True, "seed", 0), "seed= is True"),
        (lambda: expect_settings({"samples": 3}, nc.ScanSettings), r"settings= is.*nc\.ScanSettings"),
        (lambda: expect_settings(nc.ScanSettings(), RepairSettings), r"settings= is.*nc\.RepairSettings"),
        (lambda: _size(28), r"resize=28 is not a size.*\(32, 32\)"),
        (lambda: _size("28x28"), "resize='28x28' is not a size"),
        (lambda: _size((0, 8)), "is not a size"),
        (lambda: _size((10**6, 10**6)), "is not a size"),
        (lambda: _size((8.5, 8)), "is not a size"),
        (lambda: _names("abcde"), "not a list"),
        (lambda: _names(5), "not a list"),
        (lambda: _normalize({"scale": "255"}), "scale= is '255', not a number"),
        (lambda: _normalize({"bgr": "no"}), "bgr= is 'no'.*True or False"),
        (lambda: _normalize({"std": 0.0}), "std and scale must be above 0.*one value, or one a channel"),
    ],
)
def test_an_argument_of_another_kind_is_named_with_what_to_give(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("labels", "3", r"labels='3'\) is a str.*tuple\[int, \.\.\.\] or None"),
        ("labels", (1, "a"), "is a tuple"),
        ("restarts", 1.5, r"restarts=1\.5\) is a float.*int or None"),
        ("pairs", "x", "is a str.*bool"),
    ],
)
def test_a_field_of_settings_of_another_kind_is_named(name: str, value: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        expect_settings(with_field(nc.ScanSettings(), name, value), nc.ScanSettings)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.ScanSettings(samples="5"), "samples='5'"),  # type: ignore[arg-type]
        (lambda: nc.ScanSettings(seed="a"), "seed='a'"),  # type: ignore[arg-type]
        (lambda: nc.ScanSettings(max_seconds="1x"), "max_seconds='1x'"),  # type: ignore[arg-type]
        (lambda: RepairSettings(max_drop=None), "max_drop=None"),  # type: ignore[arg-type]
        (lambda: RepairSettings(rounds="a"), "rounds='a'"),  # type: ignore[arg-type]
        (lambda: nc.ScanSettings(seed=2**63), f"seed {2**63} is not a whole number from 0 to {2**63 - 1}"),
        (lambda: RepairSettings(seed=2**64), f"from 0 to {2**63 - 1}"),
        (lambda: expect_rate("a", "rate"), "rate must lie between 0 and 1, got 'a'"),
        (lambda: expect_rate(None, "rate"), "got None"),
        (lambda: nc.fit_guard(None, None, None, seed=2**64), f"from 0 to {2**63 - 1}"),  # type: ignore[arg-type]
        (lambda: nc.fit_guard(None, None, None, labels=3), "labels= is 3"),  # type: ignore[arg-type]
        (lambda: nc.fit_guard(None, None, None, labels=["a"]), "labels= is"),  # type: ignore[list-item,arg-type]
        (lambda: FittedGuard(None, None, {}).save(None), "directory= is None"),  # type: ignore[arg-type]
    ],
)
def test_settings_of_another_kind_are_told_where_they_are_made(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        call()


def test_the_largest_seed_is_one_that_every_generator_takes() -> None:
    """Also with the few that are added to it for parts of the work."""
    assert nc.ScanSettings(seed=LARGEST_SEED).seed == RepairSettings(seed=LARGEST_SEED).seed == LARGEST_SEED
    torch.Generator().manual_seed(LARGEST_SEED + 1000)


def test_settings_that_fit_pass() -> None:
    settings = with_field(nc.ScanSettings(alpha=0.05, max_seconds=3), "labels", [1, 2])
    assert expect_settings(settings, nc.ScanSettings) is settings
    assert expect_settings(RepairSettings(), RepairSettings) == RepairSettings()


def test_a_number_as_device_is_torchs_number_of_a_gpu() -> None:
    assert parsed({"device": 1}, "scan").device == "cuda:1"  # type: ignore[typeddict-item]


def test_progress_is_sparse_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(True) as report:
        for phase in ("checking the input", "patches"):
            for done in range(500):
                report(Progress(done, 1000, (), 2, phase=Phase(phase, done, 500)))
    assert capsys.readouterr().err.splitlines() == [
        "scan:   0%, checking the input: 0 of 500 labels",
        "scan:   0%, patches: 0 of 500 labels",
    ]
