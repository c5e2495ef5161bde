"""Which labels have a trigger too small for chance: the anomaly index of the paper, and a test with a known error rate.

The paper (Wang et al., S&P 2019, section IV) flags a label whose anomaly index (median - size) / (1.4826 MAD) is
above 2. That is a rate per label, not per model: a clean model breaks it by chance in 33 % of cases at 10 labels and
nearly always at 1,283 (docs/evaluation.md). `outlier_test` asks the question for the model instead, on log sizes:

1. A one-sided generalised ESD (Rosner 1983, Technometrics 25:165). Take the smallest label away, then the next, up to
   half of the labels. Each is compared with the n' - 1 that are still there, by the leave-one-out t and its Bonferroni
   bound, which for the smallest of n' normal values is Grubbs' test (Grubbs 1969, Technometrics 11:1):

       t = (mean - x) / (sd sqrt(1 + 1/(n'-1))),    p = n' P(T > t),    T of Student's t, n' - 2 + d0 deg. of freedom
       sd^2 = ((n' - 2) var + d0 s0^2) / (n' - 2 + d0)

   The spread of the others is moderated (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3:1) by a prior worth d0 = 4 degrees
   of freedom, from six labels on: over data sets and networks it varies little, and nine labels say little of it. The
   prior, s0 = .22, is above what clean networks show on MNIST and Fashion-MNIST (.16 to .19) and near GTSRB's (.24):
   where labels spread less the test is conservative, where they spread by .4 the rate at 10 labels is twice alpha. A
   factor on every p (`_penalty`) makes the rate of all steps together alpha where labels are few. The last label whose
   p is small is flagged, with all the smaller ones: infected labels cannot hide each other. From 6 to 40 labels no
   log size counts as more than 3 spreads above the median (the prior's, or 1.4826 MAD if that is larger): one label
   that hardly any trigger reaches says nothing of how small clean ones are.
2. Above 40 labels, a tail check. The smallest of many is judged by how log sizes thin out far below the mean, where a
   normal tail is only a guess. There a gap must also stand out against an exponential tail, which is heavier. Under it
   the normalised spacings D_j = j (x_(j+1) - x_(j)) of the ascending values are independent and exponential (Renyi
   1953, Acta Math. Hung. 4:191), so that the gap above the i-th label against the mean of k spacings above it has

       D_i / mean(D) = F(2, 2k) distributed,    P(F > f) = (1 + f/k)^-k

   The gap is held at a level of its own, 5 %: at 1 % it would hide every other backdoor of 1.5 log units (a factor of
   4.5 in size) at 43 labels. A smaller gap will do where the labels not flagged give no sign of a tail heavier than
   the normal: neither left-skewed nor peaked. What all this costs under other tails is in docs/evaluation.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neural_cleanse.detection.statistics.means import variance_of_another
from neural_cleanse.distributions import student_t_isf, student_t_sf
from neural_cleanse.triggers.base import SMALLEST_SIZE

Floats = npt.NDArray[np.float64]

MAD_TO_SIGMA = 1.4826  # makes the MAD a standard deviation for normal data
INDEX_THRESHOLD = 2.0  # the paper's: flagged above it
# After screening (docs/scale.md): it flags at that share of alpha, and clears from that p-value on.
SCREEN_SHARE, SCREEN_CLEAR_P = 0.005, 0.2
NO_SPREAD = 1e-6  # of log sizes: under it the sizes are equal and no reference
# Added to 1 for up to 10 labels, fading as 1/n beyond: factors on the p of the first step and of every other one.
FIRST_STEP, LATER_STEPS, FEW = 0.5, 1.25, 10
MANY_LABELS = 40  # above it the tail is checked
CAPPED_FROM, CAP = 6, 3.0  # labels; spreads above the median that a log size counts for at most
TAIL_ALPHA = 0.05  # level of the tail check (or alpha, if that is larger)
TAIL_SIGN = 0.5  # standard errors of skewness and kurtosis from which the others' tail counts as not normal
TAIL_SPACINGS = 30  # that make the reference of the tail check, if half of the other labels are as many


@dataclass(frozen=True)
class Prior:
    """What is known beforehand of the spread of clean log sizes: `sd`, worth `dof` degrees of freedom.

    It is used from `labels_from` labels on: with fewer a verdict would hang on other people's data sets.
    """

    sd: float
    dof: int
    labels_from: int

    def dof_at(self, num_labels: int) -> int:
        """Degrees of freedom at that number of labels."""
        return self.dof if num_labels >= self.labels_from else 0

    def moderated(self, variance: float, dof: int, prior_dof: int) -> float:
        """The standard deviation, its variance shrunk towards the prior's."""
        return math.sqrt((dof * variance + prior_dof * self.sd**2) / (dof + prior_dof))


LABELS = Prior(0.22, 4, 6)  # sizes in px, over the labels of one model: see above
# Sizes over a baseline's: .07 to .12 between seeds on MNIST and Fashion-MNIST, .10 to .17 over a student's. It is the
# seed's spread and not the classes', so that it serves two labels as well.
OVER_BASELINE = Prior(0.12, 4, 2)
DOF_OF_ANOTHER = 4  # what each baseline beyond the first tells of the spread, in degrees of freedom
# Shifts in feature space: .08 to .19 over the labels of clean networks on MNIST and Fashion-MNIST.
FEATURES = Prior(0.16, 4, 6)


@dataclass(frozen=True)
class OutlierTest:
    """What the test says of each size, in the order given, and of the model.

    A label is flagged iff its p-value is at most alpha and, where the others do not look normal, a gap that passes the
    tail check lies above it. Where none passes, `tail_holds` is False and `flagged` still names the ESD's labels.
    """

    anomaly_index: tuple[float, ...]
    p_values: tuple[float, ...]
    p_value: float  # of the model: that no label is smaller than chance makes it
    flagged: tuple[int, ...]  # positions, the smallest size first
    detection_limit: float | None  # px
    tail_holds: bool | None  # None: not checked, for nothing was flagged or the labels are not many
    tail_p_value: float | None  # of the clearest gap under an exponential tail


def outlier_test(sizes: Sequence[float] | Floats, alpha: float, prior: Prior = LABELS) -> OutlierTest:
    """Test the trigger sizes of the labels that have one; under 3 sizes (2 over a baseline's) nothing can be flagged.

    Sizes in px, or over those of a baseline, label by label, with OVER_BASELINE as prior.
    """
    low = low_values(log_sizes(sizes), alpha, prior)
    return OutlierTest(
        anomaly_index=tuple(anomaly_index(sizes).tolist()),
        p_values=low.p_values,
        p_value=min(low.p_values, default=1.0),
        flagged=low.flagged,
        detection_limit=detection_limit(sizes, low.flagged, alpha, prior),
        tail_holds=low.tail_holds,
        tail_p_value=low.tail_p_value,
    )


@dataclass(frozen=True)
class LowValues:
    """The part of an OutlierTest that holds of any values, not of sizes alone."""

    p_values: tuple[float, ...]
    flagged: tuple[int, ...]
    tail_holds: bool | None
    tail_p_value: float | None


def low_values(values: Floats, alpha: float, prior: Prior) -> LowValues:
    """Which values lie too far below the others for chance."""
    logs = _capped(values, prior)
    order = np.argsort(logs, kind="stable")
    ascending = logs[order]
    steps = _esd(ascending, prior)
    num_flagged = int((steps <= alpha).sum())  # ascending by construction
    tail_holds, tail_p_value = None, None
    if num_flagged and len(logs) > MANY_LABELS:
        num_flagged, tail_holds, tail_p_value = check_tail(ascending, num_flagged, ascending[num_flagged:], alpha)
    p_values = np.empty_like(logs)
    p_values[order] = steps
    return LowValues(tuple(p_values.tolist()), tuple(order[:num_flagged].tolist()), tail_holds, tail_p_value)


def over_several(baselines: Sequence[Sequence[float]]) -> Prior:
    """The prior of sizes over the geometric mean of k baselines: what those differ by among themselves counts too.

    A row a baseline, a column a label. With log sizes that vary by s about the baselines' means, and each row's mean
    taken out, one more network over the mean of k varies by s sqrt(1 + 1/k), if it was made as they were. A suspect was
    not: clean ones vary by up to 1.5 times as much (fashion_mnist-depthwise), so that each further baseline counts as
    fewer degrees of freedom than it has. OVER_BASELINE for a single one.
    """
    logs = np.array([log_sizes(row) for row in baselines])
    count, labels = logs.shape
    if count < 2 or labels < 2:
        return OVER_BASELINE
    centred = logs - logs.mean(axis=1, keepdims=True)
    dof, known = (count - 1) * min(DOF_OF_ANOTHER, labels - 1), OVER_BASELINE.dof
    return Prior(
        OVER_BASELINE.moderated(variance_of_another(centred), dof, known), dof + known, OVER_BASELINE.labels_from
    )


def anomaly_index(sizes: Sequence[float] | Floats, among: Sequence[float] | Floats | None = None) -> Floats:
    """(median - size) / (1.4826 MAD), signed: positive = smaller than the median; the paper flags above 2.

    Median and MAD are of the sizes themselves, or of those they are held `among`.
    Where the MAD is 0 (half of the sizes are equal), the index is 0 at the median and plus or minus infinity beside it.
    """
    values = np.asarray(sizes, dtype=np.float64)
    if not len(values):
        return values
    reference = values if among is None else np.asarray(among, dtype=np.float64)
    below = np.median(reference) - values
    sigma = MAD_TO_SIGMA * np.median(np.abs(np.median(reference) - reference))
    if sigma > 0:
        return np.asarray(below / sigma, dtype=np.float64)
    return np.where(below == 0, 0.0, np.copysign(np.inf, below))


def detection_limit(
    sizes: Sequence[float] | Floats, flagged: Sequence[int], alpha: float, prior: Prior = LABELS
) -> float | None:
    """The size under which one more label, beside those not flagged, would have been flagged.

    With m unflagged log sizes as reference, the step's p = alpha at t = t_(m-1+d0)(alpha / (m + 1) / penalty), hence

        log limit = mean - t sd sqrt(1 + 1/m),

    and above 40 labels, where they do not look normal, also under the smallest of them by the gap that the tail check
    asks for. None where fewer than 2 labels, or only equal ones, make the reference.
    """
    logs = np.sort(np.delete(_capped(log_sizes(sizes), prior), np.asarray(flagged, dtype=np.int64)))
    m, rank = len(logs), len(flagged) + 1
    if m < 2 or logs.std(ddof=1) <= NO_SPREAD:
        return None
    known = prior.dof_at(m + rank)
    t = student_t_isf(alpha / ((m + 1) * _penalty(m + rank, first=not flagged)), m - 1 + known)
    limit = float(logs.mean() - t * prior.moderated(float(logs.var(ddof=1)), m - 1, known) * math.sqrt(1 + 1 / m))
    if len(sizes) > MANY_LABELS and not _looks_normal(logs):
        k = _num_spacings(m)
        spacings = np.arange(rank + 1, rank + 1 + k) * np.diff(logs[: k + 1])  # the label itself has D_rank
        ratio = k * math.expm1(math.log(rank / max(alpha, TAIL_ALPHA)) / k)
        limit = min(limit, float(logs[0] - ratio * spacings.mean() / rank))
    return math.exp(limit)


def log_sizes(sizes: Sequence[float] | Floats) -> Floats:
    """Their logarithms, no size counting as smaller than SMALLEST_SIZE."""
    return np.log(np.maximum(np.asarray(sizes, dtype=np.float64), SMALLEST_SIZE))


def _capped(logs: Floats, prior: Prior) -> Floats:
    """Log sizes, none of them further above the median than a clean label lies.

    Simulated false alarms at an alpha of 5 % rise by at most .4 points for normal values, 2.3 for t5.
    """
    if not CAPPED_FROM <= len(logs) <= MANY_LABELS:
        return logs
    middle = np.median(logs)
    spread = max(prior.sd, MAD_TO_SIGMA * float(np.median(np.abs(logs - middle))))
    return np.minimum(logs, middle + CAP * spread)


def _esd(ascending: Floats, prior: Prior) -> Floats:
    """A p-value for each log size: 1 for the upper half, non-decreasing.

    The label of rank j is flagged iff some step i >= j is, so its p is the smallest of the steps from j on.
    """
    n, known = len(ascending), prior.dof_at(len(ascending))
    p_values = np.ones(n)
    if n < (2 if known else 3):
        return p_values
    centred = ascending - np.median(ascending)
    sums, squares = (np.cumsum(values[::-1])[::-1] for values in (centred, centred**2))
    for step in range(min(n // 2, n - (1 if known else 2))):
        others = n - step - 1
        mean = sums[step + 1] / others
        variance = max(squares[step + 1] - others * mean**2, 0.0) / max(1, others - 1)
        if variance <= NO_SPREAD**2 and others > 1:
            break
        t = float((mean - centred[step]) / (prior.moderated(variance, others - 1, known) * math.sqrt(1 + 1 / others)))
        factor = (others + 1) * _penalty(n, first=step == 0)
        if factor * math.erfc(t / math.sqrt(2)) / 2 < 1:  # Student's tail is heavier than the normal one: else p = 1
            p_values[step] = min(1.0, factor * student_t_sf(t, others - 1 + known))
    return np.asarray(np.minimum.accumulate(p_values[::-1])[::-1], dtype=np.float64)


def _penalty(num_labels: int, *, first: bool) -> float:
    """The factor on a step's p that keeps the rate of all steps together at alpha.

    Rosner's levels hold from some 25 values on; with fewer, every step is another chance of a false alarm, which by
    simulation all but doubles the rate for 4 to 10 normal values. Paying for it with all steps costs a single infected
    label little (power .62 instead of .68 at a shift of 1.2 log units, sd .22, 10 labels) and three of ten gain much
    (.82 instead of .61 at 2 log units) against paying with the later steps alone. The rate stays under 1.15 alpha.
    """
    if num_labels < 4:  # a single step
        return 1.0
    return 1 + (FIRST_STEP if first else LATER_STEPS) * min(1.0, FEW / num_labels)


def check_tail(ascending: Floats, num_flagged: int, others: Floats, alpha: float) -> tuple[int, bool, float]:
    """How many of the flagged stay so, whether the tail holds, and the p-value of the clearest gap.

    `others` are the labels whose log sizes may show that the tail is no heavier than the normal.
    """
    gaps = _tail(ascending, num_flagged)
    passing = np.flatnonzero(gaps <= max(alpha, TAIL_ALPHA))
    normal = _looks_normal(others)
    stay = int(passing[-1]) + 1 if len(passing) and not normal else num_flagged
    return stay, normal or bool(len(passing)), float(gaps.min())


def _looks_normal(logs: Floats) -> bool:
    """Whether log sizes give no sign of a heavy low tail: a test that is meant to reject easily."""
    n, sd = len(logs), float(logs.std())
    if sd <= NO_SPREAD:
        return False
    z = (logs - logs.mean()) / sd
    skewness, excess = float((z**3).mean()), float((z**4).mean()) - 3.0
    return skewness >= -TAIL_SIGN * math.sqrt(6 / n) and excess <= TAIL_SIGN * math.sqrt(24 / n)


def _num_spacings(others: int) -> int:
    """How many spacings make the reference: low ones, since only the tail is exponential."""
    return min(TAIL_SPACINGS, others // 2)


def _tail(ascending: Floats, num_suspects: int) -> Floats:
    """p-values of the gaps above each suspect under an exponential tail, times the number of suspects."""
    k = _num_spacings(len(ascending) - num_suspects)
    spacings = np.arange(1, num_suspects + k + 1) * np.diff(ascending[: num_suspects + k + 1])
    ratio = spacings[:num_suspects] / max(float(spacings[num_suspects:].mean()), NO_SPREAD)
    return np.asarray(np.minimum(1.0, num_suspects * np.exp(-k * np.log1p(ratio / k))), dtype=np.float64)
