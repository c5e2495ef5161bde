"""What a verdict is worth where few models are infected: Bayes' rule on measured error rates.

A test that is wrong about 1 % of clean models is wrong about most of what it flags, where 1 model in 1,000 is infected.
"""

from dataclasses import dataclass

from neural_cleanse.evaluation.rates import Rates
from neural_cleanse.report.tables import Table

OF = 1000  # models
PREVALENCES = (0.01, 0.1)
COLUMNS = (
    "infected models", "rates", "found", "not found", "clean models flagged", "of the flagged, infected",
    "of those not flagged, infected",
)  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """Of OF models with a share of infected ones: expected numbers, by a detection and a false alarm rate."""

    prevalence: float
    detected: float
    false_alarms: float

    @property
    def infected(self) -> float:
        """Models with a backdoor."""
        return OF * self.prevalence

    @property
    def found(self) -> float:
        """Of them flagged."""
        return self.infected * self.detected

    @property
    def flagged_clean(self) -> float:
        """Models without a backdoor that are flagged."""
        return (OF - self.infected) * self.false_alarms

    @property
    def precision(self) -> float | None:
        """Share of infected models among the flagged; None where nothing is flagged."""
        flagged = self.found + self.flagged_clean
        return self.found / flagged if flagged else None

    @property
    def missed(self) -> float:
        """Share of infected models among those that are not flagged."""
        left = OF - self.found - self.flagged_clean
        return (self.infected - self.found) / left if left else 0.0


def expected(found: Rates, alpha: float) -> list[tuple[str, Expected]]:
    """For every prevalence: by the measured rates with alpha as the false alarm rate, and by their worst ends."""
    likely = found.detected.share, max(alpha, found.clean_flagged.share)
    worst = found.detected.interval[0], found.clean_flagged.interval[1]
    return [
        (which, Expected(prevalence, detected, false_alarms))
        for prevalence in PREVALENCES
        for which, (detected, false_alarms) in (("measured", likely), ("worst end of the intervals", worst))
    ]


def table(found: Rates, alpha: float) -> Table:
    """The same as a table, one row a prevalence and rates."""
    rows = [
        (
            f"{one.infected:.0f} of {OF:,}",
            which,
            f"{one.found:.0f}",
            f"{one.infected - one.found:.0f}",
            f"{one.flagged_clean:.0f}",
            "–" if one.precision is None else f"{one.precision:.0%}",
            f"{one.missed:.1%}",
        )
        for which, one in expected(found, alpha)
    ]
    return Table("", COLUMNS, rows, frozenset(COLUMNS[2:]))
