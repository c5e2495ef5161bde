"""The outlier test where not all labels got the same effort: against labels that were drawn at random beforehand.

A search over many labels finishes those that look small early, and m reference labels drawn before the first step. The
log size x of every finished label is compared with those of the references, itself left out:

    t = (mean - x) / (sd sqrt(1 + 1/m)),    p = N P(T > t),    T of Student's t, m - 1 + d0 degrees of freedom

with the moderated spread of `outlier`. The factor N, the number of ALL labels, pays for having picked the smallest of
them: whichever labels a search finishes, each label had one chance to be called small. References that are themselves
small leave the reference, the smallest first, as in the generalised ESD. What is flagged must pass the tail check of
`outlier` among the smallest labels, unless the references give no sign of a tail heavier than the normal. References
see a heavy tail the better the more they are: where log sizes have the tails of Student's t with 5 degrees of freedom,
64, 128 and 192 of them flag 25, 19 and 17 % of clean models of 1,283 labels at alpha 1 %, and 15 % without exception.
"""

import math
from collections.abc import Sequence

import numpy as np

from neural_cleanse.detection.statistics.outlier import (
    LABELS,
    MANY_LABELS,
    NO_SPREAD,
    Floats,
    OutlierTest,
    Prior,
    anomaly_index,
    check_tail,
    log_sizes,
)
from neural_cleanse.distributions import student_t_isf, student_t_sf


def reference_test(
    sizes: Sequence[float] | Floats, is_reference: Sequence[bool], num_labels: int, alpha: float, prior: Prior = LABELS
) -> OutlierTest:
    """Test the sizes (px) of the finished labels of `num_labels`; under 3 references nothing can be flagged."""
    logs, held = log_sizes(sizes), np.asarray(is_reference, dtype=bool)
    reference = _without_small(np.sort(logs[held]), num_labels, alpha, prior)
    p_values = np.array([_p_value(x, _left_out(reference, x) if of_it else reference, num_labels, prior)
                         for x, of_it in zip(logs, held, strict=True)])  # fmt: skip
    order = np.argsort(logs, kind="stable")
    num_flagged = int((p_values <= alpha).sum())
    tail_holds, tail_p_value = None, None
    if num_flagged and num_labels > MANY_LABELS:
        num_flagged, tail_holds, tail_p_value = check_tail(logs[order], num_flagged, reference, alpha)
    return OutlierTest(
        anomaly_index=tuple(anomaly_index(sizes, np.asarray(sizes, dtype=np.float64)[held]).tolist()),
        p_values=tuple(p_values.tolist()),
        p_value=float(p_values.min(initial=1.0)),
        flagged=tuple(order[:num_flagged].tolist()),
        detection_limit=_limit(reference, num_labels, alpha, prior),
        tail_holds=tail_holds,
        tail_p_value=tail_p_value,
    )


def _without_small(ascending: Floats, num_labels: int, alpha: float, prior: Prior) -> Floats:
    """The references that none of the larger ones makes small: up to half of them may go."""
    small = 0
    for step in range(len(ascending) // 2):
        if _p_value(ascending[step], ascending[step + 1 :], num_labels, prior) <= alpha:
            small = step + 1
    return ascending[small:]


def _left_out(reference: Floats, x: float) -> Floats:
    """The reference without one label of that log size, if it is in it."""
    place = int(np.searchsorted(reference, x))
    inside = place < len(reference) and reference[place] == x
    return np.delete(reference, place) if inside else reference


def _p_value(x: float, others: Floats, num_labels: int, prior: Prior) -> float:
    m = len(others)
    variance = _variance(others)
    if math.sqrt(variance) <= NO_SPREAD:
        return 1.0
    t = float(others.mean() - x) / (_spread(variance, m, prior) * math.sqrt(1 + 1 / m))
    return min(1.0, num_labels * student_t_sf(t, m - 1 + prior.dof_at(m + 1)))


def _limit(reference: Floats, num_labels: int, alpha: float, prior: Prior) -> float | None:
    """The size under which a label is flagged, px."""
    m = len(reference)
    variance = _variance(reference)
    if math.sqrt(variance) <= NO_SPREAD:
        return None
    t = student_t_isf(alpha / num_labels, m - 1 + prior.dof_at(m + 1))
    return math.exp(float(reference.mean()) - t * _spread(variance, m, prior) * math.sqrt(1 + 1 / m))


def _variance(others: Floats) -> float:
    """That of the log sizes; 0 where there are fewer than two."""
    return float(others.var(ddof=1)) if len(others) > 1 else 0.0


def _spread(variance: float, m: int, prior: Prior) -> float:
    return prior.moderated(variance, m - 1, prior.dof_at(m + 1))
