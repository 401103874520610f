"""Counts, intervals on rates, and the sequential test."""

__all__ = ["calibration", "decoding_check", "intervals", "strata", "tally"]
