"""Which label pairs have a trigger smaller than source and target explain.

Sizes of triggers from one class to another differ by their source and their target far more than by anything else:
some source classes are easy to perturb whatever the target. What both explain is taken out (a two-way layout without
interaction, cells may be missing; Scheffe 1959, The Analysis of Variance, chapter 4), and what is left is tested:

    log size_st = m + a_s + b_t + e_st

1. A pair is compared with the fit of the reference pairs without it. With X the n' rows of the fit, r its rank, x the
   row of the pair and the fit's residual spread sd, its leave-one-out (externally studentised) residual is

       t = (fit_st - log size_st) / (sd sqrt(1 + x' (X'X)^- x)),     T of Student's t with n' - r degrees of freedom
       p = M P(T > t)

   by Bonferroni over all M pairs that could have been the smallest (Stefansky 1972, Technometrics 14:469, and Cook and
   Weisberg 1982, Residuals and Influence in Regression, 2.2). M counts every pair that anything was chosen from. A
   pair that was chosen because it was small is thereby held to the level that all of them together would have had,
   and the bound holds however the choice was made, as long as the reference was drawn before any result.
2. One-sided and generalised as in `outlier`: the most suspicious pair is taken out of the fit, then the next, up to a
   quarter of the pairs or one a label, whichever is more; the last one whose p is small is flagged with all before it.
   Planted pairs do not set their own reference and do not hide each other (Rosner 1983, Technometrics 25:165).
   Every step is another chance of a false alarm, which counts where pairs are few: unpaid for, the rate would be twice
   alpha for 20 pairs, and alpha from some 90 on (simulated; tests/detection/statistics/test_pairs.py).
   A factor on p pays for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from neural_cleanse.detection.statistics.outlier import NO_SPREAD, Floats, log_sizes
from neural_cleanse.distributions import student_t_isf, student_t_sf

LEAST_DOF = 4  # of a pair's reference; four labels, whose 12 pairs have 7 effects, leave just so many
FEW = 20  # pairs up to which every p is doubled to pay for the steps; the payment fades as 1/n beyond
SUSPECTS, MOST_SUSPECTS = 0.25, 100  # share and number of the pairs that may be taken out of the fit
POLISHED = 4  # rounds of the median polish: more change the order of few pairs
DETERMINED = 1e-8  # of 1 - leverage: under it the pair alone fixes an effect and has no residual
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PairTest:
    """What the test says of each pair, in the order given, and of the model.

    `limits` are the sizes in px under which a pair would have been flagged; where a pair's effects cannot be told from
    the others its p-value and its limit are None.
    """

    residuals: tuple[float | None, ...]  # leave-one-out t against the pairs not flagged, positive = too small
    p_values: tuple[float | None, ...]
    p_value: float  # of the model
    flagged: tuple[int, ...]  # positions, the most suspicious first
    limits: tuple[float | None, ...]


def pair_outlier_test(
    sources: Sequence[int],
    targets: Sequence[int],
    sizes: Sequence[float],
    alpha: float,
    reference: Sequence[bool] | None = None,
    candidates: int | None = None,
) -> PairTest:
    """Test the sizes of label pairs; `reference` None: each is compared with all others.

    `candidates` is the number of pairs out of which these were taken, None for these alone.
    """
    if not len(sizes):
        return PairTest((), (), 1.0, (), ())
    logs = log_sizes(sizes)
    fit = _Fit.of(two_way_design(sources, targets), logs, np.ones(len(logs), bool) if reference is None else reference)
    count = max(len(logs), candidates or 0)
    steps = _esd(fit, count, min(MOST_SUSPECTS, max(int(SUSPECTS * len(logs)), len(set(targets)))))
    p_values: list[float | None] = [1.0 if known else None for known in fit.known]
    for position, _, p in steps:
        p_values[position] = p
    flagged = tuple(position for position, _, p in steps if p <= alpha)
    for position in flagged:
        fit = fit.without(position)
    error, spread, stretch = fit.against_others()
    residuals = error / (np.maximum(spread, NO_SPREAD) * stretch)
    limits = _limits(fit, alpha / (count * _penalty(len(logs))))
    return PairTest(
        residuals=tuple(float(t) if known else None for t, known in zip(residuals, fit.known, strict=True)),
        p_values=tuple(p_values),
        p_value=min((p for _, _, p in steps), default=1.0),
        flagged=flagged,
        limits=tuple(limits),
    )


def two_way_residuals(sources: Sequence[int], targets: Sequence[int], values: Sequence[float] | Floats) -> Floats:
    """What source and target leave unexplained, by medians (Tukey's median polish): for an order, not for a test."""
    left = np.asarray(values, dtype=np.float64).copy()
    for _ in range(POLISHED):
        for labels in (np.asarray(sources), np.asarray(targets)):
            for label in np.unique(labels):
                left[labels == label] -= np.median(left[labels == label])
    return left


@dataclass(frozen=True)
class _Fit:
    """A least-squares fit to the pairs `inside`, and what it takes to hold every pair against it.

    `inverse` is (X'X)^-, brought up to date by Sherman and Morrison's formula as pairs leave; `known` marks pairs both
    of whose effects the fit can tell.
    """

    design: Floats
    logs: Floats
    inside: Flags
    known: Flags
    inverse: Floats
    rank: int

    @classmethod
    def of(cls, design: Floats, logs: Floats, inside: Sequence[bool] | Flags) -> "_Fit":
        chosen = np.asarray(inside, dtype=bool)
        rows = design[chosen]
        inverse = np.linalg.pinv(rows.T @ rows, hermitian=True)
        outside_space = design - design @ (inverse @ (rows.T @ rows))
        known = np.abs(outside_space).max(1, initial=0.0) < DETERMINED**0.5
        rank = int(np.linalg.matrix_rank(rows)) if len(rows) else 0
        fit = cls(design, logs, chosen, known, np.asarray(inverse, dtype=np.float64), rank)
        # A pair that fixes an effect alone has no residual.
        return cls(design, logs, chosen, known & ~(chosen & (fit.leverage() > 1 - DETERMINED)), fit.inverse, rank)

    def leverage(self) -> Floats:
        """x' (X'X)^- x for every pair."""
        return np.asarray(((self.design @ self.inverse) * self.design).sum(1), dtype=np.float64)

    def without(self, position: int) -> "_Fit":
        """The fit to the other pairs."""
        if not self.inside[position]:
            return self
        inside = self.inside.copy()
        inside[position] = False
        moved = self.inverse @ self.design[position]
        left = 1 - float(self.design[position] @ moved)
        return replace(self, inside=inside, inverse=self.inverse + np.outer(moved, moved) / left)

    def against_others(self) -> tuple[Floats, Floats, Floats]:
        """Fit without the pair itself minus its log size, the spread around that fit, and what stretches it there."""
        centred = self.logs - (self.logs[self.inside].mean() if self.inside.any() else 0.0)
        beta = self.inverse @ (self.design[self.inside].T @ centred[self.inside])
        error, leverage = self.design @ beta - centred, self.leverage()
        left = np.where(self.inside, np.maximum(1 - leverage, DETERMINED), 1.0)
        squares = float((error[self.inside] ** 2).sum()) - np.where(self.inside, error**2 / left, 0.0)
        dof = np.maximum(int(self.inside.sum()) - self.rank - self.inside, 1)
        stretch = np.where(self.inside, 1 / left, 1 + leverage)  # 1 + x' (X'X)^- x of the fit without the pair
        return error / left, np.sqrt(np.maximum(squares, 0.0) / dof), np.sqrt(stretch)

    def dof(self, position: int) -> int:
        """Degrees of freedom of a pair's reference."""
        return int(self.inside.sum()) - self.rank - int(self.inside[position])


def two_way_design(sources: Sequence[int], targets: Sequence[int]) -> Floats:
    """A column a source and one a target; the mean is in their span."""
    columns = [np.unique(labels, return_inverse=True)[1] for labels in (sources, targets)]
    widths = [int(column.max(initial=-1)) + 1 for column in columns]
    return np.hstack([np.eye(width)[column] for width, column in zip(widths, columns, strict=True)])


def _esd(fit: _Fit, count: int, most: int) -> list[tuple[int, float, float]]:
    """(position, t, p) of the suspects in the order in which they leave; p non-decreasing."""
    steps: list[tuple[int, float, float]] = []
    open_ = fit.known.copy()
    for _ in range(most):
        error, spread, stretch = fit.against_others()
        t = np.where(open_, error / (np.maximum(spread, NO_SPREAD) * stretch), -math.inf)
        position = int(t.argmax())
        if not open_[position] or fit.dof(position) < LEAST_DOF or spread[position] <= NO_SPREAD:
            break
        p = count * _penalty(len(t)) * student_t_sf(float(t[position]), fit.dof(position))
        steps.append((position, float(t[position]), min(1.0, p)))
        open_[position] = False
        fit = fit.without(position)
        open_ &= ~(fit.inside & (fit.leverage() > 1 - DETERMINED))
    least = 1.0
    for index in reversed(range(len(steps))):
        least = min(least, steps[index][2])
        steps[index] = (*steps[index][:2], least)
    return steps


def _penalty(num_pairs: int) -> float:
    """The factor on p that keeps the rate of all steps together at alpha."""
    return 1 + min(1.0, FEW / num_pairs)


def _limits(fit: _Fit, level: float) -> list[float | None]:
    """The size under which each pair would have been flagged, those flagged already left out of the fit."""
    error, spread, stretch = fit.against_others()
    expected = error + fit.logs
    quantiles: dict[int, float] = {}
    limits: list[float | None] = []
    for position, known in enumerate(fit.known):
        dof = fit.dof(position)
        if not known or dof < LEAST_DOF or spread[position] <= NO_SPREAD:
            limits.append(None)
            continue
        if dof not in quantiles:
            quantiles[dof] = student_t_isf(level, dof)
        limits.append(math.exp(float(expected[position] - quantiles[dof] * spread[position] * stretch[position])))
    return limits
