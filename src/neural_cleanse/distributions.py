"""Student's t and the binomial distribution, as plain numbers in and out."""

from scipy import special


def student_t_sf(t: float, df: float) -> float:
    """P(T > t) for Student's t with `df` degrees of freedom, precise deep into the tail."""
    return float(special.stdtr(df, -t))


def student_t_isf(p: float, df: float) -> float:
    """The t that a Student's t with `df` degrees of freedom exceeds with probability p, 0 < p < 1."""
    return float(-special.stdtrit(df, p))


def binomial_sf(k: int, n: int, p: float) -> float:
    """P(X >= k) for X hits in n trials of probability p."""
    if k <= 0:
        return 1.0
    return 0.0 if k > n else float(special.betainc(k, n - k + 1, p))


def clopper_pearson(hits: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The exact two-sided confidence interval of a proportion (Clopper and Pearson 1934, Biometrika 26).

    Its ends are the proportions under which `hits` or more, or `hits` or fewer, have probability (1 - level) / 2.
    Without trials it is (0, 1).
    """
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(special.betaincinv(hits, trials - hits + 1, tail))
    high = 1.0 if hits == trials else float(special.betaincinv(hits + 1, trials - hits, 1 - tail))
    return low, high
