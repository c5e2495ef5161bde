"""Keras files, read as configuration and arrays: no Keras, no code."""
