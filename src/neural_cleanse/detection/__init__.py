"""From triggers to a verdict (Wang et al., IEEE S&P 2019, section V)."""
