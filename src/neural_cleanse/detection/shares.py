"""How the tests of one scan share alpha (weighted Bonferroni): a p-value is divided by its test's share."""

from neural_cleanse.results.kind import Kind

SHARES = {
    Kind.PATCH: 0.5,
    Kind.FEATURE: 0.15,
    Kind.PAIRS: 0.1,
    Kind.ALL_TO_ALL: 0.05,  # maps that are planted have a p of .0001 and less
    Kind.FEATURE_ALL_TO_ALL: 0.05,
    Kind.MARGIN: 0.15,
}


def over_share(p_value: float, share: float) -> float:
    """The p-value that flags at alpha."""
    return min(1.0, p_value / share)
