"""Student's t and the binomial distribution, from the regularised incomplete beta function.

    I_x(a, b) = integral_0^x u^(a-1) (1-u)^(b-1) du / B(a, b)

    Student's t    P(T > t)  = I_(df / (df + t^2))(df/2, 1/2) / 2        for t >= 0
    binomial       P(X >= k) = I_p(k, n - k + 1)

The scan's core imports torch, numpy and safetensors alone, hence no scipy; tests hold every function against it.
Source of the continued fraction: DLMF 8.17.22, evaluated by Lentz's method (Press et al., Numerical Recipes, 6.4).
"""

import math
from collections.abc import Callable

_TINY = 1e-300  # stands for a zero denominator in Lentz's method
_PRECISION = 1e-16
_MAX_TERMS = 100_000  # some sqrt(max(a, b)) are needed


def regularised_incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b) for a, b > 0 and 0 <= x <= 1."""
    return _incomplete_beta(a, b, x, 1 - x)


def student_t_sf(t: float, df: float) -> float:
    """P(T > t) for Student's t with `df` degrees of freedom; a relative error under 1e-10 deep into the tail."""
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    ratio = t * t / df
    upper = 0.5 if ratio == 0 else _incomplete_beta(df / 2, 0.5, 1 / (1 + ratio), ratio / (1 + ratio)) / 2
    return upper if t >= 0 else 1 - upper


def student_t_isf(p: float, df: float) -> float:
    """The t that a Student's t with `df` degrees of freedom exceeds with probability p, 0 < p < 1."""
    if p > 0.5:
        return -student_t_isf(1 - p, df)
    high = 1.0
    while student_t_sf(high, df) > p:
        high *= 2
    return _bisect(lambda t: student_t_sf(t, df) <= p, 0.0, high)


def binomial_sf(k: int, n: int, p: float) -> float:
    """P(X >= k) for X hits in n trials of probability p. (scipy's `binom.sf(k - 1, n, p)`.)"""
    if k <= 0:
        return 1.0
    return 0.0 if k > n else regularised_incomplete_beta(k, n - k + 1, p)


def clopper_pearson(hits: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The exact two-sided confidence interval of a proportion (Clopper and Pearson 1934, Biometrika 26).

    Its ends are the proportions under which `hits` or more, or `hits` or fewer, have probability (1 - level) / 2.
    Without trials it is (0, 1).
    """
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else _bisect(lambda p: binomial_sf(hits, trials, p) >= tail, 0.0, 1.0)
    high = 1.0 if hits == trials else 1 - _bisect(lambda q: binomial_sf(trials - hits, trials, q) >= tail, 0.0, 1.0)
    return low, high


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """I_x(a, b) with `rest` = 1 - x, given apart so that neither end loses digits."""
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # beyond, the fraction converges slowly
        return 1 - _incomplete_beta(b, a, rest, x)
    log_x = math.log(x) if x < 0.5 else math.log1p(-rest)
    log_rest = math.log(rest) if rest < 0.5 else math.log1p(-x)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return math.exp(a * log_x + b * log_rest - log_beta) / (a * _fraction(a, b, x))


def _fraction(a: float, b: float, x: float) -> float:
    """1 + d_1 / (1 + d_2 / (1 + ...)), the denominator of DLMF 8.17.22."""
    value, c, d = 1.0, 1.0, 0.0
    for term in range(1, _MAX_TERMS):
        m = term // 2
        if term % 2:
            numerator = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            numerator = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / ((1 + numerator * d) or _TINY)
        c = (1 + numerator / c) or _TINY
        value *= c * d
        if abs(c * d - 1) <= _PRECISION:
            break
    return value


def _bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The smallest x in [low, high] where `holds` is true, for a condition false below it and true above."""
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return high
        if holds(middle):
            high = middle
        else:
            low = middle
