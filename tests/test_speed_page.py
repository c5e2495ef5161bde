"""The table of docs/scale.md is that of the recorded rows."""

from pathlib import Path

import speed
from resumable import rows_in

ROOT = Path(__file__).parents[1]


def test_the_speed_table_is_that_of_the_recorded_rows() -> None:
    rows = rows_in(ROOT / "benchmarks" / "results" / "speed.jsonl")
    assert rows
    assert speed.markdown(rows) in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
