"""Hugging Face directories: our own reading of the files, transformers' networks."""
