"""Which labels a network answers with a far larger margin than its students ever do.

A backdoor gives its label a way to large logits that the classes do not need, whatever its trigger looks like: the
largest margin that any input reaches is far above that of other labels (MM-BD; Wang et al., S&P 2024). By nature labels
differ in it as much. So it is compared with that in students, label by label. A network that was trained for longer
answers every label with a larger margin, so each network's are over their median:

    gain = relative margin in the suspect - mean of the relative margins in k students,    tested as log sizes are

Students among themselves say how far a clean network may lie from them: their variance, times 1 + 1/k, is the prior.
"""

import math
from collections.abc import Sequence

import numpy as np

from neural_cleanse.detection.statistics.means import variance_of_another
from neural_cleanse.detection.statistics.outlier import NO_SPREAD, Floats, LowValues, Prior, low_values

# What each student beyond the first tells of the spread, in degrees of freedom: suspects vary by up to 1.8 times as
# much as students do.
DOF_OF_ANOTHER = 2


def margin_test(own: Sequence[float], students: Sequence[Sequence[float]], alpha: float) -> LowValues:
    """Test the largest margins of the labels (logits) against those in one student and more.

    With one student the labels alone say how far clean ones lie apart, and nothing should be flagged by that.
    """
    theirs = np.array([_relative(one) for one in students])
    mean = theirs.mean(axis=0)
    count, labels = theirs.shape
    known = Prior(0.0, 0, labels)
    if count > 1 and labels > 1:
        spread = max(NO_SPREAD, math.sqrt(variance_of_another(theirs)))
        known = Prior(spread, (count - 1) * DOF_OF_ANOTHER, 2)
    return low_values(mean - _relative(own), alpha, known)


def _relative(margins: Sequence[float]) -> Floats:
    """Over their median; all alike where that is not above 0, as it is where a network answers its labels."""
    values = np.nan_to_num(np.asarray(margins, dtype=np.float64))
    middle = float(np.median(values))
    return np.asarray(values / middle if middle > 0 else np.ones_like(values))
