"""Infected models with a known answer. Shares the trigger classes with the search and nothing else of it."""
