"""Thresholds that decide in a scan and that reports quote."""

LOW_ACCURACY = 0.8  # of clean images: under it a scan asks whether the form of input is right
FEW_LABELS = 6  # under this many even a trigger of a few pixels is no outlier: a baseline is needed
