"""Rows of models, one a model file and budget, in a file of JSON lines: what is there already is not done again."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neural_cleanse.evaluation.suite import Case


def lacking(cases: Sequence[Case], rows: Path, budget: object) -> list[Case]:
    """The cases of which the file has no row at that budget."""
    known = {(done["model_sha256"], done["budget"]) for done in rows_in(rows)}
    return [case for case in cases if (hashlib.sha256(case.model.read_bytes()).hexdigest(), budget) not in known]


def rows_in(rows: Path) -> list[dict[str, Any]]:
    """The rows of a file; none where there is none."""
    lines = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
    return [json.loads(line) for line in lines]


def add(row: dict[str, Any], rows: Path) -> None:
    """Write a row behind the others."""
    with rows.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")
