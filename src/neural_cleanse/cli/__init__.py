"""The command line: one file a command."""

import os

# Read by OpenMP when torch loads: waiting threads that spin make a busy machine up to 15 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
