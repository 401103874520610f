"""Counts, intervals on rates, and the sequential test."""

__all__ = ["calibration", "intervals", "sequential", "tally"]
