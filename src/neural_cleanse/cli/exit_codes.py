"""Exit codes that mean a verdict. 2 is every fault, 130 an interruption; docs/ci.md has the table of all commands."""

from enum import StrEnum

from neural_cleanse.results.records import Verdict
from neural_cleanse.results.repair import RepairStatus

INTERRUPTED = 130  # 128 + SIGINT, as a shell says it
SCAN = {Verdict.CLEAN: 0, Verdict.INFECTED: 1, Verdict.INCONCLUSIVE: 3}
REPAIR = {RepairStatus.REPAIRED: 0, RepairStatus.FAILED: 3, RepairStatus.NOTHING_TO_REPAIR: 3}


class FailOn(StrEnum):
    """The mildest verdict that fails a job."""

    infected = "infected"
    inconclusive = "inconclusive"


def of_scan(verdict: Verdict, fail_on: FailOn) -> int:
    """The code of a verdict; with `infected` a scan that could not tell fails no job."""
    return 0 if verdict is Verdict.INCONCLUSIVE and fail_on is FailOn.infected else SCAN[verdict]
