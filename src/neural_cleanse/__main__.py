"""`python -m neural_cleanse`."""

from neural_cleanse.cli.main import run

run()
