"""Scan many models with one command."""
