"""The table of docs/scale.md is that of the recorded rows."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_speed_table_is_that_of_the_recorded_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    sys.modules.pop("speed", None)
    import speed

    rows = speed.read(ROOT / "benchmarks" / "results" / "speed.jsonl")
    assert rows
    assert speed.markdown(rows) in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
