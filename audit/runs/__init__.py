"""Whole audits: one adapter, a matrix, several ranks, weaker copies."""

__all__ = ["matrix", "mitigation", "ranks", "sample", "single"]
