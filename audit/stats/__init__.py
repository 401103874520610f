"""Counts, intervals on rates, and the sequential test."""
