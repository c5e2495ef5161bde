"""Find one trigger a label pair by gradient (Wang et al., IEEE S&P 2019, section IV)."""
