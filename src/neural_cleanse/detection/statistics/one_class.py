"""How improbable a small patch between two labels is, by the other pairs of the network and by its students together.

p1 says how small a pair's patch is among the pairs of the suspect (pairs.py). The students have the same classes: their
patches between the same labels are as large where nothing was planted. p2 says how far under theirs the suspect's is:

    p2 = P(T > -log(ratio) / RATIO_SD),     T of Student's t with RATIO_DOF degrees of freedom
    p  = p1 p2 (1 - log(p1 p2))              (Fisher 1932: the product of two independent p-values)

The ratio is to the student with the smallest patch: one that has as small a patch as the suspect shows that the classes
have it. A patch that takes more than PLANTED of that size needs both to be small: p = max(p1, p2).
"""

import math

from neural_cleanse.distributions import student_t_sf

# Of log ratios to students: the pairs that stand out most and are not planted, 88 of 21 networks of eight kinds.
RATIO_SD, RATIO_DOF = 0.25, 5
LEAST_RATIO = 1e-3  # a pair for which students have no trigger at all has ratio 0
# Of the size in the student with the smallest patch: planted triggers have .11 to .38; of those 88 pairs three have
# under .54 and none under .43.
PLANTED, NATURAL = 0.4, 0.5


def pair_p(p_value: float, ratio: float) -> float:
    """Of a pair with that p-value among the pairs, and that size over its size in students."""
    theirs = student_t_sf(-math.log(max(ratio, LEAST_RATIO)) / RATIO_SD, RATIO_DOF)
    product = p_value * theirs
    if ratio > PLANTED:
        return max(p_value, theirs)
    return min(1.0, product * (1 - math.log(product))) if product > 0 else 0.0
