"""Disarm what a scan found: an input filter, pruned neurons, an unlearned trigger (Wang et al. 2019, section VI)."""
