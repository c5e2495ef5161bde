"""The marked places of docs/reproduction.md."""

from reproduce_claims import claims
from reproduce_mitigation import (
    activation_table,
    all_labels,
    filter_table,
    nine_triggers,
    pruning_table,
    unlearning_table,
)
from reproduce_rows import rows_of
from reproduce_tables import ROWS, attacks, missing, norms, rank_table, section_seven


def reproduction() -> dict[str, str]:
    """Every table of the page by the name of its place."""
    found = rows_of(ROWS)
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
        "nine triggers": nine_triggers(),
        "all labels": all_labels(),
        "measured on": measured,
    }
