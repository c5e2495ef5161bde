"""The front door for Python: whatever model and images a PyTorch user has, to a scan, a repair or a guard."""
