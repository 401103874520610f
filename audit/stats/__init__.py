"""Counts, intervals on rates, and the sequential test."""

__all__ = ["intervals", "membership", "sequential", "tally"]
