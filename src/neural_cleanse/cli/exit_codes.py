"""Exit codes of all commands; docs/results.md has the table. Keys are the values of Verdict and RepairStatus."""

from enum import StrEnum

OK = 0
ERROR = 2  # every fault, the user's or ours
FINDINGS = 1  # of inspect
REJECTED = 1  # of guard check: more images than --at-most
WRONG = 1  # of demo: an answer that its card contradicts
INTERRUPTED = 130  # 128 + SIGINT, as a shell says it
SCAN = {"clean": 0, "infected": 1, "inconclusive": 3}
REPAIR = {"repaired": 0, "failed": 3, "nothing_to_repair": 3}


class FailOn(StrEnum):
    """Lowest verdict with a non-zero exit code."""

    infected = "infected"
    inconclusive = "inconclusive"


def of_scan(verdict: str, fail_on: FailOn) -> int:
    """The code of a verdict; with `infected` an inconclusive scan does not fail a job."""
    return 0 if verdict == "inconclusive" and fail_on is FailOn.infected else SCAN[verdict]
