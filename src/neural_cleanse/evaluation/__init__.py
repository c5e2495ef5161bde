"""Scan models with known answers and count the errors."""
