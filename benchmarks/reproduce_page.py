"""The marked places of docs/reproduction.md."""

from collections.abc import Sequence
from pathlib import Path

from neural_cleanse.evaluation.zoo import read_spec
from reproduce import SPEC, work
from reproduce_claims import claims
from reproduce_mitigation import (
    activation_table,
    all_labels,
    filter_table,
    nine_triggers,
    pruning_table,
    unlearning_table,
)
from reproduce_rows import Row
from reproduce_tables import ROWS, attacks, missing, norms, rank_table, section_seven
from resumable import rows_in


def left(found: Sequence[Row]) -> str:
    """The rows that `make reproduce` would still make, by model and way."""
    known = {(row["model"], row["way"]) for row in found}
    lacking = [one for one in work([job.name for job in read_spec(SPEC, Path())], quick=False) if one not in known]
    if not lacking:
        return "none"
    by_way = {
        way: [model for model, other in lacking if other == way] for way in dict.fromkeys(way for _, way in lacking)
    }
    return "; ".join(f"{way}: {', '.join(models)}" for way, models in by_way.items())


def reproduction() -> dict[str, str]:
    """Every table of the page by the name of its place."""
    found = rows_in(ROWS)
    made = {
        "misses": claims(found, missed=True),
        "claims": claims(found, missed=False),
        "attacks": attacks(found),
        "norms": norms(found),
        "ranks": rank_table(found),
        "activations": activation_table(found),
        "input filter": filter_table(found),
        "pruning": pruning_table(found),
        "unlearning": unlearning_table(),
        "section seven": section_seven(found),
        "missing": missing(),
    }
    measured = "; ".join(sorted({f"{row['hardware']}, {row['threads']} thread, torch {row['torch']}" for row in found}))
    return {name: table.markdown() for name, table in made.items()} | {
        "left": left(found),
        "nine triggers": nine_triggers(),
        "all labels": all_labels(),
        "measured on": measured,
    }
