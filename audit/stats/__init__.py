"""Counts, intervals on rates, and the sequential test."""

__all__ = ["membership", "sequential", "tally"]
