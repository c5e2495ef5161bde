"""Records to JSON and back: the same record, and never one from values of another type."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from neural_cleanse.results.codec import decode, encode
from neural_cleanse.results.records import Outcome, Verdict


@dataclass(frozen=True)
class Inner:
    """A record in a record, with a tensor that JSON does not hold."""

    label: int
    picture: Tensor
    outcome: Outcome = Outcome.CONVERGED


@dataclass(frozen=True)
class Whole:
    """One field of every kind that results have."""

    verdict: Verdict
    name: str | None
    p_value: float | None
    flagged: tuple[int, ...]
    shape: tuple[int, int, int]
    inner: tuple[Inner, ...]
    counts: dict[str, int] = field(default_factory=dict)
    settings: Any = None
    cut_off: bool = False


PICTURE = torch.zeros(1, 2, 2)
WHOLE = Whole(
    Verdict.INFECTED, None, 1e-7, (3, 1), (1, 28, 28), (Inner(4, PICTURE),), {"train": 7}, {"a": [1, "b"]}, True
)


def as_file(record: Any) -> dict[str, Any]:
    """What a file gives back of a record."""
    values: dict[str, Any] = json.loads(json.dumps(encode(record), allow_nan=False))
    return values


def with_tensors(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"inner": [row | {"picture": PICTURE} for row in values["inner"]]}


def test_a_record_comes_back_as_it_was() -> None:
    values = as_file(WHOLE)
    assert "picture" not in values["inner"][0]
    assert decode(Whole, with_tensors(values)) == WHOLE


def test_numbers_without_a_value_are_null() -> None:
    for number in (float("nan"), float("inf"), -float("inf")):
        assert encode({"a": [number, 1.5]}) == {"a": [None, 1.5]}


def test_defaults_may_lack_and_other_keys_stand_beside() -> None:
    values = with_tensors(as_file(WHOLE)) | {"derived": [1, 2]}
    del values["cut_off"], values["counts"]
    read = decode(Whole, values)
    assert (read.cut_off, read.counts) == (False, {})


@pytest.mark.parametrize(
    "damage",
    [
        {"verdict": "perhaps"},
        {"verdict": None},
        {"name": 3},
        {"p_value": "small"},
        {"p_value": True},
        {"flagged": [1, "2"]},
        {"flagged": 1},
        {"flagged": [1.5]},
        {"shape": [1, 28]},
        {"shape": [1, 28, 28, 28]},
        {"inner": [{"label": 1}]},
        {"inner": [[1]]},
        {"counts": [1]},
        {"counts": {"train": None}},
        {"cut_off": 1},
    ],
    ids=str,
)
def test_damaged_values_make_no_record(damage: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        decode(Whole, with_tensors(as_file(WHOLE)) | damage)


def test_a_lacking_field_is_named() -> None:
    values = with_tensors(as_file(WHOLE))
    del values["shape"]
    with pytest.raises(KeyError, match="shape"):
        decode(Whole, values)
