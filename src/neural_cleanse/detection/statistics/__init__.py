"""Outlier tests on trigger sizes. Plain numbers: nothing here knows a network."""
